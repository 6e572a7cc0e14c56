"""What a run needs: processor seconds, time and memory on some nodes, from what there is to do.

Most of a small run is processes that start. How many there are follows from the nodes; how long one takes is measured
here (`fedsim.runs.calibration`). What Ray, Flower and the files cost beside that is counted in such starts too: the
figures below were measured on one machine, and a slower one is slower at all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.federation.waves import BYTES, WAVE
from fedsim.runs.calibration import Machine

COMMAND = 3.2
"""Starts of the process of the command: it also scores and writes the report."""
RAY = 2.0
"""Starts that Ray's own processes take on a node, less those that wait for work."""
WAITING = 0.2
"""Starts that one of Ray's waiting processes takes; a node has one for each processor."""
SIMULATION = 1.5
"""Starts of the process that serves a federation."""
CLIENTS = 1.5
"""Starts of a process that clients train in, with the data read."""
ATTACKS = 1.4
"""Starts of a process that attacks; one more process, with one start, hears how far the attacks are."""
MESSAGE = 0.015
"""Starts that a message to a client and its reply take."""
CELL = 0.05
"""Starts that a cell takes beside its clients: its files, the accuracy before and after."""
JOB = 0.03
"""Starts that an attack job takes beside the attack: what it is given and answers, its scores."""

RAY_BYTES = 250_000_000
"""Memory of Ray's own processes on a node."""
COMMAND_BYTES = 300_000_000
"""What the process of the command has beside any other: tables, pictures, the network of a metric."""
COPIES = 3
"""How many times a reply is in memory while it travels."""


@dataclass(frozen=True)
class Nodes:
    """Machines of a Ray cluster, all alike; the command runs on the first."""

    count: int
    processors: int

    @property
    def slots(self) -> int:
        return self.count * self.processors


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What is left of a run; in processor seconds where it says so.

    Args:
        simulations: groups of cells that one simulation can serve.
        clients: of all simulations together, each of which is asked once who it is.
        messages: rounds that clients are asked to train.
        training: seconds, of all clients' rounds.
        models: how many are pretrained.
        pretraining: seconds, one after the other.
        unattacked: seconds, of trainings that measure what a defense costs.
        trainings: how many such trainings there are at most.
        attacking: seconds at most, of all jobs.
        longest: seconds at most, of the longest job.
        weight: bytes of the heaviest reply.
        working: bytes that an attack takes beside its process.
    """

    cells: int = 0
    simulations: int = 0
    clients: int = 0
    messages: int = 0
    training: float = 0.0
    models: int = 0
    pretraining: float = 0.0
    unattacked: float = 0.0
    trainings: int = 0
    jobs: int = 0
    attacking: float = 0.0
    longest: float = 0.0
    weight: int = 0
    working: int = 0


@dataclass(frozen=True)
class Needs:
    """
    Args:
        starting: processor seconds for processes that start, and for messages and files.
        working: processor seconds for training and attacks.
        seconds: on the clock, where nothing else runs on the nodes.
        first: bytes on the node of the command.
        other: bytes on each other node.
    """

    starting: float
    working: float
    seconds: float
    first: int
    other: int


def needs(todo: Todo, machine: Machine, nodes: Nodes) -> Needs:
    if not todo.cells and not todo.jobs:
        return Needs(0.0, 0.0, 0.0, machine.own + machine.shared, 0)
    slots, start = nodes.slots, machine.start
    messages = MESSAGE * (todo.clients + todo.messages)
    files = messages + CELL * todo.cells + JOB * todo.jobs
    training = todo.simulations * (SIMULATION + slots * CLIENTS) + min(todo.trainings, slots)
    attacking = 1.0 + min(todo.jobs, slots) * ATTACKS if todo.jobs else 0.0
    processes = COMMAND + nodes.count * RAY + slots * WAITING + training + attacking
    one_after_the_other = (
        COMMAND + RAY + todo.simulations * (SIMULATION + CLIENTS) + (ATTACKS if todo.jobs else 0.0)
    )
    seconds = (
        start * (one_after_the_other + files - messages / 2)  # half of a message is the client's, beside the server's
        + todo.pretraining
        + max(todo.training, todo.unattacked) / slots
        + max(todo.attacking / slots, todo.longest)
    )
    worker = machine.own + todo.working
    node = machine.shared + RAY_BYTES + nodes.processors * worker
    wave = min(COPIES * min(todo.messages, WAVE) * todo.weight, COPIES * BYTES)
    first = node + 2 * machine.own + COMMAND_BYTES + wave
    working = todo.training + todo.pretraining + todo.unattacked + todo.attacking
    return Needs(start * (processes + files), working, seconds, first, node if nodes.count > 1 else 0)
