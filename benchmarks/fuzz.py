"""Files that nobody should have to trust, damaged and made up by a seed: what reads them answers, or says one line.

    python benchmarks/fuzz.py --cases 10000 --seed 0      # or: make fuzz

Of every case it is asked that no exception but fedsim's own comes out, that no native library prints a traceback of
its own, that it takes less than ten seconds of the processor, and that nothing is written, made, renamed or started
anywhere (by Python's audit events; a native library that writes by itself raises none). Scenarios are bundled ones
with keys of the JSON Schema and strange values in the place of their own, or made of the schema alone; tensors,
tables, archives, pictures, JSON records and entries are valid files with some of their bytes changed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save

from fedsim import data, records, scenario, table
from fedsim.archives import read_npz
from fedsim.errors import FedsimError
from fedsim.files import read_json, read_tensors
from fedsim.recording.entry import Entry
from fedsim.reporting.entries import pictures
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
    kinds = [
        *(_scenario, _scenario_made, _yaml_bytes, _tensors, _archive, _archive_of_data),
        *(_picture, _picture_of_entry, _rows, _record, _recorded, _entry),
    ]
    while True:
        yield draw.choice(kinds)(draw)


PLACES = {"entry": "entry.json", "record": "record.json", "picture": "class/0.png"}
"""Where a case's file lies in its folder, where that matters."""


def flaw(case: Case, folder: Path) -> str | None:
    """What a case shows that must not be; None where all is well."""
    what, content, read = case
    path = folder / PLACES.get(what, "file")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    began = time.process_time()
    try:
        with warnings.catch_warnings(), _heard() as printed, _limited(), _watched() as touched:
            warnings.simplefilter("ignore")
            read(path)
    except (FedsimError, ValueError, OSError) as error:
        # readers of one file may raise ValueError with a line; what else is a ValueError shows by its many lines
        if not isinstance(error, FedsimError) and what == "scenario":
            return f"{what}: {_last(error)}"
        if "\n" in str(error):
            return f"{what}: several lines: {error!s:.200}"
    except _TooLong:
        pass
    except Exception as error:
        return f"{what}: {_last(error)}"
    taken = time.process_time() - began
    if taken > SECONDS:
        return f"{what}: {taken:.0f} s"
    if touched:
        return f"{what}: {touched[0]}"
    return f"{what}: prints {printed[0]}" if printed else None


class _TooLong(BaseException):
    """Raised in what takes too long; no reader of damaged files catches it by accident."""


@contextmanager
def _limited() -> Iterator[None]:
    """No more seconds of the processor than a case may have. What hangs in one native call ends by its own."""

    def end(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS + 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The lines of tracebacks that go to the error output meanwhile, whoever prints them."""
    printed: list[str] = []
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            lines = file.read().decode(errors="replace").splitlines()
            printed += [line for line in lines if "panicked at" in line or line.startswith("Traceback")]


_CHANGES = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
_STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn"}
_touched: list[list[str]] = []


def _hear(event: str, given: tuple[Any, ...]) -> None:
    if not _touched or not (event == "open" or event in _CHANGES | _STARTS):
        return
    if event == "open" and not (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        return
    named = str(given[0]) if given else ""
    if "__pycache__" not in named:  # of what is imported at its first use
        _touched[-1].append(f"{event} {named}")


@contextmanager
def _watched() -> Iterator[list[str]]:
    """What is written, changed or started meanwhile."""
    global _hears
    if not _hears:  # once: an audit hook is never taken away
        sys.addaudithook(_hear)
        _hears = True
    _touched.append([])
    try:
        yield _touched[-1]
    finally:
        _touched.pop()


_hears = False


def _last(error: BaseException) -> str:
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "fedsim" in frame.filename]
    where = f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {' '.join(str(error).split())[:120]}"


def _read_scenario(path: Path) -> object:
    return scenario.load(path, rehearsed=False)


def _scenario(draw: random.Random) -> Case:
    """A bundled scenario some of whose values are others: of the schema, or strange ones."""
    changed = YAML(typ="safe", pure=True).load(draw.choice(list(scenario.bundled().values())).read_text())
    for _ in range(draw.randint(1, 4)):
        _change(changed, draw)
    return "scenario", json.dumps(changed).encode(), _read_scenario


def _change(whole: dict[str, Any], draw: random.Random) -> None:
    node: Any = whole
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


_SCHEMA = scenario.json_schema()
_BLOCKS = [_SCHEMA, *_SCHEMA["$defs"].values()]
_KEYS = sorted({key for block in _BLOCKS for key in block.get("properties", {})})


def _scenario_made(draw: random.Random) -> Case:
    """What the schema alone says, whether or not its parts go together; numbers at the ends of what they may be."""
    made = {"name": "made", "attacks": ["null_mean"], **_made(_SCHEMA, draw, share=0.2)}
    return "scenario", json.dumps(made).encode(), _read_scenario


def _made(node: dict[str, Any], draw: random.Random, *, share: float = 0.5, depth: int = 0) -> Any:
    """A value of a part of the schema. `share` of the keys that need not be there are."""
    if "$ref" in node:
        return _made(_SCHEMA["$defs"][node["$ref"].rpartition("/")[2]], draw, depth=depth)
    if ways := node.get("anyOf") or node.get("oneOf"):
        return _made(draw.choice(ways), draw, depth=depth)
    if "const" in node or "enum" in node:
        return node.get("const") if "const" in node else draw.choice(node["enum"])
    match node.get("type"):
        case "object" if depth < 8:
            needed, known = node.get("required", []), node.get("properties", {})
            kept = [key for key in known if key in needed or draw.random() < share]
            return {key: _made(known[key], draw, depth=depth + 1) for key in kept}
        case "array" if depth < 8:
            count = draw.randint(node.get("minItems", 0), 3)
            return [_made(node.get("items", {}), draw, depth=depth + 1) for _ in range(count)]
        case "integer" | "number" as kind:
            least = node.get("minimum", node.get("exclusiveMinimum", -(2**40)))
            most = node.get("maximum", node.get("exclusiveMaximum", 2**40))
            number = draw.choice([least, most, draw.uniform(least, most), 1, 0.5])
            return int(number) if kind == "integer" else float(number)
        case "string":
            return draw.choice(["a", "null_mean", "mlp", "3-1-7", "public", "known", *map(str, _KEYS[:5])])
        case "boolean":
            return draw.random() < 0.5
    return draw.choice(STRANGE)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut out, doubled, or all of them others."""
    found = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(len(found) + 1)
        match draw.randrange(6):
            case 0 | 1 if at < len(found):
                found[at] ^= 1 << draw.randrange(8)
            case 2 if at < len(found):
                found[at] = draw.choice((0, 0x7F, 0x80, 0xFF, 0x0A, 0x2D))
            case 3:
                del found[at : at + draw.randint(1, 64)]
            case 4:
                found[at:at] = found[at : at + draw.randint(1, 64)]
            case _ if draw.random() < 0.2:
                del found[at:]
    return bytes(found)


def _yaml_bytes(draw: random.Random) -> Case:
    return "scenario", mutated(draw.choice(list(scenario.bundled().values())).read_bytes(), draw), _read_scenario


def _tensors(draw: random.Random) -> Case:
    whole = save({"a": torch.zeros(3, 4), "b": torch.ones(2, dtype=torch.int64)})
    return "tensors", mutated(whole, draw), read_tensors


def _archive(draw: random.Random) -> Case:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros((2, 4, 4), np.uint8), y=np.zeros(2, np.int64))
    return "archive", mutated(buffer.getvalue(), draw), lambda path: read_npz(path, ("x", "y"), most=2**28)


def _archive_of_data(draw: random.Random) -> Case:
    buffer = io.BytesIO()
    kept = {"x": np.zeros((4, 4, 4), np.uint8), "y": np.arange(4), "classes": np.array(list("abcd"))}
    draw.choice([np.savez, np.savez_compressed])(buffer, **kept)
    return "data", mutated(buffer.getvalue(), draw), lambda path: data.load({"name": "npz", "path": str(path)})


_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM")


def _drawn(draw: random.Random, kind: str) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.frombuffer(draw.randbytes(192), np.uint8).reshape(8, 8, 3))
    image.convert(draw.choice(["L", "RGB"])).save(buffer, kind)
    return buffer.getvalue()


def _picture(draw: random.Random) -> Case:
    """In a folder of pictures, by the name of a PNG whatever it is."""
    content = mutated(_drawn(draw, draw.choice(_FORMATS)), draw)
    return "picture", content, lambda path: data.load({"name": "folder", "path": str(path.parents[1])})


def _picture_of_entry(draw: random.Random) -> Case:
    content = mutated(_drawn(draw, "PNG"), draw)
    digest = hashlib.sha256(content).hexdigest()
    return "picture of an entry", content, lambda path: pictures.fault(path, sha256=digest, size=(8, 8))


def _rows(draw: random.Random) -> Case:
    buffer = io.BytesIO()
    plain = {"model_params": "{}", "defense_params": "[]", "attack": "cut", "attack_params": "{}", "status": "ok"}
    table.frame([{**plain, "psnr": 20.0, "run": "r"}] * 3).write_parquet(buffer)
    return "rows", mutated(buffer.getvalue(), draw), table.read_valid


_TRAINED = {
    "faults": [{"round": 1, "client": 0, "reason": "x"}],
    "accuracy": [0.1, None],
    "accounting_note": "",
    "lengths": [{"round": 1, "client": 0, "bytes": 3}],
}


_SEEN = {
    "round": 1, "client": 0, "kind": "gradient", "precision": "float32", "input_shape": [1, 2, 2], "classes": 2,
    "mean": [0.5], "std": [0.5], "batch_size": 1, "examples": 1, "local": None, "defense": [{"name": "clip"}],
}
_RECORDS: list[tuple[dict[str, Any], type[records.Record]]] = [
    (_TRAINED, records.Trained),
    ({"observation": _SEEN, "model": {"name": "mlp", "dropout": 0.5}, "derived": {"labels": "x"}}, records.Observed),
    ({"name": "a", "scenario": {"name": "a"}, "folder": None, "salted": False}, records.Marker),
    (
        {
            "spec": {"attack": {"name": "cut"}}, "threat_model": {"labels": "known"}, "observed": {"kind": None},
            "clients": {"0": {"status": "ok"}}, "seconds": 1.0, "device": "cpu",
        },
        records.Answered,
    ),
]


def _record(draw: random.Random) -> Case:
    whole, kind = draw.choice(_RECORDS)
    return "record", _json(whole, draw), lambda path: records.read(path, kind)


_HEARD = {
    "round": 1, "node": "7", "metrics": {"loss": 0.5, "n": [1, 2]}, "config": {"b": {"bytes": "AAE="}},
    "sent": {"file": "a", "arrays": ["x"]}, "received": {"file": "b", "arrays": []}, "records": ["arrays"],
}


def _recorded(draw: random.Random) -> Case:
    """Of what an eavesdropper keeps of somebody else's app."""
    return "store", _json(_HEARD, draw), lambda path: Entry.of(read_json(path))


def _json(whole: dict[str, Any], draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return mutated(json.dumps(whole).encode(), draw)
    changed = json.loads(json.dumps(whole))
    _change(changed, draw)
    return json.dumps(changed).encode()


_ENTRIES = sorted((Path(__file__).resolve().parents[1] / "leaderboard" / "entries").glob("*.json"))


def _entry(draw: random.Random) -> Case:
    return "entry", _json(json.loads(draw.choice(_ENTRIES).read_bytes()), draw), read_one


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
