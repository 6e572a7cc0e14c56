"""Which of several records of arrays holds the model: by what is in it, by its name, or as the user says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn

from fedsim.audit.matching import Unusable, aligned
from fedsim.models import entries
from fedsim.recording import Recorded
from fedsim.recording.records import Records, parted

Arrays = dict[str, Tensor]


@dataclass(frozen=True)
class Chosen:
    """A reply of which it is known what holds the model.

    Args:
        recorded: with the model's arrays alone, as where there is one record.
        message: the records of arrays that the client was sent, by their names; its model is in `sent_in`.
        received_in: the records of the reply that hold the model.
    """

    recorded: Recorded
    message: Records
    sent_in: tuple[str, ...]
    received_in: tuple[str, ...]


def chosen(recorded: Recorded, model: nn.Module, wanted: str = "") -> Chosen:
    """The records that hold the model: those that fit it, of several the one that was sent and came back by one name.

    A model may be divided over several records, as a body and a head.

    Args:
        wanted: the record, if the user says so.

    Raises:
        Unusable: none fits, or several do and nobody says which; or the user names one that is not there.
    """
    if not recorded.records:
        if wanted and wanted != recorded.record:
            raise Unusable(f"there is no record {wanted!r} of arrays: the only one is {recorded.record!r}")
        return Chosen(recorded, {recorded.record: recorded.sent}, (recorded.record,), ())
    sent, received = parted(recorded.sent, recorded.records), parted(recorded.received, recorded.records)
    if wanted and wanted not in received:
        raise Unusable(f"the reply has no record {wanted!r} of arrays; it has {', '.join(received)}")
    back = [names for names in _holding(received, model) if not wanted or names == (wanted,)]
    out = _holding(sent, model)
    if not back or not out:
        what, records = ("the reply", received) if not back else ("the message", sent)
        raise Unusable(f"{what}: {_misfits(records, model, wanted)}")
    pairs = [names for names in back if names in out]
    if len(back) > 1 and len(pairs) != 1:
        both = " and ".join(repr(names[0]) for names in back[:2])
        raise Unusable(f"the records {both} both have the model's arrays: --arrays NAME says which is the model")
    there = pairs[0] if len(pairs) == 1 else back[0]
    if there not in out and len(out) > 1:
        both = " and ".join(repr(names[0]) for names in out[:2])
        raise Unusable(f"the message's records {both} both have the model's arrays, and none is called {there[0]!r}")
    here = there if there in out else out[0]
    one = replace(recorded, sent=_of(sent, here), received=_of(received, there), records=())
    return Chosen(one, sent, here, there)


def _holding(records: Records, model: nn.Module) -> list[tuple[str, ...]]:
    """The records that hold all that the model trains, each by itself; where none does, those that hold parts of it."""
    alone: list[tuple[str, ...]] = [(name,) for name, arrays in records.items() if _lacks(arrays, model) is None]
    if alone:
        return alone
    own, trained = model.state_dict().keys(), entries.trained(model).keys()
    parts = tuple(name for name, arrays in records.items() if arrays.keys() <= own and arrays.keys() & trained)
    apart = sum(len(records[name]) for name in parts) == len(_of(records, parts))
    return [parts] if parts and apart else []


def _lacks(arrays: Mapping[str, Tensor], model: nn.Module) -> str | None:
    """Why arrays are not the model; None if they are, buffers and what is not trained apart."""
    try:
        found = aligned(arrays, model)
    except Unusable as reason:
        return str(reason)
    trained = entries.trained(model)
    have = {trained[entry] for entry in found if entry in trained}
    lacking = [name for name in trained.values() if name not in have]
    return f"lacks {lacking[0]}" if lacking else None


def _of(records: Records, names: tuple[str, ...]) -> Arrays:
    return {name: value for record in names for name, value in records[record].items()}


def _misfits(records: Records, model: nn.Module, wanted: str) -> str:
    def each() -> Iterator[str]:
        for name, arrays in records.items():
            if not wanted or name == wanted:
                yield f"record {name!r} {_lacks(arrays, model)}"

    return "; ".join(list(each())[:3]) or "no record of arrays"


