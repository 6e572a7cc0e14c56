"""Several records of arrays in one message, as Flower allows: all are kept, each array as `record/name`.

Which of them holds the model is for whoever has the model to say: see `fedsim.audit.choosing`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

Records = Mapping[str, Mapping[str, Tensor]]
"""Arrays by name, by the record that holds them."""


def joined(records: Records) -> dict[str, Tensor]:
    """All arrays of several records, the record's name before each array's; `parted` takes them apart again."""
    return {f"{record}/{name}": value for record, arrays in records.items() for name, value in arrays.items()}


def parted(arrays: Mapping[str, Tensor], records: Collection[str]) -> dict[str, dict[str, Tensor]]:
    """The arrays of each record, of those that hold any; an array is of the record with the longest name that fits."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        fitting = [record for record in records if name.startswith(f"{record}/")]
        if fitting:
            record = max(fitting, key=len)
            found.setdefault(record, {})[name.removeprefix(f"{record}/")] = value
    return found


def alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two records hold arrays of the same names and shapes."""
    return one.keys() == other.keys() and all(value.shape == other[name].shape for name, value in one.items())
