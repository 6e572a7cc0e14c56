"""Outcomes of defenses and layers to the number: what a bound or a tendency would not tell from something near it."""

import math

import pytest
import torch
from played_defenses import an_update, turn

import defenses
from defenses.batch.ats import SHIFT, TRANSFORMATIONS
from defenses.client.optimizers.sgd import SGD
from defenses.client.site import part_of
from defenses.stochastic.concrete import ConcreteDropout
from defenses.stochastic.depth import LayerDrop
from fedsim.reporting.naming import needed_for


class Once:
    """A turn whose sites all draw this."""

    def __init__(self, drawn: torch.Tensor) -> None:
        self.drawn = drawn

    def draw(self, name, site, x):
        return self.drawn.expand_as(x) if self.drawn.dim() == 0 else self.drawn


def test_noise_lies_on_what_a_rounding_error_of_the_largest_entry_hides_and_nowhere_else():
    value = torch.tensor([0.0, 4e-5, 1e-7, 100.0])  # rounding errors of 100 are 1e-5: eight of them 1e-4
    sent = defenses.create("training_randomness", std=0.25).on_update({"w": value}, turn=Once(torch.tensor(3.0)))
    torch.testing.assert_close(sent["w"], value + torch.tensor([0.75, 0.75, 0.75, 0.0]))
    other = defenses.create("training_randomness", std=0.25).on_update({"w": value[:3]}, turn=Once(torch.tensor(3.0)))
    torch.testing.assert_close(other["w"], value[:3] + torch.tensor([0.75, 0.0, 0.0]))


def test_a_random_part_is_sent_with_the_seed_of_its_places():
    update = an_update()
    entries = sum(value.numel() for value in update.values())
    assert defenses.create("random_sparsification", keep=0.1).bits(update) == 64 + 32 * math.ceil(0.1 * entries)


def test_a_published_shift_is_a_share_of_the_side():
    images = torch.arange(20.0).expand(1, 1, 20, 20)
    for number, (what, magnitude) in TRANSFORMATIONS.items():
        if what not in ("left", "up"):
            continue
        policy = defenses.create("ats", policy=f"{number}")
        [moved], _ = policy.on_batch(images, torch.tensor([0]), turn=Once(torch.tensor([[0, 1]])))
        places = round(SHIFT * magnitude / 9 * 20)
        assert 0 < places < 20
        if what == "left":
            assert moved[0, 0, : 20 - places].tolist() == list(range(places, 20))
            assert not moved[0, 0, 20 - places :].any()
        else:
            assert torch.equal(moved[0, : 20 - places], images[0, 0, places:])
            assert not moved[0, 20 - places :].any()


def test_an_image_moves_by_the_columns_that_were_drawn():
    images = torch.arange(25.0).view(1, 1, 5, 5)
    defense = defenses.create("augmentation", shift=2, flip=True)
    [moved], _ = defense.on_batch(images, torch.tensor([0]), turn=Once(torch.tensor([[0, 2, 0]])))
    assert moved[0, 0].tolist() == [2, 3, 4, 4, 4]


def test_a_mixture_of_a_batch_is_not_replayed_by_who_does_not_look_for_it():
    """Whatever draws something structural is taken into account by nobody who leaves it at rest."""
    assert needed_for("inverting_gradients", "cutmix") is False
    assert needed_for("inverting_gradients", "mixup") is False


@pytest.mark.parametrize("name", ["attention_drop", "layerdrop", "token_dropout", "dropblock", "dropconnect"])
def test_to_drop_everything_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name}: "):
        defenses.create(name, p=1.0)


def test_noise_on_images_keeps_each_image_one_image():
    assert defenses.get("input_noise").one_to_one


def test_of_several_draws_of_an_example_each_step_takes_its_own():
    drawn = torch.arange(10)  # two of each of five examples
    assert part_of(drawn, ("step", "example"), 0, [2, 3]).tolist() == [0, 1, 2, 3]
    assert part_of(drawn, ("step", "example"), 1, [2, 3]).tolist() == [4, 5, 6, 7, 8, 9]


def test_a_dropped_block_is_passed_by():
    entering_and_leaving = torch.stack([torch.full((2, 3), 5.0), torch.full((2, 3), 7.0)], dim=1)
    passed = LayerDrop(0.5, per="example").inject(entering_and_leaving, torch.tensor([1.0, 0.0]))
    assert passed.tolist() == [[7.0] * 3, [5.0] * 3]


def test_the_term_of_concrete_dropout_is_the_papers():
    layer = ConcreteDropout(0.2, 0.1, decay=0.01, entropy=0.5)
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    layer.note(weight)
    entropy = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    expected = 0.01 * float(weight.square().sum()) / 0.8 - 0.5 * 6 * entropy
    assert float(layer.term) == pytest.approx(expected, rel=1e-5)


def test_what_a_client_remembers_of_its_units_is_the_mean_over_its_images():
    here = turn()
    defenses.create("sensitive_neuron_dropout").on_update(an_update(), turn=here)
    entering = here.client.entering(None, here.client.images)
    torch.testing.assert_close(here.remembered("seen", torch.empty(0)), entering.mean(0, keepdim=True))


def test_a_number_without_an_upper_bound_is_not_told_of_one():
    with pytest.raises(ValueError, match=r"sgd: weight_decay = -1.0 is not a number of at least 0$"):
        SGD(weight_decay=-1.0)
    with pytest.raises(ValueError, match=r"sgd: momentum = 1.5 is not a number in \[0, 1\)$"):
        SGD(momentum=1.5)
