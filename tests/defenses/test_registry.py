"""What a registry refuses when a class asks for a name."""

from __future__ import annotations

import dataclasses
import importlib
import sys

import pytest

from attacks.iterative import IterativeAttack
from defenses.base import Defense
from defenses.client.optimizers import Optimizer
from defenses.registry import BrokenFile, Registry


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


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("import os\n\n@register('x')\nclass X: ...\n", "3: NameError: name 'register' is not defined"),
        ("import os\nclass X\n", "2: SyntaxError: expected ':'"),
        ("import no_such_module\n", "1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('one\\n  two')\n", "1: ValueError: one two"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_line_and_reason_as_often_as_asked(
    tmp_path, monkeypatch, text: str, fault: str
) -> None:
    (tmp_path / "spoilt_members").mkdir()
    (tmp_path / "spoilt_members" / "__init__.py").touch()
    (file := tmp_path / "spoilt_members" / "own.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "spoilt_members", raising=False)
    registry: Registry[Defense] = Registry("defense", "spoilt_members")
    for _ in range(2):
        with pytest.raises(BrokenFile) as caught:
            registry.names()
        assert str(caught.value) == f"{file}:{fault}"
