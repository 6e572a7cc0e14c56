"""What the options of `fedsim audit` say, read: each in its own form, and what does not fit is named by its option."""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fedsim.errors import BadInput


def local_training(
    lr: float | None,
    optimizer: str,
    momentum: float,
    weight_decay: float,
    schedule: str,
    groups: list[str],
    epochs: int | None,
    steps: int | None,
) -> Any:
    """The local training; where no learning rate is said, at any."""
    from defenses.client import optimizers
    from defenses.client.training import LocalTraining
    from defenses.registry import UnknownName

    if epochs is not None and steps is not None:
        raise BadInput("--epochs and --steps: give one of the two")
    for option, value in (("--epochs", epochs), ("--steps", steps)):
        if value is not None and value < 1:
            raise BadInput(f"{option} {value}: at least 1")
    if lr is not None and not lr > 0:
        raise BadInput(f"--lr {lr}: above 0")
    keys: dict[str, Any] = {"momentum": momentum} if momentum else {}
    keys |= {"weight_decay": weight_decay} if weight_decay else {}
    try:
        made = optimizers.create(optimizer, **keys)
    except UnknownName as error:
        raise BadInput(f"--optimizer: {error}") from None
    except (TypeError, ValueError) as error:
        raise BadInput(f"--optimizer {optimizer}: {error}") from None
    return LocalTraining(
        steps=steps or 1,
        epochs=epochs,
        learning_rate=lr or 1.0,
        optimizer=made,
        schedule=_schedule(schedule) if schedule else None,
        groups=tuple(_group(group) for group in groups),
    )


def _schedule(given: str) -> Any:
    from defenses.client.groups import schedule_from

    try:
        return schedule_from(_spec("--schedule", given))
    except (LookupError, TypeError, ValueError) as error:
        raise BadInput(f"--schedule {given}: {error}") from None


def _group(given: str) -> Any:
    """A group of parameters as YAML, with the keys that `federation.local.groups` of a scenario has."""
    from defenses.client.groups import Group

    keys = Group.__dataclass_fields__
    takes = f"takes '{{parameters: [PATTERN], KEY: VALUE}}', with keys of {', '.join(keys)}"
    plain = _yaml("--group", given, takes)
    if not (isinstance(plain, dict) and isinstance(plain.get("parameters"), list) and plain.keys() <= keys.keys()):
        raise BadInput(f"--group {given}: {takes}")
    try:
        return Group.from_dict(plain)
    except (LookupError, TypeError, ValueError) as error:
        raise BadInput(f"--group {given}: {error}") from None


def _yaml(option: str, given: str, takes: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(given)
    except YAMLError:
        raise BadInput(f"{option} {given}: not YAML; {takes}") from None


def _spec(option: str, given: str) -> dict[str, Any]:
    """A member of a registry as YAML: `sign`, or `clip: {norm: 1.0}`."""
    takes = "takes NAME, or 'NAME: {KEY: VALUE}'"
    plain = _yaml(option, given, takes)
    if isinstance(plain, str):
        return {"name": plain}
    if isinstance(plain, dict) and len(plain) == 1:
        [(name, keys)] = plain.items()
        if isinstance(keys, dict | None):
            return {"name": name, **(keys or {})}
    raise BadInput(f"{option} {given}: {takes}")


def defense_specs(given: list[str]) -> tuple[dict[str, Any], ...]:
    import defenses as known

    found = []
    for one in given:
        spec = _spec("--defense", one)
        try:
            known.compose([spec])
        except (LookupError, TypeError, ValueError) as error:
            raise BadInput(f"--defense {one}: {error}") from None
        found.append(spec)
    return tuple(found)


def named_values(option: str, given: list[str]) -> dict[str, Any]:
    found = {}
    for one in given:
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise BadInput(f"{option} {one}: takes NAME=VALUE")
        try:
            found[name] = YAML(typ="safe", pure=True).load(value)
        except YAMLError:
            raise BadInput(f"{option} {one}: {value!r} is not a YAML value") from None
    return found


def one_of(option: str, value: str, *accepted: str) -> Any:
    if value not in accepted:
        raise BadInput(f"{option} {value}: {' or '.join(accepted)}")
    return value


def by_channel(option: str, text: str, channels: int) -> tuple[float, ...]:
    values = numbers(option, text)
    return values * channels if len(values) == 1 else values


def counts(option: str, text: str) -> tuple[int, ...]:
    values = tuple(int(value) for value in numbers(option, text, whole=True))
    if min(values) < 1:
        raise BadInput(f"{option} {text}: each is at least 1")
    return values


def numbers(option: str, text: str, *, whole: bool = False) -> tuple[float, ...]:
    try:
        values = tuple((int if whole else float)(part) for part in text.replace(" ", "").split(","))
    except ValueError:
        raise BadInput(f"{option} {text}: {'whole numbers' if whole else 'numbers'} with commas between") from None
    return values
