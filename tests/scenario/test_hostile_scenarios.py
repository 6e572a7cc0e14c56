"""Scenarios that somebody made to break the reader: one line each, in seconds, and never much memory."""

from __future__ import annotations

import pytest

from fedsim.errors import BadInput
from fedsim.models.checks import check_size, positive
from fedsim.models.mlp import MLP
from fedsim.scenario import load

BASE = "name: a\nattacks: [cut]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [!!int '']", "'' cannot be read as a number"),
        ("seeds: [!!int 'x']", "'x' cannot be read as a number"),
        ("description: !!bool x", "'x' cannot be read as true or false"),
        ("description: !!float x", "'x' cannot be read as a number"),
        (f"seeds: [!!int '{'9' * 5000}']", "cannot be read as a number"),
        (f"seeds: [{'9' * 6000}]", "cannot be read as a number"),
        ('data: {name: npz, path: "a\\0b"}', "no such file"),
        ("data: {name: npz, path: ~nobody_here/x.npz}", "no such file"),
        ("data: {name: npz, path: /dev/zero}", "no such file"),
        ('model: {name: mlp, checkpoint: "a\\0b"}', "no such file"),
        (f"description: {'[' * 3_000}{']' * 3_000}", "nested too deeply"),
        ("b: {<<: {x: 1}}", "merge keys"),
        (f"seeds: [{','.join(map(str, range(100_000)))}]", "more than 20000 values"),
        ("a: &a [1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d "
         "[*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]", "values once its aliases are expanded"),
        ("model: {name: mlp, width: 50000}", "5,039,850,010 parameters; at most 1,000,000,000"),
        ("model: {name: mlp, depth: 100000}", "more than 1,000 layers"),
        ("model: {name: vit, depth: 100000}", "more than 1,000 layers"),
    ],
)  # fmt: skip
def test_it_is_one_line(tmp_path, text, said):
    path = tmp_path / "s.yaml"
    path.write_text(f"{BASE}{text}\n")
    with pytest.raises(BadInput) as error:
        load(path)
    message = str(error.value)
    assert said in message
    assert "\n" not in message
    assert len(message) - len(str(path)) <= 300


def test_the_size_of_a_model_is_known_before_it_is_built():
    with pytest.raises(ValueError, match=r"parameters; at most 1,000,000,000 are accepted"):
        check_size(MLP, {"input_shape": (1, 28, 28), "classes": 10, "width": 10**9})
    check_size(MLP, {"input_shape": (1, 28, 28), "classes": 10, "width": 8192})
    with pytest.raises(ValueError, match="more than 1,000 layers"):
        positive(depth=1001)
