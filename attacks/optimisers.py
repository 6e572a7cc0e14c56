"""How N problems move, from their gradients: each as it would alone, as pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
"""What is known of N problems between two iterations, (N, ...) by name."""


class Optimiser(Protocol):
    """Adds its own names to the state of the engine's step."""

    def start(self, point: Tensor) -> State:
        """Its own state before the first iteration, of problems at `point` (N, D)."""

    def move(self, state: State, direction: Tensor) -> tuple[Tensor, State]:
        """What to add to the point (N, D), given `state["rate"]` (N,) and the gradient or what the unknowns made of it;
        and its own state after that."""


class Adam:
    """Adam (Kingma and Ba, ICLR 2015)."""

    def start(self, point: Tensor) -> State:
        steps = torch.zeros(len(point), dtype=torch.float64, device=point.device)
        return {"first": torch.zeros_like(point), "second": torch.zeros_like(point), "steps": steps}

    def move(self, state: State, direction: Tensor) -> tuple[Tensor, State]:
        steps = state["steps"] + 1
        first = state["first"].lerp(direction, 0.1)
        second = (0.999 * state["second"]).addcmul(direction, direction, value=0.001)
        first_bias, second_bias = 1 - 0.9**steps, 1 - 0.999**steps
        scale = second.sqrt() / second_bias.sqrt().to(second)[:, None] + 1e-8
        move = -first / scale * (state["rate"] / first_bias).to(second)[:, None]
        return move, {"first": first, "second": second, "steps": steps}


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS (Liu and Nocedal, Mathematical Programming 1989) with steps of fixed length, as
    `torch.optim.LBFGS` without a line search: the first step is at most as long as the learning rate in the 1-norm.

    Args:
        memory: how many past steps the curvature is estimated from.
        pace: the length of a step over the learning rate.
    """

    memory: int = 10
    pace: float = 1.0

    def start(self, point: Tensor) -> State:
        problems, size = point.shape
        return {
            "gradient": torch.zeros_like(point),
            "moved": torch.zeros_like(point),
            "steps": point.new_zeros(problems, self.memory, size),  # oldest first; unused ones have weight zero
            "changes": point.new_zeros(problems, self.memory, size),  # of the gradient over these steps
            "weights": point.new_zeros(problems, self.memory),
            "diagonal": point.new_ones(problems),
            "begun": torch.zeros(problems, dtype=torch.bool, device=point.device),
        }

    def move(self, state: State, direction: Tensor) -> tuple[Tensor, State]:
        gradient, begun = direction, state["begun"]
        change, moved = gradient - state["gradient"], state["moved"]
        curvature = (change * moved).sum(1)
        push = begun & (curvature > 1e-10)
        safe = torch.where(push, curvature, 1)

        def pushed(past: Tensor, latest: Tensor) -> Tensor:
            shifted = torch.cat([past[:, 1:], latest[:, None]], dim=1)
            return torch.where(push.view(-1, *[1] * (past.dim() - 1)), shifted, past)

        steps, changes = pushed(state["steps"], moved), pushed(state["changes"], change)
        weights = pushed(state["weights"], 1 / safe)
        diagonal = torch.where(push, safe / change.square().sum(1).clamp_min(1e-30), state["diagonal"])

        towards = -gradient
        shares = []
        for i in reversed(range(self.memory)):
            share = weights[:, i] * (steps[:, i] * towards).sum(1)
            towards = towards - share[:, None] * changes[:, i]
            shares.append(share)
        towards = towards * diagonal[:, None]
        for i, share in enumerate(reversed(shares)):
            back = weights[:, i] * (changes[:, i] * towards).sum(1)
            towards = towards + (share - back)[:, None] * steps[:, i]
        first = (1 / gradient.abs().sum(1).clamp_min(1e-30)).clamp(max=1)
        length = self.pace * state["rate"].to(gradient) * torch.where(begun, 1, first)
        move = length[:, None] * towards
        own = {"steps": steps, "changes": changes, "weights": weights, "diagonal": diagonal}
        return move, {**own, "gradient": gradient, "moved": move, "begun": torch.ones_like(begun)}
