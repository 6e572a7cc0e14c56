"""A group of victims made ready for the engine: one value, which an attack may hand on changed, as in several parts."""

from __future__ import annotations

from dataclasses import dataclass

from attacks.base import Progress
from attacks.engine import Redraw, Watch
from attacks.evaluators import Beliefs, Evaluator, choose
from attacks.layout import Layout
from attacks.problems import Problems
from attacks.step import Composition
from attacks.unknowns import Setting


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for, by what it is judged, and who is told of it.

    Args:
        iterations: at most this many.
        watch: sees every step and can change nothing.
        progress: is told how far it is.
        redraw: what is another draw in each iteration.
    """

    composition: Composition
    setting: Setting
    problems: Problems
    evaluator: Evaluator
    iterations: int
    watch: Watch | None = None
    progress: Progress | None = None
    redraw: Redraw | None = None


def evaluator_of(
    composition: Composition, setting: Setting, problems: Problems, *, selects: bool, compares: bool
) -> Evaluator:
    """What judges the guesses of these problems.

    Args:
        selects: of the updates it looks at what a defense that is known leaves to say.
        compares: likewise by the measure that this defense states.

    Raises:
        NotApplicable: nothing can.
    """
    layout = Layout(problems.start, composition.unknowns)
    guess = {**problems.known, **layout.guess(layout.pack(problems.start))}
    beliefs = Beliefs(composition.asking, problems.taken)
    return choose(
        setting.round,
        composition.objective,
        problems.observed,
        guess,
        layout.told,
        beliefs=beliefs,
        selects=selects,
        compares=compares,
    )
