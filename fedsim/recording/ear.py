"""What is asked of clients and what they answer, paired: from Flower's messages to records.

It takes copies; the messages themselves stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from flwr.app import ArrayRecord, Message, Metadata
from torch import Tensor

from fedsim.errors import on_one_line
from fedsim.recording.reasons import SILENT, why
from fedsim.recording.recorded import Recorded, Value, fault_of
from fedsim.recording.recorder import Recorder
from fedsim.recording.records import joined

ROUND = "server-round"
"""Where Flower's strategies tell clients the round."""


class Unheard(Exception):
    """A message that says nothing that can be recorded; its text is the reason."""


@dataclass(frozen=True, eq=False)
class Held:
    """The arrays of a message, by the records that hold them."""

    records: dict[str, dict[str, Tensor]]

    @property
    def single(self) -> bool:
        return len(self.records) == 1

    @cached_property
    def alone(self) -> dict[str, Tensor]:
        """Those of the only record, whatever its name."""
        [arrays] = self.records.values()
        return arrays

    @cached_property
    def together(self) -> dict[str, Tensor]:
        """Those of all records, as `record/name`."""
        return joined(self.records)


@dataclass(frozen=True, eq=False)
class Asked:
    """A message to a client, of which no reply has come yet.

    Args:
        metadata: the message's; it gets its id when it is sent.
        sent: a reason in its place where a message holds no arrays that can be recorded.
    """

    round: int
    node: str
    metadata: Metadata
    sent: Held | str
    config: dict[str, Value]
    config_record: str


class Ear:
    """Pairs replies with what they reply to, and tells a recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._pending: list[Asked] = []
        self._nodes: set[str] = set()
        self._exchanges = 0

    def asked(self, messages: Iterable[Message], round: int | None = None) -> list[Asked]:
        """Messages on their way to clients; those that ask for no training are passed over.

        Args:
            round: None to take it from the messages, or to count where they do not say.

        Returns:
            those of which a reply is waited for.
        """
        wanted: list[Asked] = []
        known: dict[tuple[int, ...], Held | str] = {}  # strategies send one record to all nodes
        training = [message for message in messages if _of_training(message)]
        self._exchanges += bool(training)
        for message in training:
            config = _values(message, "config_records")
            told = config.get(ROUND)
            number = round or (told if isinstance(told, int) and not isinstance(told, bool) else self._exchanges)
            node = str(message.metadata.dst_node_id)
            self._nodes.add(node)
            if not self._recorder.wants(number, node):
                continue
            key = tuple(id(record) for record in message.content.array_records.values())
            if key not in known:
                known[key] = _held_or_reason(message, "the message")
            called = next(iter(message.content.config_records), "config")
            wanted.append(Asked(number, node, message.metadata, known[key], config, called))
        self._pending += wanted
        return wanted

    def answered(self, replies: Iterable[Message], *, final: Sequence[Asked] | None) -> None:
        """Replies of clients, told of in the order in which they were asked for.

        Args:
            final: of what is waited for, that which never comes if it is not here; None for all.
        """
        arrived = [reply for reply in replies if _of_training(reply)]
        ids = {asked.metadata.message_id for asked in self._pending} - {""}
        by_id = {_id_of(reply): reply for reply in arrived}
        by_node = {str(reply.metadata.src_node_id): reply for reply in arrived if _id_of(reply) not in ids}
        over = list(self._pending if final is None else final)
        waiting: list[Asked] = []
        for asked in self._pending:
            reply = by_id.get(asked.metadata.message_id or "none yet") or by_node.get(asked.node)
            if reply is not None:
                self._tell(asked, reply)
            elif asked in over:
                self._recorder.fault(asked.round, asked.node, SILENT)
            else:
                waiting.append(asked)
        self._pending = waiting
        for node in sorted(by_node.keys() - self._nodes):
            self._recorder.fault(self._exchanges, node, "a reply to a message that was never heard")
        for round in sorted({asked.round for asked in over}):
            self._recorder.ended(round)

    def _tell(self, asked: Asked, reply: Message) -> None:
        try:
            recorded = _recorded(asked, reply)
        except Unheard as reason:
            self._recorder.fault(asked.round, asked.node, str(reason))
        except Exception as error:  # a reply is untrusted: what nobody thought of costs its own client only
            self._recorder.fault(asked.round, asked.node, f"the reply cannot be read: {on_one_line(error)}")
        else:
            self._recorder.add(recorded)


def _recorded(asked: Asked, reply: Message) -> Recorded:
    if isinstance(asked.sent, str):
        raise Unheard(asked.sent)
    if reply.has_error():
        raise Unheard(why(str(reply.error.reason)))
    back, records = _held(reply, "the reply"), tuple[str, ...]()
    if asked.sent.single and back.single:
        sent, received = asked.sent.alone, _named_alike(asked.sent.alone, back.alone)
    else:
        sent, received = asked.sent.together, back.together
        records = tuple(dict.fromkeys([*asked.sent.records, *back.records]))
    if (fault := fault_of(sent, received, records)) is not None:
        raise Unheard(fault)
    metrics = _values(reply, "metric_records")
    return Recorded(
        asked.round,
        asked.node,
        sent,
        received,
        metrics,
        asked.config,
        records,
        next(iter(asked.sent.records)),
        asked.config_record,
    )


def _of_training(message: Message) -> bool:
    return str(message.metadata.message_type).partition(".")[0] == "train"


def _id_of(reply: Message) -> str:
    return str(reply.metadata.reply_to_message_id)


def _values(message: Message, kind: str) -> dict[str, Value]:
    """What a message's records of a kind hold; where it has several, their names stand before those of the values."""
    records = getattr(message.content, kind) if message.has_content() else {}
    prefixed = len(records) > 1
    return {
        f"{record}.{key}" if prefixed else key: list(value) if isinstance(value, list) else value
        for record, values in records.items()
        for key, value in values.items()
    }


def _held_or_reason(message: Message, what: str) -> Held | str:
    try:
        return _held(message, what)
    except Unheard as reason:
        return str(reason)


def _held(message: Message, what: str) -> Held:
    """The arrays of all records that a message has of them."""
    found: dict[str, ArrayRecord] = dict(message.content.array_records)
    if not found:
        raise Unheard(f"{what} holds no arrays")
    try:
        return Held({name: dict(record.to_torch_state_dict()) for name, record in found.items()})
    except Exception as error:  # NumPy's and torch's, of what is no array of numbers
        raise Unheard(f"{what}'s arrays cannot be read: {on_one_line(error)}") from error


def _named_alike(sent: dict[str, Tensor], received: dict[str, Tensor]) -> dict[str, Tensor]:
    """A list of arrays, as clients of Flower's older API return, under the names of what was sent.

    A list arrives under the names "0", "1", ...; it is in the order of what was sent if all its shapes are.
    """
    numbered = list(received) == [str(number) for number in range(len(received))]
    if not numbered or received.keys() == sent.keys():
        return received
    if [value.shape for value in received.values()] != [value.shape for value in sent.values()]:
        raise Unheard("the reply is a list of arrays without names, not in the shapes of what was sent")
    return dict(zip(sent, received.values(), strict=True))
