"""A federation that nobody listens to: the same clients and the same averaging, round after round in one process.

Flower's transport takes a tenth of a second or more a round, whatever the clients do in it. A training that is not
attacked sends nothing that anybody has to see, so it goes without; what it comes to is what Flower's would.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from fedsim.federation.applied import Applied
from fedsim.federation.plan import Plan
from fedsim.federation.round import train_client

Tensors = dict[str, Tensor]


def final_state(plan: Plan, start: Tensors, *, device: torch.device) -> Tensors:
    """The global state after all rounds of a plan from the state `start`, by federated averaging.

    A reply that holds NaN or infinity is left out, as the eavesdropper does.
    """
    fresh, applied = plan.model(), Applied.of(plan)
    state = start
    memories: dict[int, Tensors] = {}
    for round in range(1, plan.federation.rounds + 1):
        total: Tensors = {}
        examples: list[float] = []
        for client in plan.drawn(round):
            model = copy.deepcopy(fresh)
            model.load_state_dict(state)
            memory = memories.get(client)
            replied = train_client(plan, model, client=client, round=round, device=device, memory=memory)
            memories[client] = replied.result.played.memory
            reply = {name: value.cpu() for name, value in replied.result.arrays.items()}
            if not all(value.isfinite().all() for value in reply.values()):
                continue
            examples.append(len(replied.labels))
            weight = examples[-1] / examples[0]  # 1 where all have equally many
            weights = applied.weights(state, reply)
            total = {name: total.get(name, 0) + weight * _summable(value) for name, value in weights.items()}
        if examples:
            share = examples[0] / sum(examples)
            mean = {name: value * share for name, value in total.items()}
            state = applied.state(state, mean, examples, round)
    return state


def _summable(value: Tensor) -> Tensor:
    """A mean of integers is taken in float64."""
    return value if value.is_floating_point() else value.double()
