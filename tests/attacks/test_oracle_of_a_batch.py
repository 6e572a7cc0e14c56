"""An oracle is told what each image drew, which says nothing where nobody knows whose a label is."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe, paper_mlp

import attacks
from attacks import NotApplicable, Observation, Reconstruction, ThreatModel


def seen(dropout: float, batch: int = 2) -> tuple[torch.nn.Module, Observation]:
    torch.manual_seed(0)
    model = paper_mlp(dropout=dropout, inputs=36, width=16, classes=4, bias=True)
    images = torch.rand(batch, 1, 6, 6) * 2 - 1
    return model, observe(model, images, torch.arange(batch) + 1, mean=(0.5,), std=(0.5,), classes=4)


def oracle(dropout: float, labels: str, batch: int = 2) -> Reconstruction | NotApplicable:
    model, observation = seen(dropout, batch)
    attack = attacks.create("well_informed", iterations=3)
    [answer] = attack.run([observation], ThreatModel(labels=labels, noise="known"), model)  # type: ignore[arg-type]
    return answer


def test_the_draws_of_a_batch_are_of_no_use_without_knowing_whose_a_label_is() -> None:
    """It would pair draws with others' labels, and be weaker than who is told nothing: no ceiling at all."""
    assert str(oracle(0.5, "inferred")) == (
        "what 3 drew is told image by image, but whose the inferred labels are is not: needs labels known"
    )


@pytest.mark.parametrize(
    ("dropout", "labels", "batch"), [(0.5, "known", 2), (0.0, "inferred", 2), (0.5, "inferred", 1)]
)
def test_it_answers_where_they_are_known_or_there_is_nothing_to_pair(dropout: float, labels: str, batch: int) -> None:
    assert isinstance(oracle(dropout, labels, batch), Reconstruction)
