"""Random sites: wherever a client draws something, it does so at a named site that says what one draw is for.

A site declares its **axes**, what has a draw of its own:

    ("client",)            one draw a round, such as the noise on an update
    ("step",)              one draw a mini-batch, such as a DropConnect mask or a MixUp weight
    ("step", "example")    one draw for each example of each step, such as a dropout mask

What was drawn in a round is one tensor a site: as it is, (steps, ...), or (examples of all steps, ...). Whoever
records, replays, optimises or scores noise reads the axes; nobody assumes that the first dimension is the example.

There are two kinds. *Structural* noise (a mask, a depth, a permutation) decides what is computed: an attacker may read
it off, enumerate it, or optimise it together with the images. *Additive* noise, one number an entry of the update, fits
any image at loss 0: nobody can optimise it, and an attacker who does not know it puts its mean in its place. So it is
with one bit an entry; where such a mask shows in the update, the defense says so by its `selection`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

Axis = Literal["client", "step", "example"]

ROUND: tuple[Axis, ...] = ("client",)
STEP: tuple[Axis, ...] = ("step",)
EXAMPLE: tuple[Axis, ...] = ("step", "example")

RARE = 1e-3
"""So rare that an attacker does not try it."""

Generators = Callable[[str, int], torch.Generator]
"""From a site's name and a step to a generator of its own: no site's draws depend on which others there are."""


class Site(ABC):
    """A place where something is drawn."""

    axes: tuple[Axis, ...] = ROUND
    structural: bool = True
    relaxable: bool = True
    """Whether gradient descent can move a draw; one that it cannot is enumerated (see `support`) or has to be known."""

    @abstractmethod
    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a noise for what it acts on, x."""

    @abstractmethod
    def rest(self, x: Tensor) -> Tensor | None:
        """What stands in the place of a draw that is not known: what evaluation mode has. None: x passes unchanged."""

    def relax(self, noise: Tensor) -> Tensor:
        """A drawn noise as a point of the continuous set that an attacker optimises over."""
        return noise

    def project(self, noise: Tensor) -> Tensor:
        """The nearest point of that set: what an attacker applies after every step."""
        return noise

    def penalty(self, noise: Tensor) -> Tensor:
        """How unlikely this noise of one problem is, as one non-negative number."""
        return noise.new_zeros(())

    def read(self, gradient: Mapping[str, Tensor], name: str, acts_on: torch.Size) -> Tensor | None:
        """The draw of one step that its gradient gives away by itself, as a point of the relaxed set; None: nothing.

        Args:
            gradient: by the names of all parameters that were trained, zero exactly where nothing came back.
            name: of this site.
            acts_on: the shape of what it acts on, (examples of the step, ...).
        """
        return None

    def support(self, limit: int, acts_on: torch.Size) -> Tensor | None:
        """All values (V, ...) that the draw of one step can take, if they are at most `limit`; all but unlikely ones,
        with a chance of less than `RARE` together.

        Args:
            acts_on: the shape of what it acts on, (examples of the step, ...).
        """
        return None


class Gaussian(Site):
    """Standard normal noise, one number for each entry of what it is added to."""

    structural = False

    def __init__(self, axes: tuple[Axis, ...] = ROUND) -> None:
        self.axes = axes

    def sample(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def rest(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Source(ABC):
    """Where a round's noise comes from: drawn, or given. The round sets `step` as it goes."""

    step: int = 0

    @abstractmethod
    def draw(self, name: str, site: Site, x: Tensor) -> Tensor | None:
        """The noise of a site in the present step, for what it acts on; None: it passes unchanged."""


class Sampling(Source):
    """Draws, and remembers what was drawn and where.

    Args:
        generators: as above, of the CPU.
        additive: whether additive noise is remembered too; it may be as large as the model.
    """

    def __init__(self, generators: Generators, *, additive: bool = True) -> None:
        self.generators, self._additive = generators, additive
        self.sites: dict[str, Site] = {}
        self.acts_on: dict[str, torch.Size] = {}
        self._draws: dict[str, list[Tensor]] = {}

    def draw(self, name: str, site: Site, x: Tensor) -> Tensor:
        noise = site.sample(x, on(x.device, self.generators(name, self.step if "step" in site.axes else 0)))
        if site.structural or self._additive:
            self.sites[name], self.acts_on[name] = site, x.shape
            self._draws.setdefault(name, []).append(noise.detach().clone())
        return noise

    @property
    def drawn(self) -> dict[str, Tensor]:
        """All that was remembered, one tensor a site."""
        return {name: joined(draws, self.sites[name].axes) for name, draws in self._draws.items()}


class Given(Source):
    """Replays what was drawn; sites of which nothing is given are at rest.

    Args:
        drawn: one tensor a site; where a defense makes several images of one it holds so many draws an example.
        sizes: how many examples each step has.
    """

    def __init__(self, drawn: Mapping[str, Tensor], sizes: Sequence[int]) -> None:
        self._drawn, self._sizes = drawn, sizes

    def draw(self, name: str, site: Site, x: Tensor) -> Tensor | None:
        found = self._drawn.get(name)
        return site.rest(x) if found is None else part_of(found, site.axes, self.step, self._sizes)


class Fixed(Source):
    """The same noise whatever the step: what another source gave in one."""

    def __init__(self) -> None:
        self._noise: dict[str, Tensor | None] = {}

    def noted(self, source: Source) -> Callable[[str, Site, Tensor], Tensor | None]:
        """The draws of another source, each of which is given again from now on."""

        def draw(name: str, site: Site, x: Tensor) -> Tensor | None:
            self._noise[name] = source.draw(name, site, x)
            return self._noise[name]

        return draw

    def draw(self, name: str, site: Site, x: Tensor) -> Tensor | None:
        return self._noise.get(name)


def joined(draws: Sequence[Tensor], axes: tuple[Axis, ...]) -> Tensor:
    """The draws of all steps as one tensor."""
    if "example" in axes:
        return torch.cat(list(draws))
    return torch.stack(list(draws)) if "step" in axes else draws[-1]


def part_of(drawn: Tensor, axes: tuple[Axis, ...], step: int, sizes: Sequence[int]) -> Tensor:
    """The draw of one step, of steps with so many examples each."""
    if "example" in axes:
        each = len(drawn) // sum(sizes)
        before = each * sum(sizes[:step])
        return drawn[before : before + each * sizes[step]]
    return drawn[step] if "step" in axes else drawn


def on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """The generator, or one seeded by it where it lives on another device."""
    if generator.device == device:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(int(seed))
