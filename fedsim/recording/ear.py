"""What is asked of clients and what they answer, paired: from Flower's messages to records.

It takes copies; the messages themselves stay as they are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message, Metadata
from torch import Tensor

from fedsim.recording.recorded import Recorded, Value, fault_of
from fedsim.recording.recorder import Recorder

ROUND = "server-round"
"""Where Flower's strategies tell clients the round."""


class Unheard(Exception):
    """A message that says nothing that can be recorded; its text is the reason."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A message to a client, of which no reply has come yet.

    Args:
        metadata: the message's; it gets its id when it is sent.
        sent: a reason in their place where a message holds no arrays that can be recorded.
    """

    round: int
    node: str
    metadata: Metadata
    sent: dict[str, Tensor] | str
    config: dict[str, Value]


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
        known: dict[int, dict[str, Tensor] | str] = {}  # strategies send one record to all nodes
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
            found = list(message.content.array_records.values())
            key = id(found[0]) if len(found) == 1 else -len(found)
            if key not in known:
                known[key] = _arrays_or_reason(message, "the message")
            wanted.append(Asked(number, node, message.metadata, known[key], config))
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
                self._recorder.fault(asked.round, asked.node, "no reply before the round's deadline")
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
        else:
            self._recorder.add(recorded)


def _recorded(asked: Asked, reply: Message) -> Recorded:
    if isinstance(asked.sent, str):
        raise Unheard(asked.sent)
    if reply.has_error():
        raise Unheard(f"the client raised {raised(str(reply.error.reason))}")
    received = _named_alike(asked.sent, _arrays(reply, "the reply"))
    if (fault := fault_of(asked.sent, received)) is not None:
        raise Unheard(fault)
    return Recorded(asked.round, asked.node, asked.sent, received, _values(reply, "metric_records"), asked.config)


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


def _arrays_or_reason(message: Message, what: str) -> dict[str, Tensor] | str:
    try:
        return _arrays(message, what)
    except Unheard as reason:
        return str(reason)


def _arrays(message: Message, what: str) -> dict[str, Tensor]:
    """The arrays of the one record that a message has of them, whatever its name."""
    found: list[ArrayRecord] = list(message.content.array_records.values())
    if len(found) != 1:
        raise Unheard(f"{what} holds {len(found)} records of arrays, not one" if found else f"{what} holds no arrays")
    try:
        return dict(found[0].to_torch_state_dict())
    except (TypeError, ValueError, EOFError, OSError) as error:  # NumPy's and torch's, of what is no array of numbers
        raise Unheard(f"{what}'s arrays cannot be read: {' '.join(str(error).split())[:200]}") from error


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


def raised(text: str) -> str:
    """What a client raised, in one line: the end of its own traceback.

    Ray reports a traceback in colour; Flower raises an exception of its own from the client's, and puts type and text
    of the whole around it.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^<class '[^>]*>:<'(.*)'>$", r"\1", text, flags=re.DOTALL)
    parts = text.split("The above exception was the direct cause of the following exception:")
    own = parts[-2] if len(parts) > 1 and "ClientAppException" in parts[-1] else parts[-1]
    lines = [line for line in own.splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith(('  File "', "ray::", "Traceback"))]
    said = itertools.dropwhile(lambda line: line.startswith("    "), lines[frames[-1] + 1 :] if frames else lines)
    return " ".join(" ".join(said).split())[:300] or "something that says nothing of itself"
