"""Files that nobody should have to trust, damaged and made up by a seed: what reads them answers, or says one line.

    python benchmarks/fuzz.py --cases 10000 --seed 0      # or: make fuzz

Of every case it is asked that no exception but fedsim's own comes out, that it takes less than ten seconds, and that
nothing is written. Scenarios are bundled ones with keys of the JSON Schema and strange values in the place of
their own; tensors, tables, archives, JSON records and entries are valid files with some of their bytes changed.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.torch import save

from fedsim import records, scenario, table
from fedsim.archives import read_npz
from fedsim.errors import FedsimError
from fedsim.files import read_tensors
from fedsim.reporting.entries.store import read_one

SECONDS = 10.0
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**63, -(2**70), 1e308, float("nan"), float("inf")),
    *("", "x" * 500, "\0", "~nobody/x", "../..", "[]"),
    *([], {}, [[]], [None], {"name": "mlp"}, {"": ""}, "mlp", "cut", "/dev/zero", "\u202e", "1e999", "!!int ''"),
)

Case = tuple[str, bytes, Callable[[Path], object]]
"""What is read, the bytes of its file, and what reads it."""


def cases(seed: int) -> Iterator[Case]:
    """Cases without end; the same ones for the same seed."""
    draw = random.Random(seed)
    kinds = [_scenario, _yaml_bytes, _tensors, _archive, _rows, _record, _entry]
    while True:
        yield draw.choice(kinds)(draw)


def flaw(case: Case, folder: Path) -> str | None:
    """What a case shows that must not be; None where all is well."""
    what, content, read = case
    path = folder / {"entry": "entry.json", "record": "record.json"}.get(what, "file")
    path.write_bytes(content)
    before = {one.name for one in folder.iterdir()}
    began = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except (FedsimError, ValueError, OSError) as error:
        # readers of one file may raise ValueError with a line; what else is a ValueError shows by its many lines
        if not isinstance(error, FedsimError) and what == "scenario":
            return f"{what}: {_last(error)}"
        if "\n" in str(error):
            return f"{what}: several lines: {error!s:.200}"
    except Exception as error:
        return f"{what}: {_last(error)}"
    taken = time.process_time() - began
    if taken > SECONDS:
        return f"{what}: {taken:.0f} s"
    written = {one.name for one in folder.iterdir()} - before
    return f"{what}: wrote {written}" if written else None


def _last(error: BaseException) -> str:
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "fedsim" in frame.filename]
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())[:120]}"


def _read_scenario(path: Path) -> object:
    return scenario.load(path, rehearsed=False)


def _scenario(draw: random.Random) -> Case:
    """A bundled scenario some of whose values are others: of the schema, or strange ones."""
    data = YAML(typ="safe", pure=True).load(draw.choice(list(scenario.bundled().values())).read_text())
    for _ in range(draw.randint(1, 4)):
        _change(data, draw)
    return "scenario", json.dumps(data).encode(), _read_scenario


def _change(data: dict[str, Any], draw: random.Random) -> None:
    node: Any = data
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.7:
            node = node[key]
            continue
        if draw.random() < 0.15 and isinstance(node, dict):
            node[draw.choice(_KEYS)] = draw.choice(STRANGE)
        else:
            node[key] = draw.choice(STRANGE)
        return


def _keys() -> list[str]:
    schema = scenario.json_schema()
    blocks = [schema, *schema["$defs"].values()]
    return sorted({key for block in blocks for key in block.get("properties", {})})


_KEYS = _keys()


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or all of them others."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(6):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << draw.randrange(8)
            case 2 if at < len(data):
                data[at] = draw.choice((0, 0x7F, 0x80, 0xFF, 0x0A, 0x2D))
            case 3:
                del data[at : at + draw.randint(1, 64)]
            case 4:
                data[at:at] = data[at : at + draw.randint(1, 64)]
            case _ if draw.random() < 0.2:
                del data[at:]
    return bytes(data)


def _yaml_bytes(draw: random.Random) -> Case:
    return "scenario", mutated(draw.choice(list(scenario.bundled().values())).read_bytes(), draw), _read_scenario


def _tensors(draw: random.Random) -> Case:
    whole = save({"a": torch.zeros(3, 4), "b": torch.ones(2, dtype=torch.int64)})
    return "tensors", mutated(whole, draw), read_tensors


def _archive(draw: random.Random) -> Case:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((2, 4, 4), np.uint8), y=np.zeros(2, np.int64))
    return "archive", mutated(buffer.getvalue(), draw), lambda path: read_npz(path, ("x", "y"), most=2**28)


def _rows(draw: random.Random) -> Case:
    buffer = io.BytesIO()
    plain = {"model_params": "{}", "defense_params": "[]", "attack": "cut", "attack_params": "{}", "status": "ok"}
    table.frame([{**plain, "psnr": 20.0, "run": "r"}] * 3).write_parquet(buffer)
    return "rows", mutated(buffer.getvalue(), draw), table.read_valid


_RECORD = {
    "faults": [{"round": 1, "client": 0, "reason": "x"}],
    "accuracy": [0.1, None],
    "accounting_note": "",
    "lengths": [{"round": 1, "client": 0, "bytes": 3}],
}


def _record(draw: random.Random) -> Case:
    if draw.random() < 0.5:
        data = json.loads(json.dumps(_RECORD))
        _change(data, draw)
        return "record", json.dumps(data).encode(), lambda path: records.read(path, records.Trained)
    whole = mutated(json.dumps(_RECORD).encode(), draw)
    return "record", whole, lambda path: records.read(path, records.Trained)


_ENTRIES = sorted((Path(__file__).resolve().parents[1] / "leaderboard" / "entries").glob("*.json"))


def _entry(draw: random.Random) -> Case:
    content = draw.choice(_ENTRIES).read_bytes() if _ENTRIES else b"{}"
    if draw.random() < 0.5:
        data = json.loads(content)
        _change(data, draw)
        content = json.dumps(data).encode()
    else:
        content = mutated(content, draw)
    return "entry", content, read_one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    flaws: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number, case in zip(range(arguments.cases), cases(arguments.seed)):
            folder = Path(temporary) / str(number)
            folder.mkdir()
            found = flaw(case, folder)
            if found is not None:
                if found not in flaws:
                    print(f"case {number}: {found}", flush=True)
                flaws[found] = flaws.get(found, 0) + 1
    print(f"{arguments.cases} cases, seed {arguments.seed}: {sum(flaws.values())} flaws of {len(flaws)} kinds")
    sys.exit(bool(flaws))


if __name__ == "__main__":
    main()
