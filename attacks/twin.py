"""An attacker's picture of the client: a copy of the model, and the client's round on it as far as it is known.

An attack is only as good as its simulation of the client: same loss reduction, same mode, same buffers. So it replays
the very round that an honest client plays (`defenses.client.round`), as far as it is granted to know it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attacks.base import NotApplicable
from attacks.observation import Observation
from attacks.replayable import replayed
from defenses import Composition, compose
from defenses.client.kernels import start_recurrences
from defenses.client.round import ClientRound, replay
from defenses.client.training import LocalTraining
from defenses.stochastic import Inexplicit, convert, refuse_hidden, set_stochastic

Tensors = Mapping[str, Tensor]


def attacker_copy(
    model: nn.Module,
    state: Tensors,
    *,
    client_mode: Literal["train", "eval"] = "train",
    example: Tensor | None = None,
) -> nn.Module:
    """A copy of the model that computes what the client computes, without drawing anything.

    In train mode its stochastic layers pass their input through unless a noise is substituted, and batch norm uses the
    statistics of the batch it sees (it tracks none: a running average cannot be updated under `vmap`). In eval mode
    batch norm uses the observed running statistics. Parameters do not require gradients: attacks differentiate
    functionally.

    Args:
        example: an input (B, ...). With it, one forward pass looks for randomness that no stochastic layer holds.

    Raises:
        ValueError: the state does not fit the model.
        NotApplicable: the model is random in a way that no noise can be substituted for, or, with `example`, its
            forward pass fails.
    """
    try:
        twin = convert(copy.deepcopy(model))
    except Inexplicit as reason:
        raise NotApplicable(str(reason)) from reason
    load_state(twin, state)
    twin.requires_grad_(False)
    twin.train(client_mode == "train")
    set_stochastic(twin, False)
    start_recurrences(twin)
    if client_mode == "train":
        for module in twin.modules():
            if isinstance(module, _BatchNorm):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
    if example is not None:
        with replayed("attacked"):
            refuse_hidden(twin, example.to(next(twin.parameters())))
    return twin


def load_state(model: nn.Module, state: Tensors) -> None:
    """Put the observed global state into a model; ValueError names what does not fit."""
    own = model.state_dict()
    for what, names in (("lacks", own.keys() - state.keys()), ("has, unlike the model,", state.keys() - own.keys())):
        if names:
            raise ValueError(f"the observed state {what} {', '.join(sorted(names))}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(
                f"the observed state's {name} has shape {tuple(state[name].shape)}, the model's {tuple(value.shape)}"
            )
    model.load_state_dict(dict(state), strict=True)


def known_defense(observation: Observation) -> Composition:
    """The client's defense as far as this attacker is granted to know it: without the grant, none."""
    return compose(observation.defense or ())


def client_round(
    observation: Observation, twin: nn.Module, kind: Literal["gradient", "delta"] | None = None
) -> ClientRound:
    """The client's round as far as this attacker knows it: what is not granted is not there.

    Args:
        twin: an `attacker_copy`.
        kind: what is simulated; by default as it was sent.
    """
    share = kind or observation.kind
    local = observation.local or LocalTraining()
    return ClientRound(
        model=twin,
        local=replace(local, steps=1, epochs=None) if share == "gradient" else local,
        defense=known_defense(observation),
        share=share,
        batch_size=observation.batch_size,
        classes=observation.classes,
    )


def simulate(
    model: nn.Module,
    state: Tensors,
    images: Tensor,
    labels: Tensor,
    noise: Tensors | None = None,
    *,
    local: LocalTraining | None = None,
    kind: Literal["gradient", "delta"] = "gradient",
) -> dict[str, Tensor]:
    """The update that an undefended client sends, differentiable in images, labels (probabilities) and noise.

    Args:
        model: gives the computation, e.g. an `attacker_copy`; its own weights are not used.
        state: the global state that the client received; the model's parameters among it are trained.
        images: (steps * B, C, H, W): the batches of the steps one after the other. labels and noise likewise.
        local: the local training; needed for `kind="delta"`.
        kind: `gradient`, or `delta`: returned weights minus sent weights.
    """
    if local is None and kind == "delta":
        raise ValueError("a weight delta cannot be simulated without the local training")
    training = local if local is not None and kind == "delta" else LocalTraining()
    return replay(ClientRound(model=model, local=training, share=kind), state, images, labels, noise).update


def meets(model: nn.Module) -> str | None:
    """The first module of a copy in which the examples of a batch meet, so that those of two clients must not."""
    named = model.named_modules()
    return next((path for path, layer in named if isinstance(layer, _BatchNorm) and layer.training), None)
