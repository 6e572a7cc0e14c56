"""The canary: the user's own client app, trained for one round on images that we know, in a process of its own.

What the client is cannot be read off its code by another program; it can be run and watched. The app is the user's own,
unchanged: the `clientapp` of its `pyproject.toml`, with its run config, on one train message that holds what the server
sent. It is not a sandbox: the code runs with the rights of who runs the audit, as it does under `flwr run`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.audit.facts import Canary, Facts, LossSeen
from fedsim.errors import BadInput, FedsimError
from fedsim.files import read_json, read_tensors, write_json, write_tensors
from fedsim.recording import Recorded
from fedsim.recording.records import Records, joined

__all__ = ["Canary", "Facts", "LossSeen", "NoCanary", "play"]

Value = bool | float | int | str


class NoCanary(FedsimError):
    """The client app could not be run on known images: why, in one line."""


def play(
    app: Path,
    recorded: Recorded,
    images: Tensor,
    labels: Tensor,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    batch_size: int | None = None,
    run_config: Mapping[str, Value] | None = None,
    node_config: Mapping[str, Value] | None = None,
    seed: int = 0,
    timeout: float = 300.0,
    message: Records | None = None,
    received_in: Sequence[str] = (),
) -> Canary:
    """Run a client app for one round on known images.

    Args:
        app: its folder, with `pyproject.toml`.
        recorded: its `sent` and `config` make the message.
        images: uint8 (N, C, H, W), no two alike.
        labels: (N,) class indices.
        mean, std: of each channel, what the client normalises its images with.
        batch_size: of its data loaders; None: as the client has it.
        run_config: in place of values of the app's own `[tool.flwr.app.config]`.
        node_config: by default the first of two partitions.
        seed: of Python's, NumPy's and torch's global generators in the client's process.
        timeout: seconds.
        message: its records of arrays, by their names; None: one, with what was sent.
        received_in: the records of the reply that hold the model; empty: the only one that could.

    Raises:
        BadInput: a folder that is no Flower app, or images that cannot be a canary.
        NoCanary: the client cannot be run on them, raises, or does not come to an end.
    """
    app = Path(app).resolve()
    clientapp, config = _app(app, run_config or {})
    _check(images, labels, mean, std)
    with tempfile.TemporaryDirectory(prefix="fedsim-canary-") as name:
        folder = Path(name)
        message = message or {recorded.record: recorded.sent}
        write_tensors(folder / "sent.safetensors", recorded.sent)
        write_tensors(folder / "message.safetensors", joined(message))
        write_tensors(folder / "images.safetensors", {"pixels": images, "labels": labels.long()})
        request = {
            "app": str(app),
            "clientapp": clientapp,
            "run_config": config,
            "node_config": dict(node_config or {"partition-id": 0, "num-partitions": 2}),
            "config": recorded.config,
            "names": list(recorded.sent),
            "message": {record: list(arrays) for record, arrays in message.items()},
            "received_in": list(received_in),
            "record": recorded.config_record,
            "mean": list(mean),
            "std": list(std),
            "batch_size": batch_size,
            "seed": seed,
        }
        write_json(folder / "request.json", request)
        _run(folder, app, timeout)
        answer = _answer(folder)
        received = read_tensors(folder / "received.safetensors")
        noise = read_tensors(folder / "noise.safetensors")
        gradient = read_tensors(folder / "gradient.safetensors")
    return Canary(
        recorded=Recorded(
            round=recorded.round,
            node="canary",
            sent=recorded.sent,
            received={name: received[name] for name in answer["names"]},
            metrics=answer["metrics"],
            config=recorded.config,
        ),
        pixels=images,
        labels=labels.long(),
        mean=tuple(mean),
        std=tuple(std),
        order=tuple(tuple(step) for step in answer["order"]),
        noise={site.removeprefix("noise."): mask for site, mask in noise.items()},
        gradient=gradient,
        facts=Facts.from_dict(answer["facts"]),
    )


def _run(folder: Path, app: Path, timeout: float) -> None:
    """Run the process; it leaves `answer.json` in the folder.

    Raises:
        NoCanary: it does not.
    """
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # what was computed on a processor can be computed again
        "TORCHDYNAMO_DISABLE": "1",  # compiled code cannot be watched
        "PYTHONHASHSEED": "0",
    }
    command = [sys.executable, "-P", "-m", "fedsim.audit.canary_process", str(folder)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=app,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            where = _hanging(process, folder, app)
            raise NoCanary(f"the client app does not end within {timeout:g} s{where}") from None
        finally:
            _end(process)
    if not (folder / "answer.json").exists():
        lines = (folder / "output").read_text(errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()[:300]}" if lines else ""
        raise NoCanary(f"the client app's process ended without an answer (exit code {process.returncode}){said}")


def _answer(folder: Path) -> dict[str, Any]:
    answer: dict[str, Any] = read_json(folder / "answer.json")
    if "refused" in answer:
        raise NoCanary(f"no canary: {answer['refused']}")
    if "raised" in answer:
        network = answer["raised"].startswith("needs the network")
        raise NoCanary(f"the client app {'' if network else 'raised '}{answer['raised']}")
    return answer


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started; on Windows, which has no groups of processes, it alone."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()


def _hanging(process: subprocess.Popen[bytes], folder: Path, app: Path) -> str:
    """Where in the client's own code it is."""
    process.send_signal(signal.SIGUSR1)
    with suppress(subprocess.TimeoutExpired):
        process.wait(1.0)  # by which time it has said so
    hangs = folder / "hangs"
    for line in hangs.read_text(errors="replace").splitlines() if hangs.exists() else ():
        if line.strip().startswith(f'File "{app}'):
            file, number = line.strip().removeprefix('File "').split('", line ')
            return f"; it was at {Path(file).name}, line {number.split()[0]}"
    return ""


def _app(app: Path, overrides: Mapping[str, Value]) -> tuple[str, dict[str, Value]]:
    """Where the client app is, and its run config with what is put in its place."""
    file = app / "pyproject.toml"
    if not file.is_file():
        raise BadInput(f"{app}: no pyproject.toml; a Flower app has one with [tool.flwr.app.components]")
    try:
        flower = tomllib.loads(file.read_text()).get("tool", {}).get("flwr", {}).get("app", {})
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{file}: {error}") from error
    clientapp = flower.get("components", {}).get("clientapp", "")
    if not isinstance(clientapp, str) or clientapp.count(":") != 1:
        raise BadInput(f'{file}: [tool.flwr.app.components] has no clientapp = "module:name"')
    config = _flat(flower.get("config", {}))
    if foreign := overrides.keys() - config.keys():
        known = ", ".join(sorted(config)) or "none"
        raise BadInput(f"run config: {sorted(foreign)[0]!r} is no key of {file}; it has {known}")
    return clientapp, {**config, **overrides}


def _flat(nested: Mapping[str, Any], above: str = "") -> dict[str, Value]:
    """Nested tables with dots in their names, as Flower hands them on."""
    found: dict[str, Value] = {}
    for key, value in nested.items():
        name = f"{above}.{key}" if above else key
        found |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return found


def _check(images: Tensor, labels: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4 or not len(images):
        kind = str(images.dtype).removeprefix("torch.")
        raise BadInput(f"the canary's images are {kind} {tuple(images.shape)}; they must be uint8 (N, C, H, W)")
    if labels.shape != (len(images),) or labels.is_floating_point() or bool((labels < 0).any()):
        raise BadInput(f"the canary has {len(images)} images and labels {tuple(labels.shape)}; one class index each")
    if len(torch.unique(images.flatten(1), dim=0)) < len(images):
        raise BadInput("two of the canary's images are alike: it could not be told which a client took")
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise BadInput(f"mean and std need one number for each of {channels} channels, std above 0")
