"""What a malicious server sends in place of the honest state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from attacks.malicious import Outset
from fedsim.data import Dataset
from fedsim.models import malicious_attack


def changed(model: nn.Module, dataset: Dataset, attack: Mapping[str, Any], *, seed: int) -> dict[str, Tensor]:
    """The state dict of a model that was built with this attack, once its server has changed the weights, in place.

    Raises:
        ValueError: the model has nothing of what the attack exploits.
    """
    outset = Outset(
        input_shape=dataset.input_shape,
        classes=len(dataset.classes),
        mean=tuple(dataset.mean),
        std=tuple(dataset.std),
        public=dataset.public,
    )
    malicious_attack(attack).change(model, outset, seed=seed)
    return {name: value.detach() for name, value in model.state_dict().items()}
