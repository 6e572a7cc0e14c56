"""Checks of a model's hyper-parameters that several models share."""

from __future__ import annotations

from collections.abc import Sequence


def positive(**values: int) -> None:
    """Raise ValueError, naming the key, unless every value is a whole number of at least 1."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} = {value!r} is not a whole number of at least 1")


def one_of(key: str, value: object, accepted: Sequence[str]) -> None:
    """Raise ValueError, listing what is accepted, unless the value is in the list."""
    if value not in accepted:
        raise ValueError(f"{key} = {value!r} is not one of {', '.join(accepted)}")
