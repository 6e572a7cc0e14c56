"""Prune the gradient behind a representation where it says most of the image."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from defenses.base import Defense, Tensors, Turn, register
from defenses.client.own import Own


@register("soteria")
class Soteria(Defense):
    """Set the columns of one linear layer's update to zero that belong to the entries r_i of its input, the
    representation, with the smallest `|d r_i / d x| / |r_i|`, added up over the client's examples x.

    Sun et al., *Soteria: Provable Defense against Privacy Leakage in Federated Learning from Representation
    Perspective*, CVPR 2021 (arXiv 2012.06043). Here it acts once, on what leaves the client, with all of its examples.
    An attacker who knows the defense sees which columns are left, and compares these. The share that is pruned could
    not be read; a half is what Wang et al., INFOCOM 2023, compare with.

    Args:
        prune: the share of the representation's entries, in [0, 1).
        layer: path of the linear layer; None: the last one that is trained.
    """

    checks_model = True

    def __init__(self, *, prune: float = 0.5, layer: str | None = None) -> None:
        if not 0 <= prune < 1:
            raise ValueError(f"soteria: prune = {prune} is not in [0, 1)")
        self.prune, self.layer = prune, layer

    def on_model(self, model: nn.Module) -> nn.Module:
        """The same model; raises ValueError if the layer is no linear layer of it."""
        name = self._weight(dict(model.named_parameters()))
        linear = [path for path, layer in model.named_modules() if isinstance(layer, nn.Linear)]
        if name is None or name.rpartition(".")[0] not in linear:
            listed = ", ".join([*linear[:8], *(["..."] if len(linear) > 8 else [])]) or "none"
            raise ValueError(f"soteria: layer = {self.layer!r} is not a linear layer of the model; it has {listed}")
        return model

    def on_update(self, update: Tensors, *, turn: Turn) -> Tensors:
        """Raises ValueError where the layer is not given one vector an example."""
        name = self._weight(update)
        if name is None:
            return dict(update)
        columns = update[name].shape[1]
        says = _says(turn.client, name.rpartition(".")[0])
        pruned = says.topk(math.floor(self.prune * columns), largest=False).indices
        return {**update, name: update[name] * torch.ones_like(update[name][0]).scatter(0, pruned, 0)}

    def surrogate(self, update: Tensors, *, turn: Turn) -> Tensors:
        """Itself: what is pruned follows from the images by a derivative for each entry of the representation."""
        return update

    def selection(self, observed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All but the columns that are zero throughout."""
        name = self._weight(observed)
        return {
            key: value.any(0).expand_as(value) if key == name else torch.ones_like(value, dtype=torch.bool)
            for key, value in observed.items()
        }

    def _weight(self, named: Mapping[str, Tensor]) -> str | None:
        """The name of the layer's weight, if it is there; one that stands inside another layer is not the last."""
        matrices = [name for name, value in named.items() if name.endswith("weight") and value.dim() == 2]
        if self.layer is not None:
            wanted = f"{self.layer}.weight" if self.layer else "weight"
            return wanted if wanted in matrices else None
        outer = [m for m in matrices if not any(m.startswith(o[: -len("weight")]) and m != o for o in matrices)]
        return outer[-1] if outer else None


def _says(client: Own, path: str) -> Tensor:
    """`sum |d r_i / d x| / |r_i|` (K,); infinite where r_i is zero, as its column is already."""

    def representation(images: Tensor) -> Tensor:
        return client.entering(path, images)

    entering, back = torch.func.vjp(representation, client.images)[:2]
    if entering.dim() != 2:
        raise ValueError(f"soteria: layer {path!r} takes (B, ..., {entering.shape[-1]}), not one vector an example")
    units = torch.eye(entering.shape[1], dtype=entering.dtype, device=entering.device)

    def slope(unit: Tensor) -> Tensor:
        [found] = back(unit.expand_as(entering))
        size: Tensor = found.flatten(1).norm(dim=1)
        return size

    slopes = torch.func.vmap(slope, chunk_size=64)(units)
    sizes = entering.abs().T
    return torch.where(sizes > 0, slopes / torch.where(sizes > 0, sizes, 1), math.inf).sum(1)
