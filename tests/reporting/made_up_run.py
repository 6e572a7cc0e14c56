"""A made-up run with numbers as real runs have them: two models, five defenses, every kind of attack and of row."""

import json
import math

import numpy as np

from attacks import ThreatModel
from fedsim import table
from fedsim.runs.results import History

VICTIMS = 10
HOSTILE = "<script>window.hacked = 1</script>"
DEFENSES = {  # label: (effective dropout, parts, median PSNR of IG, DIA, WIIG)
    "none": (0.0, [{"name": "none"}], 62.0, 61.0, 62.5),
    "dropout(p=0.25)": (0.25, [{"name": "dropout", "p": 0.25}], 14.0, 57.0, 60.0),
    "dropout(p=0.5)": (0.5, [{"name": "dropout", "p": 0.5}], 11.5, 52.0, 58.0),
    "gaussian_noise(std=0.01)": (0.0, [{"name": "gaussian_noise", "std": 0.01}], 17.5, 17.0, 17.6),
    f"clip(norm=1.0) + {HOSTILE}": (0.0, [{"name": "clip", "norm": 1.0}], 60.0, 59.5, 60.5),
}
UTILITY = {"none": 0.91, "dropout(p=0.25)": 0.905, "dropout(p=0.5)": 0.89, "gaussian_noise(std=0.01)": 0.62}
ATTACKS = ("inverting_gradients", "dropout_inversion", "well_informed", "null_mean", "null_random")


def row(**values):
    """One scored row of an ordinary attack; keywords replace."""
    psnr = values.get("psnr", 20.0)
    if "defense" in values and "defense_params" not in values:
        values["defense_params"] = json.dumps([{"name": values["defense"]}])
    threat = {f"threat_{name}": value for name, value in ThreatModel().as_dict().items()}
    return {
        "run": "made-up",
        "scenario": "made-up",
        "cell": "cell",
        "seed": 0,
        "round": 1,
        "client": 0,
        "sample": 0,
        "dataset": "mnist",
        "model": "mlp",
        "model_params": "{}",
        "dropout": 0.0,
        "defense": "none",
        "defense_params": "[]",
        "batch_size": 1,
        "local_steps": 1,
        "attack": "inverting_gradients",
        "attack_params": "{}",
        "details": "{}",
        "oracle": False,
        "letter": "C",
        "beyond": "",
        **threat,
        "status": "ok",
        "model_state": "init",
        "update_kind": "gradient",
        "update_precision": "float32",
        "psnr": psnr,
        "mse": 10 ** (-psnr / 10),
        "leaked_psnr": psnr > 19,
        "leaked_ssim": psnr > 17,
        "bit_exact": psnr > 55,
        "device": "cpu",
        "fedsim_version": "0.1.0",
        **values,
    }


def unscored(*, status, reason, **values):
    """A row without scores; what failed is a client that sent nothing, unless `observed` says otherwise."""
    scores = ("psnr", "mse", "leaked_psnr", "leaked_ssim", "bit_exact")
    return row(**values) | dict.fromkeys(scores) | {
        "status": status,
        "reason": reason,
        "observed": values.get("observed", status != "failed"),
    }


def board_rows(**medians):
    """Eight victims for each attack, spread evenly by 1 dB about the given median PSNR."""
    offsets = np.linspace(-0.5, 0.5, 8)
    return table.frame(
        [row(attack=name, client=i, psnr=m + offset) for name, m in medians.items() for i, offset in enumerate(offsets)]
    )


def make_results():
    random = np.random.default_rng(0)
    rows = []
    for model, penalty in (("mlp", 0.0), ("lenet", -6.0)):
        for d, (defense, (dropout, parts, ig, dia, wiig)) in enumerate(DEFENSES.items()):
            for attack, centre in zip(ATTACKS, (ig, dia, wiig, 12.2, 9.8)):
                common = {
                    "cell": f"{model}-{d}",
                    "model": model,
                    "model_params": json.dumps({"dropout": dropout, "width": 512}),
                    "dropout": dropout,
                    "defense": defense,
                    "defense_params": json.dumps(parts),
                    "attack": attack,
                    "attack_params": "{}" if "null" in attack else '{"iterations": 2000}',
                    "oracle": attack == "well_informed",
                    "utility": UTILITY.get(defense, 0.9) + penalty / 300,
                    "epsilon": 8.2 if defense.startswith("gaussian") else None,
                    "delta": 1e-5 if defense.startswith("gaussian") else None,
                }
                if attack == "well_informed":
                    common["threat_noise"] = "known"
                    if dropout == 0:
                        reason = "the client drew no noise; inverting_gradients is the same attack"
                        rows += [
                            unscored(**common, client=c, status="not_applicable", reason=reason) for c in range(VICTIMS)
                        ]
                        continue
                for client in range(VICTIMS):
                    if client == 7 and defense.startswith("clip"):
                        reason = f"the client returned NaN {HOSTILE}"
                        rows.append(unscored(**common, client=client, status="failed", reason=reason))
                        continue
                    guess = "null" in attack
                    psnr = max(6.0, centre + (0 if guess else penalty) + random.normal(0, 1.0 if guess else 3.0))
                    rows.append(
                        row(
                            **common,
                            client=client,
                            psnr=psnr,
                            ssim=float(np.clip(0.05 + 0.02 * psnr, -0.02, 1)),
                            lpips=float(np.clip(0.75 - 0.012 * psnr, 0, 1)),
                            label_correct=None if guess else True,
                            mask_accuracy=0.97 if attack == "dropout_inversion" and dropout else None,
                            mask_accuracy_layers='{"drop.0": 0.98, "drop.1": 0.96}'
                            if attack == "dropout_inversion" and dropout
                            else None,
                            attack_loss=math.exp(-psnr / 8),
                            iterations=0 if guess else int(random.integers(900, 2000)),
                            seconds=0.004 if guess else 1.7,
                            job=f"{model}/{d}/{attack}",
                            picture=client,
                        )
                    )
    return table.frame(rows)


def make_pictures(job):
    """Seven-segment-like random strokes, and reconstructions with noise of about the size that the PSNR says."""
    model, d, attack = job.split("/")
    if (model, d, attack) == ("lenet", "2", "null_random"):
        raise FileNotFoundError("pictures.npz")
    random = np.random.default_rng(1)
    originals = np.zeros((VICTIMS, 28, 28, 1), np.uint8)
    for image in originals:
        for _ in range(4):
            x, y = random.integers(4, 22, 2)
            image[y : y + 3, 4:24] = 220 if random.random() < 0.5 else 0
            image[4:24, x : x + 3] = 250
    centre = dict(zip(ATTACKS, (*list(DEFENSES.values())[int(d)][2:], 12.2, 9.8)))[attack]
    noise = np.random.default_rng(2).normal(0, 255 * 10 ** (-centre / 20), originals.shape)
    if attack == "null_mean":
        return originals, np.broadcast_to(originals.mean(0, keepdims=True), originals.shape).astype(np.uint8)
    return originals, np.clip(originals + noise, 0, 255).astype(np.uint8)


def make_history():
    return [
        History(
            cell=f"{model}-{d}",
            model=model,
            defense=defense,
            seed=0,
            accuracy=[0.1, 0.31 - 0.02 * d, 0.52 - 0.03 * d, 0.6 - 0.03 * d],
            accounting_note="as if Poisson-sampled" if defense.startswith("gaussian") else "",
        )
        for model in ("mlp", "lenet")
        for d, defense in enumerate(DEFENSES)
    ]


SCENARIO = {
    "name": f"made-up {HOSTILE}",
    "description": "Does dropout protect a client?",
    "seeds": [0],
    "data": {"name": "mnist"},
    "model": {"name": "mlp"},
    "federation": {"clients": 10, "rounds": 3},
    "attacks": [{"name": "inverting_gradients", "iterations": 2000}],
    "defenses": ["none", {"name": "dropout", "p": 0.5}],
    "utility": {"rounds": 20},
}
