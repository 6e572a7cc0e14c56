"""Values of Flower's metric and config records as JSON that other languages read, and back.

JSON has neither bytes nor NaN: bytes become `{"bytes": "<base64>"}`, a float that is not finite `{"float": "nan"}`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from fedsim.recording.recorded import Value


def to_plain(record: Mapping[str, Value]) -> dict[str, Any]:
    """Raises: TypeError: a value is none of those that a record holds; it is named."""
    return {str(key): _plain(str(key), value) for key, value in record.items()}


def from_plain(record: Mapping[str, Any]) -> dict[str, Value]:
    """Raises: ValueError: a value is none of those that `to_plain` writes."""
    return {str(key): _value(str(key), plain) for key, plain in record.items()}


def _plain(key: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(key, one) for one in value]
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"{key!r} is of type {type(value).__name__}; bool, int, float, str, bytes and lists are recorded")


def _value(key: str, plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(key, one) for one in plain]
    if isinstance(plain, bool | int | float | str):
        return plain
    if isinstance(plain, dict) and len(plain) == 1:
        [(kind, text)] = plain.items()
        if kind == "bytes" and isinstance(text, str):
            return base64.b64decode(text, validate=True)
        if kind == "float" and text in ("nan", "inf", "-inf"):
            return float(text)
    raise ValueError(f"{key!r} has a value that is no bool, number, text, bytes or list of them")
