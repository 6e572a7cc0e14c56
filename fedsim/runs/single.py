"""Attack what a server recorded, outside any run: `fedsim attack OBSERVATIONS --attack NAME`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

import attacks
from attacks import ThreatModel
from attacks.observation import SUM
from defenses.registry import UnknownName, parameters
from fedsim import answers, observations, records
from fedsim.answers import JobSpec
from fedsim.data.dataset import pixels
from fedsim.errors import BadInput
from fedsim.files import read_tensors, write_bytes
from fedsim.random import seed_for
from fedsim.runs.attack import attack
from fedsim.scenario.schema import Engine
from fedsim.version import __version__


def attack_recorded(cell: Path, name: str, overrides: Sequence[str], target: Path) -> list[Path]:
    """Attack every observation under a cell's directory with the grants of a passive server that knows the labels.

    Args:
        cell: a folder that holds `observations/` (and `grants/`), as a run's `cells/<key>` does.
        name: the attack.
        overrides: its parameters, as `key=value`.
        target: where the answers go: `<target>/round_r/` with the tensors, the account and one PNG per image.

    Returns:
        the PNG files.

    Raises:
        BadInput: no observations, no such attack, or a parameter it has not.
    """
    found = observations.listed(cell) if (cell / "observations").is_dir() else []
    if not found:
        raise BadInput(f"{cell}: holds no observations; give a run's cells/<key> directory")
    spec = {"name": name, **_parameters(name, overrides)}
    written: list[Path] = []
    for round in sorted({round for round, _ in found}):
        clients = [client for own, client in found if own == round]
        answer = target / f"round_{round}"
        job = JobSpec(
            cell=cell.name,
            round=round,
            clients=tuple(clients),
            attack=spec,
            grants=ThreatModel().as_dict(),
            engine=Engine(chunk=len(clients)),
            seed=seed_for(0, "attack"),
            version=__version__,
        )
        attack(cell, answer, job)
        written += _draw(cell, answer, round)
    return written


def _parameters(name: str, overrides: Sequence[str]) -> dict[str, Any]:
    try:
        accepted = parameters(attacks.get(name))
    except UnknownName as error:
        raise BadInput(f"--attack: {error}") from None
    values: dict[str, Any] = {}
    for override in overrides:
        key, found, value = override.partition("=")
        if not found or key not in accepted:
            raise BadInput(f"--set {override}: takes key=value with a key of {name}: {', '.join(accepted) or 'none'}")
        try:
            values[key] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise BadInput(f"--set {override}: {value!r} is not a YAML value") from None
    try:
        attacks.create(name, **values)
    except (TypeError, ValueError) as error:
        raise BadInput(f"--attack {name}: {error}") from None
    return values


def _draw(cell: Path, answer: Path, round: int) -> list[Path]:
    path = answer / "reconstructions.safetensors"
    if not path.exists():
        _, account = answers.read(answer)
        reasons = {outcome.reason or "" for outcome in account.outcomes.values()}
        raise BadInput(f"{cell}: the attack does not apply: {'; '.join(sorted(reasons))}")
    written = []
    for key, images in read_tensors(path).items():
        client, _, part = key.partition(".")
        if part == "images":
            seen = observations.recorded(cell, round, int(client), records.Shown)["observation"]
            for index, image in enumerate(pixels(images, mean=seen["mean"], std=seen["std"])):
                whose = "sum" if int(client) == SUM else f"client_{client}"
                target = answer / f"{whose}_image_{index}.png"
                buffer = io.BytesIO()
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, format="PNG")
                write_bytes(target, buffer.getvalue())
                written.append(target)
    return written
