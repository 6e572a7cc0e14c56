"""The global weights that the first round sends: as initialised, pretrained, or from the user's checkpoint.

Pretraining is honest central training, done once for all cells of a run that share it, and kept beside them:

    pretrained/<key>.safetensors

It depends on the data, the model with its own dropout rate, the seed and the `pretrain` block; not on the defense, the
partition, or what the federation does. So cells that differ in those attack the very same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import defenses
from defenses.client.compute import Term, no_term
from fedsim import hardware, models
from fedsim.data import Dataset
from fedsim.federation.plan import Plan
from fedsim.files import key_of, read_tensors, write_tensors
from fedsim.random import rng_for, seed_for, seeded_torch
from fedsim.scenario.work import CentralTraining, Spec, Work
from fedsim.version import __version__


def initial_state(plan: Plan, store: Path) -> dict[str, Tensor]:
    """The state dict that server and clients start from, in the federation's precision.

    Args:
        store: the directory of pretrained states; a state that it lacks is trained and added.
    """
    model = plan.model()
    start = plan.work.start
    if start.checkpoint is not None:
        bare = _build(plan, {**plan.work.model, "defenses": pretraining_with(plan.work)}).to(plan.dtype)
        models.restore(bare, start.checkpoint.path, content=start.checkpoint.content)
        model.load_state_dict({**model.state_dict(), **bare.state_dict()})
    if start.pretrain is not None:
        path = pretrained_file(plan.work, store)
        if not path.exists():
            write_tensors(path, pretrained(plan))
        model.load_state_dict({**model.state_dict(), **read_tensors(path)})
    return model.state_dict()


def pretrained_file(work: Work, store: Path) -> Path:
    """Where the pretrained state of a cell's work is kept: named by all that it depends on."""
    training = _pretraining(work)
    spec = {
        "data": {key: value for key, value in work.data.items() if key != "partition"},
        "content": work.content,
        "source": work.source,
        "model": _undefended(work, training),
        "pretrain": asdict(training),
        "seed": work.seed,
        "version": __version__,
    }
    return store / f"{key_of(spec)}.safetensors"


def pretrained(plan: Plan, *, steps: int | None = None) -> dict[str, Tensor]:
    """The model's state after its pretraining, or after its first `steps`; in float32 whatever the precision."""
    dataset, training = plan.dataset, _pretraining(plan.work)
    model = _build(plan, _undefended(plan.work, training)).to(hardware.of_training(plan.federation.resources.gpus))
    diverged = train_centrally(
        model,
        dataset,
        steps=training.steps if steps is None else steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=plan.seed,
        term=defenses.compose(pretraining_with(plan.work)).loss_term,
    )
    if diverged is not None:
        raise RuntimeError(f"pretraining diverged in step {diverged}; lower model.pretrain.learning_rate")
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _pretraining(work: Work) -> CentralTraining:
    if work.start.pretrain is None:
        raise ValueError("this work has no pretraining")
    return work.start.pretrain


def _undefended(work: Work, training: CentralTraining) -> Spec:
    """The model block with the model's own dropout rate, which the defense may have replaced; of the defenses only
    those without which the state would lack parameters."""
    own = {**work.model, "dropout": training.dropout}
    adding = pretraining_with(work)
    return {**own, "defenses": adding} if adding else own


def _build(plan: Plan, spec: Spec) -> nn.Module:
    dataset = plan.dataset
    shape, classes = dataset.input_shape, len(dataset.classes)
    return models.build(spec, input_shape=shape, classes=classes, seed=seed_for(plan.seed, "weights"))


def adding_parameters(work: Work) -> list[Spec]:
    """The parts of a cell's defense that add parameters or buffers to the model."""
    return [spec for spec in work.defense if defenses.get(spec["name"]).adds_parameters]


def pretraining_with(work: Work) -> list[Spec]:
    """Those of them whose parameters are there when the model is pretrained."""
    return [spec for spec in adding_parameters(work) if defenses.get(spec["name"]).pretrains]


def train_centrally(
    model: nn.Module,
    dataset: Dataset,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    term: Term = no_term,
) -> int | None:
    """Plain SGD on the whole training part, in train mode: dropout active, batch norm on batch statistics. Where the
    model is.

    Neither the batches nor the masks depend on the number of steps: a longer training passes through a shorter one.

    Returns:
        the step in which the model ceased to be finite, where the training ends; None if it never did.
    """
    batches = _batches(len(dataset.train_labels), batch_size, rng_for(seed, "pretrain batches"))
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate)
    model.train()
    device = next(model.parameters()).device
    with seeded_torch(seed_for(seed, "pretrain noise")):
        for step in range(1, steps + 1):
            chosen = torch.from_numpy(next(batches))
            optimiser.zero_grad()
            logits = model(dataset.normalise(dataset.train_images[chosen]).to(device))
            loss = cross_entropy(logits, dataset.train_labels[chosen].to(device)) + term(model)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if not all(value.isfinite().all() for value in model.state_dict().values()):
                return step
    return None


def _batches(examples: int, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches without end: every example once, in a random order, before any comes again."""
    waiting = np.empty(0, dtype=np.int64)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(examples)])
        yield waiting[:size]
        waiting = waiting[size:]
