"""Feature fishing: of a client that has one class only what has most of a feature comes in."""

from __future__ import annotations

import pytest
import torch
from attack_victims import observe, paper_mlp, psnr
from torch import Tensor, nn

from attacks import NotApplicable, Observation, ThreatModel, create
from attacks.malicious import Outset
from fedsim.scoring.detection import disaggregation

THREAT = ThreatModel(server="malicious", auxiliary_data="public", labels="unknown")


def victim(images: Tensor, labels: Tensor, *, share: float = 0.1) -> tuple[nn.Module, Observation]:
    torch.manual_seed(0)
    model = paper_mlp(dropout=0.0, inputs=36, width=32, classes=4, bias=True)
    public = torch.rand(200, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    outset = Outset(input_shape=(1, 6, 6), classes=4, mean=(0.0,), std=(1.0,), public=public)
    create("feature_fishing", target=1, share=share).change(model, outset, seed=0)
    return model, observe(model, images, labels, classes=4)


def one_class(count: int, seed: int) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))
    return images, torch.ones(count, dtype=torch.int64)


def test_what_comes_in_is_counted_and_a_single_image_is_exact():
    attack, singles = create("feature_fishing", target=1, then="first_linear"), 0
    for seed in range(8):
        images, labels = one_class(10, seed)
        model, observation = victim(images, labels, share=0.05)
        head = model[-1]
        place = int(head.weight[1].abs().argmax())
        with torch.no_grad():
            features = model.eval()[:-1](images)[:, place]
        came = features > head.bias[1] / -head.weight[1, place]
        if came.sum() == 1:
            singles += 1
            answer = attack(observation, THREAT, model)
            assert answer.details["caught"] == 1
            assert psnr(answer.images, images[came], 1.0) > 100
            assert disaggregation(model, images, labels) > 1e3  # and a client can see it
        else:  # none, or several, which first_linear does not part
            with pytest.raises(NotApplicable, match=r"update is zero|batch"):
                attack(observation, THREAT, model)
    assert singles >= 2


def test_a_search_for_several_starts_where_something_has_a_slope():
    caught = []
    for seed in range(8):
        images, labels = one_class(10, seed)
        model, observation = victim(images, labels, share=0.05)
        attack = create("feature_fishing", target=1, then="inverting_gradients", iterations=20)
        if not any(bool(update.any()) for update in observation.update.values()):
            continue  # nothing came in
        answer = attack(observation, THREAT, model)
        assert answer.details["caught"] == len(answer.images)
        assert 0 < answer.loss < 1
        caught.append(len(answer.images))
    assert max(caught) > 1


def test_a_client_of_several_classes_is_declined():
    images, labels = one_class(6, 0)
    labels[3] = 2
    model, observation = victim(images, labels)
    with pytest.raises(NotApplicable, match="other classes than the target's"):
        create("feature_fishing", target=1)(observation, THREAT, model)
    with pytest.raises(ValueError, match="share = 0 is not in"):
        create("feature_fishing", share=0)
