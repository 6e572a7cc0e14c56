"""What a registry refuses when a class asks for a name."""

from __future__ import annotations

import dataclasses

import pytest

from attacks.iterative import IterativeAttack
from defenses.base import Defense
from defenses.client.optimizers import Optimizer
from defenses.registry import Registry


def test_two_classes_of_one_name_are_refused() -> None:
    registry: Registry[Defense] = Registry("defense", "nowhere")
    registry.register("one")(type("One", (Defense,), {}))
    registry.register("one")(type("One", (Defense,), {}))  # the same file, imported anew
    with pytest.raises(ValueError, match="defense 'one' is already registered by "):
        registry.register("one")(type("Other", (Defense,), {}))


def test_a_parameter_called_like_a_hook_is_refused() -> None:
    """`self.bits = bits` would be called when the update's length is asked for."""

    class Few(Defense):
        def __init__(self, *, bits: int = 8) -> None:
            pass

    wanted = r"^defense 'few': its parameter bits is called like a method of Defense; call it something else$"
    with pytest.raises(ValueError, match=wanted):
        Registry("defense", "nowhere").register("few")(Few)


@pytest.mark.parametrize(("base", "key"), [(IterativeAttack, "compose"), (Optimizer, "surrogate"), (Defense, "grows")])
def test_so_it_is_where_the_parameter_is_a_field_or_the_method_a_property(base: type, key: str) -> None:
    cls = dataclasses.make_dataclass("Example", [(key, float, 1.0)], bases=(base,), kw_only=True)
    with pytest.raises(ValueError, match=f"its parameter {key} is called like a method of {base.__name__}"):
        Registry("example", "nowhere").register("example")(cls)
