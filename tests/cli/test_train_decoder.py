"""`fedsim train-decoder`: a decoder of images that no client holds, as a scenario takes it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from fedsim import data, decoders
from fedsim.cli import app
from fedsim.errors import BadInput


@pytest.fixture(scope="module", name="mnist")
def _mnist() -> data.Dataset:
    return data.load({"name": "mnist"})


def test_it_learns_from_the_test_part_alone_and_from_its_seed(mnist):
    others = replace(mnist, train_images=mnist.train_images[:1] * 0)
    losses: list[float] = []
    keys = {"steps": 100, "latent": 8, "width": 4, "batch_size": 32}
    first = decoders.train(mnist, **keys, report=lambda step, loss: losses.append(loss))
    again = decoders.train(others, **keys)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    other = decoders.train(mnist, **keys | {"steps": 1}, seed=1)
    assert not torch.equal(first.first.weight, other.first.weight)
    assert losses[-1] < 784 * math.log(2) / 2  # half of what images cost of which nothing is known


def test_what_it_writes_is_what_a_scenario_takes(tmp_path):
    target = tmp_path / "digits.safetensors"
    shell = CliRunner()
    made = shell.invoke(
        app, ["train-decoder", "mnist", "--out", str(target), "--steps", "2", "--latent", "4", "--width", "4"]
    )
    assert made.exit_code == 0, made.output
    assert "1000 images that no client holds" in made.output
    block = made.output[made.output.index("attacks:") :].strip()
    scenario = tmp_path / "mine.yaml"
    scenario.write_text(f"name: mine\nmodel: {{name: mlp, width: 8}}\n{block}\n")
    checked = shell.invoke(app, ["check", str(scenario)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["mnits"], "unknown data set 'mnits'; did you mean 'mnist'?"),
        (["mnist", "--set", "test_fraction=0"], "accepted: at least 100"),
        (["mnist", "--set", "fraction=0.5"], "data.fraction=0.5: unknown key"),
    ],
)
def test_what_it_cannot_use_is_one_line(tmp_path, options, expected):
    with pytest.raises(BadInput) as caught:
        CliRunner().invoke(
            app, ["train-decoder", *options, "--out", str(tmp_path / "x"), "--steps", "1"], catch_exceptions=False
        )
    assert expected in str(caught.value)
    assert not (tmp_path / "x").exists()
