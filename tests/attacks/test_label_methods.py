"""Each method of label inference on what it was made for, by hand; and the rule that picks one of them."""

from __future__ import annotations

import math

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import nn

from attacks import NotApplicable
from attacks.labels import create, infer_labels, names
from attacks.labels.base import Evidence, fill, rounded
from attacks.labels.confidence import of_whole

SHAPE = (1, 4, 4)
BIASED = ("counted", "restored")
"""Methods that decline without the bias of the last layer."""
SHOWN = ("geng", "llg_star")
"""Methods that show the model images."""


REPEATED = [0, 0, 0, 1, 3, 3, 4, 4]


def client(labels, *, bias=True, seed=0):
    """A new model, whose softmax is nearly even, and the gradient of images of these labels."""
    torch.manual_seed(seed)
    model = paper_mlp(dropout=0.0, inputs=16, width=32, classes=5, bias=bias)
    return model, observe(model, torch.randn(len(labels), *SHAPE), torch.tensor(labels), classes=5).update


def evidence(labels, *, bias=True, seed=0):
    model, update = client(labels, bias=bias, seed=seed)
    return Evidence.of(model, update, images=len(labels), classes=5, input_shape=SHAPE)


def test_there_are_these_methods():
    assert set(names()) == {"counted", "geng", "idlg", "llg", "llg_star", "restored", "yin"}
    assert all(type(create(name)).paper and type(create(name)).__doc__ for name in names())


@pytest.mark.parametrize("name", ["counted", "geng", "restored"])
def test_repeats_are_counted_in_a_new_model(name):
    for seed, labels in enumerate((REPEATED, [2] * 8, [0, 1, 2, 3, 4, 4, 4, 4])):
        found = create(name).infer(evidence(labels, seed=seed))
        assert found.labels.tolist() == labels
        assert found.method == name
        assert found.confidence > 0.9


def by_hand(rows, images):
    """Of a linear model without a bias, the mean gradient of whose rows sums to these."""
    rows = torch.tensor(rows)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, len(rows), bias=False))
    gradient = {"1.weight": rows[:, None].expand(len(rows), 16) / 16 / images}
    return Evidence.of(model, gradient, images=images, classes=len(rows), input_shape=SHAPE)


def test_yin_takes_labels_to_differ():
    assert create("yin").infer(by_hand([0.3, -1.0, -0.2, 0.4, -0.5], 3)).labels.tolist() == [1, 2, 4]
    with pytest.raises(NotApplicable, match="6 images have more than 5 classes"):
        create("yin").infer(evidence([0, 1, 2, 3, 4, 4]))


@pytest.mark.parametrize("name", ["counted", "idlg", "restored", "yin"])  # the others take inputs of one sign, or guess
@pytest.mark.parametrize("label", range(5))
def test_one_label_is_read(name, label):
    assert create(name).infer(evidence([label], seed=label)).labels.tolist() == [label]


def test_llg_counts_the_sums_of_the_rows_behind_a_relu():
    """Ten classes, an even softmax and inputs that sum to 1: of labels 0, 0, 1 and 2 the rows sum to 0.4 - count.

    The impact is 1.1 / 4 of the negative ones, 0.77: each of the three once, then 0, the lowest, again."""
    rows = [0.4 - count for count in (2, 1, 1, *[0] * 7)]
    assert create("llg").infer(by_hand(rows, 4)).counts(10).tolist() == [2, 1, 1, *[0] * 7]


@pytest.mark.parametrize("name", BIASED)
def test_who_needs_a_bias_says_so(name):
    with pytest.raises(NotApplicable, match="no bias of the last linear layer"):
        create(name).infer(evidence([0, 1], bias=False))


@pytest.mark.parametrize("name", SHOWN)
def test_who_shows_the_model_images_needs_their_shape(name):
    told = evidence([0, 1])
    nobody = Evidence(told.model, told.path, told.bias, told.weight, told.images, told.classes)
    with pytest.raises(NotApplicable, match="needs the shape of an image"):
        create(name).infer(nobody)


def test_a_batch_is_not_one_image():
    with pytest.raises(NotApplicable, match="reads the label of one image"):
        create("idlg").infer(evidence([0, 1]))


def test_the_rule_answers_by_the_method_that_is_right():
    model, update = client(REPEATED)
    found = infer_labels(model, update, batch_size=8, classes=5, input_shape=SHAPE)
    assert found.labels.tolist() == REPEATED
    assert found.method in ("geng", "restored")
    assert found.misfit < 0.1
    assert infer_labels(model, update, batch_size=8, classes=5).method == "counted"  # nobody told the shape of an image
    assert infer_labels(model, update, batch_size=8, classes=5, method="llg").method == "llg"


def test_without_a_bias_labels_of_a_batch_are_guessed_and_said_to_be():
    model, update = client(REPEATED, bias=False)
    found = infer_labels(model, update, batch_size=8, classes=5, input_shape=SHAPE)
    assert (found.method, len(found.labels)) == ("geng", 8)
    assert found.confidence <= of_whole(found.misfit, 8, 5)


def test_expected_counts_become_whole_ones():
    assert rounded(torch.tensor([2.6, 0.9, -0.5]), 4).tolist() == [3, 1, 0]
    assert rounded(torch.tensor([2.2, 2.1, 1.9]), 4).sum() == 4
    assert fill(torch.tensor([-2.0, -0.5, 0.1]), 3).tolist() == [2, 1, 0]
    assert of_whole(0.0, 8, 10) == 1.0
    assert of_whole(1.0, 8, 10) == pytest.approx(1 - math.erfc(0.5 / math.sqrt(2)) * 5 / 8)
