"""What a scenario can name, as tables: read from the registries, so that a new file shows up by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence

from rich.table import Table

from fedsim.described import summary
from fedsim.errors import BadInput
from fedsim.memo import remembered

Row = tuple[str, str, str]
"""A name, its keys with their defaults, and what it is."""


def rows(kind: str) -> list[Row]:
    """The members of one kind: attacks, defenses, optimizers, schedules, models, decoders, datasets, metrics or
    scenarios."""
    if kind not in _KINDS:
        raise BadInput(f"list {kind}: no such kind; one of {', '.join(_KINDS)}")
    return [(name, keys, said) for name, keys, said in remembered(f"list-{kind}", lambda: list(_KINDS[kind]()))]


def catalogue(kind: str) -> Table:
    """The same as a table."""
    found = rows(kind)
    table = Table("name", "what it is", title=kind, title_justify="left", show_lines=True)
    if any(keys for _, keys, _ in found):
        table.add_column("keys, with their defaults")
    for name, keys, description in found:
        table.add_row(name, description, *([keys] if len(table.columns) == 3 else []))
    return table


def markdown(kinds: Sequence[str]) -> str:
    """The same as a page of Markdown, a section for each kind: `docs/reference.md` is this of all kinds that have
    parameters."""
    said = "What a scenario can name, with its keys. Written by a command, and compared with it by a test:"
    page = ["# Reference", "", said]
    page += ["", f"    fedsim list {' '.join(kinds)} --markdown > docs/reference.md", ""]
    for kind in kinds:
        members = rows(kind)
        page += [f"## {kind.capitalize()}", "", "| name | what it is | keys, with their defaults |", "|---|---|---|"]
        for name, keys, description in members:
            quoted = ", ".join(f"`{key}`" for key in keys.split(", ")) if keys else ""
            page.append(f"| `{name}` | {description.replace('|', chr(92) + '|')} | {quoted} |")
        page.append("")
    return "\n".join(page)


def _members(names: Iterable[str], get: Callable[[str], type]) -> Iterable[Row]:
    from defenses.registry import parameters

    for name in names:
        cls = get(name)
        keys = [shown(p) for p in parameters(cls).values()]
        oracle = " (oracle)" if getattr(cls, "oracle", False) else ""
        yield name, ", ".join(keys), summary(cls) + oracle


def shown(parameter: inspect.Parameter) -> str:
    """A key with its default, if it has one."""
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default}"


def text(cls: type) -> str:
    """A class's docstring but for its sections, such as that of the keys."""
    return (inspect.getdoc(cls) or "").split("\n\nArgs:\n", 1)[0].split("\n\nClass attributes:\n", 1)[0].rstrip()


def _attacks() -> Iterable[Row]:
    import attacks

    return _members(attacks.names(), attacks.get)


def _defenses() -> Iterable[Row]:
    import defenses

    return _members(defenses.names(), defenses.get)


def _optimizers() -> Iterable[Row]:
    from defenses.client import optimizers

    return _members(optimizers.names(), optimizers.get)


def _schedules() -> Iterable[Row]:
    from defenses.client import schedules

    return _members(schedules.names(), schedules.get)


def _models() -> Iterable[Row]:
    from fedsim import models

    common = ["dropout=0.0", "pretrain=None", "checkpoint=None"]
    for name in models.names():
        keys = [shown(p) for p in models.parameters(name).values()]
        yield name, ", ".join(keys + common), summary(models.MODELS[name])
    own = "Your own function, called with input_shape, classes and the further keys of the block"
    yield 'factory: "module:function"', ", ".join(["dropout=None", *common[1:], "..."]), own


def _decoders() -> Iterable[Row]:
    from fedsim import decoders

    for name in decoders.names():
        yield name, ", ".join(shown(p) for p in decoders.parameters(name).values()), summary(decoders.DECODERS[name])


def _datasets() -> Iterable[Row]:
    from fedsim import data

    for name, description in data.describe().items():
        yield name, "", description


def _metrics() -> Iterable[Row]:
    from fedsim.scoring.metrics import METRICS

    for name, metric in METRICS.items():
        yield name, "", summary(metric)


def _scenarios() -> Iterable[Row]:
    from fedsim.scenario import bundled, load

    for name in bundled():
        yield name, "", load(name, rehearsed=False).description


_KINDS: dict[str, Callable[[], Iterable[Row]]] = {
    "attacks": _attacks,
    "defenses": _defenses,
    "optimizers": _optimizers,
    "schedules": _schedules,
    "models": _models,
    "decoders": _decoders,
    "datasets": _datasets,
    "metrics": _metrics,
    "scenarios": _scenarios,
}
