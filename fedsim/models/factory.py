"""A user's own function that makes a model: found, imported and called; whatever goes wrong in it is one line that
names its file and line.

The user's code may raise anything and may call `sys.exit`. It is imported afresh when its file has changed, and leaves
no `__pycache__` behind.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput
from fedsim.paths import admit_user_code, user_directories

_imported: dict[str, tuple[str, list[str]]] = {}
"""Of each factory's module that was imported here: what it was made of, and the user's modules that came with it."""

_OURS = tuple(Path(__file__).parents[2] / name for name in ("fedsim", "attacks", "defenses"))


def load(factory: str, *, of: str = "model") -> Callable[..., Any]:
    """The function that `package.module:function` names; `of` says what it makes. Raises BadInput."""
    label, module_name, attribute = _named(factory, of)
    spec = _find(label, module_name)
    content = _digest(spec)
    if module_name in _imported and _imported[module_name][0] != content:
        for name in _imported.pop(module_name)[1]:
            sys.modules.pop(name, None)
    before = set(sys.modules)
    with located(label, spec.origin), _no_bytecode():
        module = importlib.import_module(module_name)
    if module_name not in _imported and module_name not in before:
        files = {str(file) for file in _own_files(spec)}
        fresh = [name for name in set(sys.modules) - before if getattr(sys.modules[name], "__file__", None) in files]
        _imported[module_name] = content, fresh
    make = getattr(module, attribute, None)
    if not callable(make):
        where = getattr(module, "__file__", None) or "built in"
        raise BadInput(f"{label}: module {module_name!r} has no function {attribute!r} ({where})")
    return make


def source(factory: str, *, of: str = "model") -> str:
    """A hash of the factory's own file and of the user's modules that it imports: other code, other hash.

    Files that the code reads are not part of it. Raises BadInput if the module is not found.
    """
    label, module_name, _ = _named(factory, of)
    return _digest(_find(label, module_name))


@contextmanager
def located(label: str, file: str | None = None) -> Iterator[None]:
    """What the user's code raises becomes BadInput with the user's file and line: that of `file`, if it took part."""
    try:
        yield
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        what = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())[:400]
        kind = f"{type(error).__name__}{_place(error, file)}"
        raise BadInput(f"{label}: {what} ({kind})" if what else f"{label}: {kind}") from error


def _place(error: BaseException, file: str | None) -> str:
    """` at file:line` of the user's code in which an error arose; if none took part, the file alone."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {_short(error.filename)}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    folders = tuple(f"{directory}{os.sep}" for directory in user_directories())
    own = [frame for frame in frames if frame.filename == file]
    beside = [frame for frame in frames if frame.filename.startswith(folders) and not _ours(frame.filename)]
    for found in (own, beside):
        if found:
            return f" at {_short(found[-1].filename)}:{found[-1].lineno}"
    return f" in {_short(file)}" if file is not None else ""


def _ours(file: str) -> bool:
    """Files of fedsim, or of installed packages, which may lie below the user's directory too."""
    return "site-packages" in file or any(Path(file).is_relative_to(folder) for folder in _OURS)


def _short(file: str) -> str:
    return os.path.relpath(file) if file.startswith(f"{os.getcwd()}{os.sep}") else file


def _named(factory: str, of: str) -> tuple[str, str, str]:
    """What to call it in a message, its module and its function."""
    label = f"{of} factory {factory!r}"
    module_name, colon, attribute = factory.partition(":")
    if not (colon and attribute and all(part.isidentifier() for part in module_name.split("."))):
        raise BadInput(f"{label}: write it as package.module:function")
    return label, module_name, attribute


def _find(label: str, module_name: str) -> ModuleSpec:
    """Where a module lies, without importing anything; its folder is then on the module path."""
    admit_user_code()
    importlib.invalidate_caches()
    path, spec = None, None
    parts = module_name.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((one for one in found if one is not None), None)
        path = spec.submodule_search_locations if spec is not None else None
        if spec is None or (path is None and depth < len(parts)):
            name = name if spec is None else ".".join(parts[: depth + 1])
            looked = ", ".join(user_directories())
            raise BadInput(
                f"{label}: cannot import {module_name!r}: there is no module {name!r} beside the scenario, in the "
                f"working directory ({looked}) or on PYTHONPATH"
            )
    assert spec is not None
    if spec.origin is not None and spec.submodule_search_locations is None and not _ours(spec.origin):
        admit_user_code(os.path.dirname(spec.origin))  # in a package a module may import by name what lies beside it
    return spec


def _digest(spec: ModuleSpec) -> str:
    digest = hashlib.sha256()
    for file in _own_files(spec):
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _own_files(spec: ModuleSpec) -> list[Path]:
    """The module's file and, where it is one of the user's own, the modules in the same folders that it imports."""
    if spec.origin is None or not spec.origin.endswith(".py"):
        return []
    root = Path(spec.origin).parents[spec.name.count(".") + (spec.submodule_search_locations is not None)]
    roots = list(dict.fromkeys([root, Path(spec.origin).parent]))
    found: dict[Path, None] = {}
    waiting = [Path(spec.origin)]
    while waiting:
        file = waiting.pop(0)
        if file not in found:
            found[file] = None
            if not _ours(str(file)):
                waiting += _imports(file, file.stat().st_mtime_ns, tuple(roots))
    return list(found)


@lru_cache(maxsize=256)
def _imports(file: Path, changed: int, roots: tuple[Path, ...]) -> list[Path]:
    """The files in the user's folders that a file's import statements name; none if it does not parse."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    named: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named += [root / alias.name.replace(".", "/") for alias in node.names for root in roots]
        elif isinstance(node, ast.ImportFrom):
            bases = [file.parents[node.level - 1]] if 0 < node.level <= len(file.parents) else roots
            inner = (node.module or "").replace(".", "/")
            named += [base / inner / name for base in bases for name in ("", *(alias.name for alias in node.names))]
    files = []
    for module in named:
        root = next((root for root in roots if module.is_relative_to(root)), module.parent)
        for part in [module, *(parent for parent in module.parents if parent != root and parent.is_relative_to(root))]:
            files += [one for one in (part.with_suffix(".py"), part / "__init__.py") if one.is_file()]
    return files


@contextmanager
def _no_bytecode() -> Iterator[None]:
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
