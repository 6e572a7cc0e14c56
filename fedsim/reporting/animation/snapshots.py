"""What the snapshots of a job say of one image on its way, and where it went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedsim import answers, decoders, observations, records, table
from fedsim.answers import Account, JobSpec, Outcome
from fedsim.data.dataset import pixels
from fedsim.errors import BadInput, Damaged
from fedsim.files import read_tensors
from fedsim.runs import reading
from fedsim.runs.directory import RunDirectory

HOW = "set `engine: {record: {every: 200}}` in the scenario and run it again"


@dataclass(frozen=True)
class Emerging:
    """One image of one victim on its way.

    Args:
        iterations, losses: S of each, of the snapshots; then those of the answer.
        images: (S + 1, H, W) or (S + 1, H, W, 3) uint8; the answer's last.
        layer: the stochastic layer whose noise is shown, "" if the attack assumed none.
        masks: (S + 1, height, width) in [0, 1], NaN where a rectangle has no entry; the answer's last.
        legend: what the masks' tones mean.
        original: as an image; None where scoring has stored none.
    """

    title: str
    iterations: Sequence[int]
    losses: Sequence[float]
    images: np.ndarray
    layer: str
    masks: np.ndarray | None
    legend: str
    original: np.ndarray | None


def recorded(directory: RunDirectory) -> list[dict[str, Any]]:
    """The jobs that have snapshots: what they are, how many images of victims, and how many snapshots of each."""
    settings = _table(directory).select("cell", "model", "defense").unique("cell", keep="first", maintain_order=True)
    by_cell = {cell: (model, defense) for cell, model, defense in settings.iter_rows()}
    found = []
    for path in sorted((directory.path / "jobs").glob("*/snapshots.safetensors")):
        spec, _ = _answer(path.parent)
        kept = _tensors(path)
        victims = _victims(kept)
        model, defense = by_cell.get(spec.cell, ("–", "–"))
        found.append(
            {
                "job": path.parent.name,
                "attack": spec.attack["name"],
                "model": model,
                "defense": defense,
                "round": spec.round,
                "victims": len(victims),
                "snapshots": max(len(kept[f"{client}.iterations"]) for client, _ in victims),
            }
        )
    return found


def job_named(directory: RunDirectory, prefix: str) -> str:
    """The key of the job that starts so. Raises BadInput if there is none, or more than one."""
    keys = sorted(path.parent.name for path in (directory.path / "jobs").glob("*/job.json"))
    matching = [key for key in keys if key.startswith(prefix)]
    if not matching:
        raise BadInput(
            f"{directory.path}: no finished job {prefix!r}; without JOB, fedsim animate lists those to choose from"
        )
    if len(matching) > 1 and prefix not in matching:
        shown = ", ".join(matching[:4]) + (", ..." if len(matching) > 4 else "")
        raise BadInput(f"{directory.path}: {prefix!r} is the start of {len(matching)} jobs ({shown}); give more of it")
    return prefix if prefix in matching else matching[0]


def emerging(directory: RunDirectory, job: str, victim: int) -> Emerging:
    """What a job's snapshots say of its recorded image number `victim`.

    Raises:
        BadInput: no snapshots, no such victim, or a damaged file.
    """
    folder = directory.job(job)
    spec, account = _answer(folder)
    name = spec.attack["name"]
    if not (folder / "snapshots.safetensors").exists():
        if spec.engine.record is not None:
            raise BadInput(f"{folder}: {name} has no snapshots: it optimised nothing here")
        raise BadInput(f"{folder}: no snapshots were recorded; {HOW}")
    kept, answer = _tensors(folder / "snapshots.safetensors"), _tensors(folder / "reconstructions.safetensors")
    victims = _victims(kept)
    if not 0 <= victim < len(victims):
        raise BadInput(f"--victim {victim}: {folder.name} has {len(victims)} recorded images; 0 to {len(victims) - 1}")
    client, number = victims[victim]
    final = _final_pixels(directory, spec, client, answer[f"{client}.images"][number])
    images = np.stack([*(_picture(image) for image in kept[f"{client}.images"][:, number]), final])
    layer, masks, legend = _masks(kept, answer, client, number)
    sample, original = _original(directory, spec, account, client, final)
    outcome = account.outcomes[int(client)]
    return Emerging(
        title=f"{name}, {_whose(outcome, client)}" + ("" if sample is None else f", sample {sample}"),
        iterations=[*kept[f"{client}.iterations"].tolist(), outcome.iterations or 0],
        losses=[*kept[f"{client}.losses"].tolist(), math.nan if outcome.loss is None else outcome.loss],
        images=images,
        layer=layer,
        masks=masks,
        legend=legend,
        original=original,
    )


def _whose(outcome: Outcome, client: str) -> str:
    return f"sum over {len(outcome.of)} clients" if outcome.of else f"client {client}"


def _victims(kept: dict[str, Any]) -> list[tuple[str, int]]:
    """Every recorded image: its client and its number in the attack's own order."""
    clients = sorted((name.removesuffix(".images") for name in kept if name.endswith(".images")), key=int)
    return [(client, number) for client in clients for number in range(kept[f"{client}.images"].shape[1])]


def _masks(
    kept: dict[str, Any], answer: dict[str, Any], client: str, number: int
) -> tuple[str, np.ndarray | None, str]:
    """The first stochastic layer's noise over the snapshots and in the answer, as near-square pictures in [0, 1]."""
    start = f"{client}.noise."
    layers = [name for name in kept if name.startswith(start) and name in answer]
    if not layers:
        return "", None, ""
    name = min(layers, key=_natural)
    noise = np.stack([*kept[name][:, number].float().numpy(), answer[name][number].float().numpy()])
    flat = noise.reshape(len(noise), -1)
    low, high = min(0.0, float(flat.min())), max(1.0, float(flat.max()))
    height, width = _near_square(flat.shape[1])
    padded = np.full((len(flat), height * width), np.nan)
    padded[:, : flat.shape[1]] = (flat - low) / (high - low)
    legend = "light: dropped, blue: kept" if (low, high) == (0, 1) else f"light: {low:.2g}, blue: {high:.2g}"
    return name.removeprefix(start), padded.reshape(len(flat), height, width), legend


def _near_square(count: int) -> tuple[int, int]:
    """Height and width of a picture of so many entries; without a remainder if it is at most twice as wide as high."""
    root = math.isqrt(count)
    for height in range(root, 0, -1):
        if count % height == 0 and count // height <= 2 * height:
            return height, count // height
    width = math.ceil(math.sqrt(count))
    return math.ceil(count / width), width


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key: numbers in a module's path by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _picture(image: Any) -> np.ndarray:
    """(C, H, W) uint8 as (H, W), or (H, W, 3)."""
    array = image.permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array


def _final_pixels(directory: RunDirectory, spec: JobSpec, client: str, image: Any) -> np.ndarray:
    seen = observations.recorded(directory.cell(spec.cell), spec.round, int(client), records.Shown)["observation"]
    [shown] = pixels(image[None], mean=seen["mean"], std=seen["std"])
    return shown[..., 0] if shown.shape[-1] == 1 else shown


def _original(
    directory: RunDirectory, spec: JobSpec, account: Account, client: str, final: np.ndarray
) -> tuple[int | None, np.ndarray | None]:
    """Which sample the image was matched to, and its original, from the pictures of the job's score."""
    rows = _table(directory).filter(
        pl.col("cell") == spec.cell,
        pl.col("attack") == spec.attack["name"],
        pl.col("attack_params") == decoders.params_of(spec.attack),
        pl.col("round") == spec.round,
        pl.col("client").is_in(account.outcomes[int(client)].of or [int(client)]),
        pl.col("picture").is_not_null(),
        *(pl.col(f"threat_{aspect}") == value for aspect, value in account.threat_model.as_dict().items()),
    )
    if rows.is_empty():
        return None, None
    rows = rows.filter(pl.col("job") == rows["job"][0])
    try:
        originals, matched = reading.pictures(directory, rows["job"][0])
    except FileNotFoundError:
        return None, None
    flat = final.astype(float).ravel()  # the pictures are in the truth's order: this image is the one that equals it
    best = min(
        rows.to_dicts(), key=lambda row: float(np.abs(matched[row["picture"]].astype(float).ravel() - flat).sum())
    )
    original = originals[best["picture"]]
    return best["sample"], original[..., 0] if original.shape[-1] == 1 else original


def _table(directory: RunDirectory) -> pl.DataFrame:
    """The run's rows so far; empty where they cannot be read."""
    try:
        return reading.results(directory)
    except BadInput:
        return table.empty()


def _answer(folder: Path) -> tuple[JobSpec, Account]:
    try:
        return answers.read(folder)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise BadInput(
            f"{folder / 'job.json'}: missing or damaged; delete {folder} and run the scenario again"
        ) from None


def _tensors(path: Path) -> dict[str, Any]:
    try:
        return read_tensors(path)
    except (FileNotFoundError, Damaged):
        raise BadInput(f"{path}: missing or damaged; delete {path.parent} and run the scenario again") from None
