"""The Flower server of one cell: trains under the eavesdropper's ear, writes what was seen, seals what was true."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from attacks.observation import SUM
from attacks.statistics import revealed
from defenses.aggregation.mean import weighted_mean
from fedsim import observations, truth
from fedsim.federation import cost
from fedsim.federation.accuracy import accuracy
from fedsim.federation.applied import Applied
from fedsim.federation.averaging import RunningAverage
from fedsim.federation.grid import OrderedGrid
from fedsim.federation.listener import Capture, Listener
from fedsim.federation.plan import Plan
from fedsim.federation.served import Served
from fedsim.federation.start import initial_state
from fedsim.federation.waves import InWaves
from fedsim.federation.workers import Measurement
from fedsim.files import whole_directory, write_json
from fedsim.local import observed
from fedsim.models import effective_dropout, entries
from fedsim.paths import USER_PATH, told
from fedsim.random import seed_for
from fedsim.recording.eavesdropper import Eavesdropper
from fedsim.recording.malicious import MaliciousServer
from fedsim.records import Fault, Length
from fedsim.sent import changed
from fedsim.truth import Truth

LOST = "lost"
"""The key in `cell.json` of the clients that were lost; a cell that has it is trained again when its run goes on."""


def run_cell(
    grid: OrderedGrid, plan: Plan, target: Path, store: Path, measured: Measurement, *, deadline: float
) -> None:
    """Train one cell and leave its directory at `target`, whole or not at all.

    The directory holds what `fedsim.observations` and `fedsim.truth` describe, and `cell.json`: the work, the test
    accuracy before the first round and after each, the utility and the privacy spent with the training that they are
    of, how many bytes each attacked client sent, and the clients that failed with their reasons; those of them that
    were `lost`, attacked or not, may do better another time. `store` keeps the pretrained states.

    Args:
        deadline: seconds that a client may take for a round.
    """
    with whole_directory(target) as directory:
        writer = CaptureWriter(plan, directory)
        start = initial_state(plan, store)
        accuracies = _run_rounds(grid, plan, writer, start, deadline)
        summary = {
            "work": plan.work.to_dict(),
            "accuracy": accuracies,
            "dropout": effective_dropout(plan.client_model()),
            "faults": [one.model_dump() for one in writer.faults],
            "lengths": [one.model_dump() for one in writer.lengths],
            "test_images": len(plan.dataset.test_labels),
            "cost_of": asdict(cost.describe(plan)),
            **asdict(cost.privacy(plan)),
            **measured.result(),
            **({LOST: [one.model_dump() for one in writer.lost]} if writer.lost else {}),
        }
        _save_public(plan, directory)
        write_json(directory / "cell.json", summary)


class CaptureWriter:
    """Writes the captures of the attacked clients, and remembers how long their updates were, and the faults.

    Each is written as it comes. Where the defense aggregates, what the attacked clients sent is kept until their round
    is over, and of all of them one observation is written: there memory grows with `victims.clients`.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.directory = directory
        self.faults: list[Fault] = []
        self.lost: list[Fault] = []
        self.lengths: list[Length] = []
        self._defense = plan.defense()
        model = plan.client_model()
        self._trained = set(entries.trained(model).values())
        self._buffers = entries.buffers(model)
        self._taken: dict[int, int] = {}
        self._together: list[tuple[Capture, Truth]] = []

    def capture(self, seen: Capture, envelope: Truth | str) -> None:
        """A good reply, with its truth or with why there is none."""
        if not isinstance(envelope, str) and (shape := envelope.images.shape[1:]) != self.plan.dataset.input_shape:
            envelope = f"the reply's envelope holds images of shape {tuple(shape)}"
        if isinstance(envelope, str):
            self.fault(seen.round, seen.client, envelope)
            return
        if not self._take(seen.round):
            return
        self.lengths.append(Length(round=seen.round, client=seen.client, bytes=seen.bytes))
        if self._defense.aggregates:
            self._together.append((seen, envelope))
            return
        self._save(seen, self._update(seen), self._of(seen, self._buffers), envelope)
        truth.seal(self.directory, seen.round, seen.client, envelope)

    def fault(self, round: int, client: int, reason: str) -> None:
        if self._take(round):
            self.faults.append(Fault(round=round, client=client, reason=reason))

    def lose(self, round: int, client: int, reason: str) -> None:
        self.lost.append(Fault(round=round, client=client, reason=reason))

    def end(self, round: int) -> None:
        """Of the captures that wait for the end of their round, the one thing that the server sees."""
        captures, self._together = self._together, []
        if len(captures) == 1:  # no protocol would open it
            [(seen, _)] = captures
            reason = "no other client's update arrived: there is no sum"
            self.faults.append(Fault(round=round, client=seen.client, reason=reason))
        if len(captures) < 2:
            return
        weights = [seen.examples for seen, _ in captures]
        update = self._defense.on_aggregate([self._update(seen) for seen, _ in captures], weights)
        buffers = weighted_mean([self._of(seen, self._buffers) for seen, _ in captures], weights)
        training = self.plan.local.training
        steps = training.steps if training.epochs is None else 1
        envelope = truth.together([envelope for _, envelope in captures], steps=steps)
        self._save(captures[0][0], update, buffers, envelope, captures)
        for seen, own in captures:
            truth.seal(self.directory, round, seen.client, own)

    def _save(
        self,
        seen: Capture,
        update: dict[str, Tensor],
        buffers: dict[str, Tensor],
        envelope: Truth,
        captures: Sequence[tuple[Capture, Truth]] = (),
    ) -> None:
        """Write an observation: of one client, or of all whose captures are given."""
        plan, local = self.plan, self.plan.local
        weights = tuple(one.examples for one, _ in captures)
        observation = replace(
            observed(plan.dataset, local, state=seen.sent, update=update),
            buffers=buffers,
            batch_size=local.batch_size * max(1, len(captures)),
            examples=sum(weights) or seen.examples,
            order=envelope.order,
            labels=envelope.labels,
            noise=envelope.noise,
            defense=plan.work.defense,
            round=seen.round,
            client=SUM if captures else seen.client,
            clients=tuple(one.client for one, _ in captures),
            weights=weights,
        )
        learnt = revealed(seen.sent, buffers)
        if captures and learnt == "batch":  # of several batches, each normalised by itself: of none of them
            learnt = "running"
        derived: dict[str, str] = {"client_mode": local.mode, "batch_norm": learnt}
        if plan.work.malicious is not None:
            derived["server"] = "malicious"
        if captures:
            derived["aggregation"] = f"sum_of_{len(captures)}"
        observations.save(self.directory, observation, model=plan.model_spec(), derived=derived)

    def _update(self, seen: Capture) -> dict[str, Tensor]:
        update = self._of(seen, self._trained)
        if self.plan.local.share == "weights":
            return {name: value - seen.sent[name] for name, value in update.items()}
        return update

    def _of(self, seen: Capture, names: Collection[str]) -> dict[str, Tensor]:
        return {name: value for name, value in seen.received.items() if name in names}

    def _take(self, round: int) -> bool:
        """True for the first clients of an attacked round, in partition order: these are the victims."""
        if not self.plan.attacked(round) or self._taken.get(round, 0) >= self.plan.work.victims.clients:
            return False
        self._taken[round] = self._taken.get(round, 0) + 1
        return True


def _strategy(plan: Plan, partition_of: Mapping[int, int]) -> Strategy:
    per_round = plan.federation.clients_per_round
    return RunningAverage(
        examples_of=lambda node: plan.images(partition_of[node]),
        fraction_train=per_round / plan.federation.clients,
        fraction_evaluate=0.0,
        min_train_nodes=per_round,
        min_evaluate_nodes=0,
        min_available_nodes=plan.federation.clients,
    )


def _run_rounds(
    grid: OrderedGrid, plan: Plan, writer: CaptureWriter, start: dict[str, Tensor], deadline: float
) -> list[float | None]:
    """Run the rounds of a plan from the global state `start`.

    Returns:
        the test accuracy before the first round and after each.
    """
    model = plan.model()
    view = grid.first(plan.federation.clients, deadline)
    listener = Listener(
        partition_of=view.partition_of,
        envelopes=view.envelopes,
        images=plan.images,
        on_capture=writer.capture,
        on_fault=writer.fault,
        lost=view.lost,
        on_lost=writer.lose,
    )
    served = Served(
        _strategy(plan, view.partition_of),
        partition_of=view.partition_of,
        applied=Applied.of(plan),
        seed=plan.seed,
        salt=plan.salt,
        examples=listener.examples,
        on_end=writer.end,
    )
    sending: Strategy = served
    if plan.work.malicious is not None:
        sending = MaliciousServer(served, lambda _, state: _changed(plan, state), rounds=plan.work.victims.rounds)
    strategy = Eavesdropper(InWaves(sending, at_once=view.at_once), store=listener)
    accuracies: list[float | None] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        model.load_state_dict(arrays.to_torch_state_dict())
        accuracies.append(accuracy(model, plan.dataset))
        return None

    strategy.start(
        view,
        ArrayRecord(start),
        num_rounds=plan.federation.rounds,
        timeout=math.inf,  # the grid knows better, by the number of its nodes
        train_config=ConfigRecord(
            {"work": json.dumps(plan.work.to_dict()), "user-path": told()[USER_PATH], "deadline": deadline}
        ),
        evaluate_fn=evaluate,
    )
    return accuracies


def _changed(plan: Plan, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a malicious server sends in place of an honest state."""
    assert plan.work.malicious is not None
    model = plan.model()
    model.load_state_dict(state)
    return changed(model, plan.dataset, plan.work.malicious, seed=seed_for(plan.seed, "malicious"))


def _save_public(plan: Plan, directory: Path) -> None:
    if len(plan.dataset.public):
        observations.save_public(directory, plan.dataset.public)
