"""A registry of named classes that finds its members by walking a package, on first use.

One file with one decorated class is all it takes to add a member: no list to edit, nothing imported before it is asked
for. `attacks` and `defenses` each hold one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Callable, Iterator
from functools import cached_property
from types import FunctionType
from typing import Any, Generic, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)


class UnknownName(KeyError):
    """A name that no member of the registry has; `nearest` is the closest one that exists, or None."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        self.kind, self.name, self.known = kind, name, known
        super().__init__(name)

    @cached_property
    def nearest(self) -> str | None:  # looked for where it is said alone: many ask only whether there is such a name
        return next(iter(difflib.get_close_matches(self.name, self.known, n=1)), None)

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"unknown {self.kind} {self.name!r}{hint} (known: {', '.join(self.known)})"


class BrokenFile(ImportError):
    """A file of a registry's package that cannot be imported: on one line which, where in it, and why."""

    def __init__(self, module: pkgutil.ModuleInfo, error: Exception) -> None:
        found = module.module_finder.find_spec(module.name, None)  # type: ignore[call-arg]
        file = found.origin if found is not None and found.origin else module.name
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        if isinstance(error, SyntaxError) and error.filename == file:
            lines = [error.lineno]
        where = f":{lines[-1]}" if lines else ""
        says = error.msg if isinstance(error, SyntaxError) else error
        super().__init__(f"{file}{where}: {type(error).__name__}: {' '.join(str(says).split())}")


class Registry(Generic[T]):
    """Classes by name, discovered in `package` and its sub-packages the first time somebody asks."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._members: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: `@register("clip")`. A second class of the same name is refused, and one with a parameter
        that is called like a method that it inherits: its value would stand where the method is called."""

        def decorate(cls: C) -> C:
            known = self._members.get(name)
            if known is not None and known.__qualname__ != cls.__qualname__:
                raise ValueError(f"{self.kind} {name!r} is already registered by {known.__module__}")
            for key in parameters(cls):
                owner = _owner_of_method(cls, key)
                if owner is not None:
                    raise ValueError(
                        f"{self.kind} {name!r}: its parameter {key} is called like a method of {owner.__name__}; "
                        "call it something else"
                    )
            cls.name = name  # type: ignore[attr-defined]
            self._members[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """All of them, sorted; raises `BrokenFile` where a file of the package cannot be imported."""
        self._discover()
        return sorted(self._members)

    def get(self, name: str) -> type[T]:
        """The class called `name`; raises `UnknownName`."""
        self._discover()
        if name not in self._members:
            raise UnknownName(self.kind, name, sorted(self._members))
        return self._members[name]

    def create(self, name: str, **params: Any) -> T:
        return self.get(name)(**params)

    def __iter__(self) -> Iterator[tuple[str, type[T]]]:
        return iter((name, self._members[name]) for name in self.names())

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                self._discovered = False  # whoever asks again is told again, not given the half that was found
                raise BrokenFile(module, error) from error


def _owner_of_method(cls: type, name: str) -> type | None:
    """The class from which another one inherits a method or property of that name; None if there is none."""
    methods = (FunctionType, classmethod, staticmethod, property, cached_property)
    return next((base for base in cls.__mro__[1:] if isinstance(vars(base).get(name), methods)), None)


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The keyword parameters of a member's constructor, in order: what a user may set in a scenario."""
    return {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    }
