"""How long the leaderboard's site takes to build, and to filter in Chromium, with 2,000 made-up entries.

    python benchmarks/site.py [ENTRIES]

A filtering is timed in the page, from the change of a field until the new rows are laid out. `first rows` is the page
as it opens, with at most 50 rows of a table shown; `all rows` is after "Show all".
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from attacks import ThreatModel
from fedsim.files import write_bytes, write_json
from fedsim.reporting import site
from fedsim.reporting.entries import read
from fedsim.reporting.entries.entry import FORMAT, Entry
from fedsim.reporting.entries.parts import Cost, Picture, digest
from fedsim.reporting.entries.pictures import sprite_of
from fedsim.scoring import intervals
from fedsim.table import LEAKED_PSNR

DATASETS, MODELS, RATES, BATCHES = ("mnist", "cifar10", "digits", "faces"), ("mlp", "lenet", "resnet", "vit"), 5, (1, 8)
ATTACKS = ("inverting_gradients", "dropout_inversion", "cut", "dlg", "well_informed", "null_mean", "null_random")
ROLES = {"well_informed": "oracle", "null_mean": "floor", "null_random": "floor"}


def made_up(directory: Path, count: int) -> None:
    """Write entries with pictures, `count` of them: every combination, repeated as one scenario after the other."""
    random = np.random.default_rng(0)
    combinations = list(itertools.product(DATASETS, MODELS, range(RATES), BATCHES, ATTACKS))
    axes = ((scenario, *one) for scenario in itertools.count() for one in combinations)
    for scenario, dataset, model, step, batch, attack in itertools.islice(axes, count):
        rate = step / 5
        middle = 12 + 40 * random.random()
        entry = Entry.model_validate(_content(scenario, dataset, model, rate, batch, attack, middle))
        originals = random.integers(0, 255, (6, 28, 28, 1), np.uint8)
        sprite = sprite_of([(image, np.roll(image, 1), middle) for image in originals])
        picture = Picture(file=f"{entry.stem}.png", sha256=sprite.sha256, tile=sprite.tile, psnr=sprite.psnr)
        write_bytes(directory / picture.file, sprite.png)
        entry = entry.model_copy(update={"picture": picture})
        write_json(directory / f"{entry.stem}.json", entry.model_dump(mode="json"))


def _content(
    scenario: int, dataset: str, model: str, rate: float, batch: int, attack: str, middle: float
) -> dict[str, Any]:
    scores = [middle + offset for offset in (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0)]
    low, high = intervals.of_median(scores)
    psnr = {"value": middle, "low": low, "high": high}
    leaked = float(np.mean([score > LEAKED_PSNR for score in scores]))
    definition = {"name": f"made-up-{scenario}"}
    share = {"value": 0.5, "low": 0.3, "high": 0.7}
    defense = f"dropout(p={rate:g})" if rate else "none"
    return {
        "format": FORMAT,
        "setting": {
            "label": f"{dataset} · {model}",
            "dataset": dataset,
            "model": model,
            "params": {"width": 512},
            "batch_size": batch,
            "local_steps": 1,
            "update_kind": "gradient" if batch == 1 else "delta",
            "conditions": {
                "data": {"name": dataset},
                "model": {"name": model, "width": 512, "dropout": 0.0},
                "federation": {"local": {"batch_size": batch, "steps": 1}},
                "round": 1,
            },
        },
        "defense": {
            "label": defense,
            "parts": [{"name": "dropout", "p": rate} if rate else {"name": "none"}],
            "dropout": rate,
        },
        "attack": {
            "label": attack,
            "name": attack,
            "params": {"iterations": 2000},
            "role": ROLES.get(attack, "attack"),
        },
        "threat_model": ThreatModel(labels="known" if batch == 1 else "inferred").as_dict(),
        "scores": {
            "psnr": psnr,
            "ssim": share,
            "lpips": share,
            "mask_accuracy": share if rate else None,
            "leaked_psnr": {"value": leaked, "low": 0.0, "high": 1.0},
            "leaked_ssim": share,
            "bit_exact": share,
            "label_accuracy": 1.0,
            "level": intervals.level(len(scores)),
            "coverage": 1.0,
            "chosen_psnr": None,
        },
        "cost": {
            **dict.fromkeys(Cost.model_fields),
            "iterations": 2000.0,
            "seconds": 3.5,
            "utility": 0.9 - rate / 20,
        },
        "victims": {
            "attacked": len(scores),
            "answered": len(scores),
            "clients": len(scores),
            "not_applicable": 0,
            "failed": 0,
            "reason": None,
            "stages": None,
            "values": [
                {"seed": 0, "round": 1, "client": client, "sample": 0, "psnr": score, "answered": True}
                for client, score in enumerate(scores)
            ],
        },
        "source": {
            "scenario": f"made-up-{scenario}",
            "scenario_hash": digest(definition),
            "definition": definition,
            "salt": None,
            "seeds": [0, 1],
            "command": f"fedsim run made-up-{scenario}",
            "fedsim_version": "0.1.0",
            "hardware": ["cpu"],
            "environments": [],
        },
        "verified": [],
        "picture": None,
    }


FILTERINGS = [
    ("model", "vit"),
    ("model", ""),
    ("dataset", "mnist"),
    ("dropout", "0.4"),
    ("dropout", ""),
    ("dataset", ""),
]
FILTERINGS += [("q", text) for text in ("d", "dr", "dro", "drop", "zzz", "")]


def filter_milliseconds(page: Any) -> list[float]:
    """Milliseconds of filterings by choice and by typing, each with the layout that follows."""
    return page.evaluate(
        """steps => { const form = document.querySelector(".filters"); return steps.map(([name, value]) => {
            const start = performance.now();
            form.elements[name].value = value;
            form.elements[name].dispatchEvent(new Event("input", {bubbles: true}));
            document.body.getBoundingClientRect();
            return performance.now() - start; }); }""",
        [list(step) for step in FILTERINGS],
    )


def main(count: int) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        entries, target = Path(folder) / "entries", Path(folder) / "site"
        made_up(entries, count)
        started = time.perf_counter()
        collection = read(entries)
        index = site.write(target, collection.entries, entries)
        taken = time.perf_counter() - started
        pages = len(list(target.glob("*.html")))
        print(f"{len(collection.entries)} entries read, {pages} pages built in {taken:.1f} s; ", end="")
        print(f"index.html {index.stat().st_size / 1e6:.1f} MB")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page()
            started = time.perf_counter()
            page.goto(index.as_uri())
            print(f"index.html opened in {time.perf_counter() - started:.2f} s")
            for rows in ("first rows", "all rows"):
                if rows == "all rows":
                    page.locator("[data-board=attacks] .more").click()
                times = filter_milliseconds(page)
                print(f"filter, {rows}: median {statistics.median(times):.0f} ms, most {max(times):.0f} ms")
            browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
