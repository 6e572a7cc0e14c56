"""Algorithms of an adversarial server. Needs torch and numpy only: no Flower, no Ray, no files.

An attack works on what a server saw, and on nothing else. The model may be anybody's, the update from anywhere:

    >>> import torch
    >>> from torch import nn
    >>> import attacks
    >>> from attacks import Observation, ThreatModel

A client computes the gradient of one image, with dropout:

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 3))
    >>> image, label = torch.rand(1, 1, 8, 8), torch.tensor([2])
    >>> nn.functional.cross_entropy(model(image), label).backward()

The server knows the model it sent and the gradient that came back:

    >>> observation = Observation(
    ...     state=model.state_dict(),
    ...     update={name: parameter.grad for name, parameter in model.named_parameters()},
    ...     input_shape=(1, 8, 8), classes=3, mean=(0.0,), std=(1.0,), labels=label,
    ... )
    >>> attack = attacks.create("dropout_inversion", iterations=500)
    >>> reconstruction = attack(observation, ThreatModel(), model)
    >>> error = (reconstruction.images - image).square().mean()
    >>> bool(error < 0.01), sorted(reconstruction.noise)
    (True, ['3'])
"""

from attacks.base import Attack, NotApplicable, Reconstruction, create, get, names
from attacks.observation import Observation, ThreatModel
from defenses.client.training import LocalTraining

__all__ = [
    "Attack",
    "LocalTraining",
    "NotApplicable",
    "Observation",
    "Reconstruction",
    "ThreatModel",
    "create",
    "get",
    "names",
]
