"""How many bits an update takes to send: a plain code, without loss, that knows nothing of the defense.

An update is so many numbers of so many bits. What has many zeros or few values needs less: this is what sparsification
and quantization were made for.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PLACE = 32
"""Bits of the place of an entry."""
_LOOK = 1 << 16


def bits_of(update: Mapping[str, Tensor]) -> int:
    """The sum over its tensors, of each whatever is least: all entries, or those that are not zero and their places.

    Places are a bit for each entry of the tensor, or 32 for each that is sent, or for each that is not. Entries are
    sent as they are, or, if that is less, by their number in a list of the values that there are, which is sent too.
    """
    return sum(_bits(value.flatten()) for value in update.values())


def _bits(entries: Tensor) -> int:
    sent = entries[entries != 0]
    places = min(len(entries), PLACE * len(sent), PLACE * (len(entries) - len(sent)))
    return min(_values(entries), places + _values(sent))


def _values(entries: Tensor) -> int:
    width = 8 * entries.element_size()
    plain = width * len(entries)
    look = entries[:: max(1, len(entries) // _LOOK)]
    if 2 * len(look.unique()) > len(look):  # hardly one is there twice: the list would be as long as the tensor
        return plain
    values = len(entries.unique())
    return min(plain, (values - 1).bit_length() * len(entries) + width * values)
