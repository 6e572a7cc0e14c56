"""Images that a decoder makes: the engine moves what they are made of."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from attack_victims import observe, paper_mlp
from torch import Tensor, nn
from torch.func import functional_call

from attacks import NotApplicable, Observation, ThreatModel, create
from attacks.generated import LATENT, WEIGHTS, Generated
from attacks.matching.deep_image_prior import Normalised, UntrainedDecoder
from attacks.unknowns import Setting
from defenses.client.round import ClientRound

PUBLIC = ThreatModel(auxiliary_data="public")


class Small(nn.Module):
    """With a batch norm that has seen something, which no attack may move."""

    latent_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 36))
        self.layers(torch.randn(16, 3))

    def forward(self, latents: Tensor) -> Tensor:
        return self.layers(latents).sigmoid().view(-1, 1, 6, 6)


@pytest.fixture(name="decoder")
def _decoder() -> Small:
    torch.manual_seed(0)
    return Small()


def setting(images: int) -> Setting:
    model = paper_mlp(dropout=0.0, inputs=36, width=8, classes=4)
    return Setting(
        model=model,
        images=images,
        classes=4,
        input_shape=(1, 6, 6),
        mean=(0.4,),
        std=(0.3,),
        noise_inputs={},
        matched=tuple(name for name, _ in model.named_parameters()),
        round=ClientRound(model=model, batch_size=images),
        sizes=(images,),
    )


def victim(decoder: nn.Module, *, images: int = 1) -> tuple[nn.Module, Observation, Tensor]:
    """A client whose images the decoder can nearly make."""
    torch.manual_seed(1)
    model = paper_mlp(dropout=0.0, inputs=36, width=16, classes=4)
    with torch.no_grad():
        made = decoder.eval()(torch.randn(images, 3))
    made = (made + 0.05 * torch.randn_like(made)).clamp(0, 1)
    return model, observe(model, made, torch.arange(images) % 4, classes=4), made


def test_each_image_of_each_problem_has_latents_and_weights_of_its_own(decoder):
    unknown = Generated(setting(2), decoder, weights=True, pace=0.5)
    free = {name: torch.randn(3, *value.shape) for name, value in unknown.start(lambda name: torch.Generator()).items()}
    free = {name: value.requires_grad_() for name, value in free.items()}
    images = unknown.values(free)["images"]
    slope = torch.randn_like(images)
    found = torch.autograd.grad(images, list(free.values()), slope)
    true = {name: torch.zeros_like(value) for name, value in free.items()}
    plain = copy.deepcopy(decoder).eval()
    for problem in range(3):
        for image in range(2):
            own = {name: value[problem, image].detach().requires_grad_() for name, value in free.items()}
            weights = {n: value.detach() + 0.5 * own[WEIGHTS + n] for n, value in plain.named_parameters()}
            pixels = functional_call(plain, weights, (own[LATENT][None],))
            torch.testing.assert_close(images[problem, image], ((pixels - 0.4) / 0.3)[0])
            slopes = torch.autograd.grad(((pixels - 0.4) / 0.3)[0], list(own.values()), slope[problem, image])
            for name, one in zip(own, slopes):
                true[name][problem, image] = one
    torch.testing.assert_close(dict(zip(free, found)), true)


def test_a_decoder_is_left_as_it_was(decoder):
    before = copy.deepcopy(decoder.state_dict())
    model, observation, _ = victim(decoder)
    create("gias", decoder=decoder.train(), iterations=10, restarts=1)(observation, PUBLIC, model)
    torch.testing.assert_close(decoder.state_dict(), before)
    assert decoder.training


def test_weights_of_its_own_find_what_no_latent_makes(decoder):
    model, observation, images = victim(decoder)
    keys = {"decoder": decoder, "restarts": 2, "latent": 0.0}
    latents = create("ggl", iterations=200, **keys)(observation, PUBLIC, model)
    both = create("gias", iterations=400, **keys)(observation, PUBLIC, model)
    assert both.loss < latents.loss / 4
    assert (both.images - images).square().mean() < (latents.images - images).square().mean() / 2
    assert both.iterations <= 400
    at = [place for place, _ in both.losses]
    assert at == sorted(at)


def test_a_batch_is_searched_for_together_with_its_labels(decoder):
    model, observation, _ = victim(decoder, images=2)
    unknown = replace(PUBLIC, labels="unknown")
    found = create("gias", decoder=decoder, iterations=40)(replace(observation, labels=None), unknown, model)
    assert found.images.shape == (2, 1, 6, 6)
    assert found.labels is not None


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 7), (2, 1, 1), (3, 64, 64)])
def test_the_untrained_decoder_makes_any_shape(shape):
    decoder = UntrainedDecoder(shape, 4)
    assert decoder(torch.zeros(2, *decoder.latent_shape)).shape == (2, *shape)


def test_what_an_attack_cannot_use_is_declined(decoder):
    model = paper_mlp(dropout=0.0, inputs=64, width=8, classes=4)
    observation = observe(model, torch.rand(1, 1, 8, 8), torch.tensor([0]), classes=4)
    with pytest.raises(NotApplicable, match=r"made shape \(2, 1, 6, 6\) .* accepted: \(2, 1, 8, 8\)"):
        create("ggl", decoder=decoder)(observation, PUBLIC, model)
    with pytest.raises(NotApplicable, match="auxiliary_data public"):
        create("ggl", decoder=decoder)(observation, ThreatModel(), model)
    with pytest.raises(ValueError, match="latent_shape"):
        create("ggl", decoder=nn.Identity())


def test_each_channel_is_normalised_over_its_own_pixels():
    images = torch.randn(3, 2, 4, 5) * torch.tensor([1.0, 4.0]).view(2, 1, 1) + 7
    flat = Normalised(2)(images).flatten(2)
    torch.testing.assert_close(flat.mean(2), torch.zeros(3, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat.var(2, correction=0), torch.ones(3, 2), rtol=0, atol=1e-3)
