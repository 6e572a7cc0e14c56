"""What a run says of each defense, and whether that is enough to act on. It never errs towards "safe".

A defense is judged by the strongest attack on it (`leaderboard.strongest`). That no attack rebuilt an image under it is
not yet a reason to use it: an attack that was not told of the defense, that did not converge or that does not even
rebuild the undefended client is no evidence. `objections` says what is missing; only a defense without any is
recommended. Everything is read off parameters and numbers, nothing off labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polars as pl

from fedsim.reporting import formats as f
from fedsim.reporting.leaderboard import DEFENSE, SETTING, Row, rows_of, strongest
from fedsim.reporting.naming import spoken
from fedsim.scoring import intervals

HELD = {"resists", "floor"}

IN_WORDS = {
    "leaks": "most images rebuilt",
    "partly": "some images rebuilt",
    "resists": "none rebuilt by the attacks tried",
    "floor": "no better than a guess",
}


@dataclass(frozen=True)
class Verdict:
    """How one model fared under one defense.

    Args:
        kind: `leaks` (at least half of the images), `partly`, `resists` (no image of any attack leaked), or `floor`
            (images above the criterion, but no better than a guess that never looks at the update).
        best: the board's row of the strongest attack.
        most: that of the attack which rebuilt the most images; the strongest, unless another rebuilt more.
        baseline: this is the undefended client.
        plain: the same of the undefended client in this setting; None where it was not attacked.
        loss: test accuracy lost against the undefended client, in [-1, 1]; None where it was not measured.
        slack: half the width of the 95 % interval of `loss`; None where it is not known.
        objections: why this defense is not recommended although it held; empty for one that leaked.
    """

    setting: str
    defense: str
    kind: str
    best: Row
    most: Row
    baseline: bool
    plain: Row | None
    loss: float | None
    slack: float | None
    objections: tuple[str, ...]

    @property
    def held(self) -> bool:
        return self.kind in HELD

    @property
    def recommended(self) -> bool:
        return self.held and not self.baseline and not self.objections

    @property
    def rebuilt(self) -> int:
        """Images that the attack with the most of them rebuilt, of `most["n"]`."""
        return round((self.most["leaked_psnr"] or 0.0) * self.most["n"])

    @property
    def in_words(self) -> str:
        """The verdict as a table shows it."""
        words = IN_WORDS[self.kind]
        return f"{words}; not evidence: {self.objections[0]}" if self.held and self.objections else words

    @property
    def more_than_plain(self) -> bool:
        """Whether the strongest attack did surely better than on the undefended client."""
        return not self.baseline and self.plain is not None and _below(self.plain, self.best)


def verdicts(board: pl.DataFrame) -> list[Verdict]:
    """One for each defense in each setting that an attack has answered, in the board's order."""
    found = []
    for best in rows_of(strongest(board)):
        here = _alike(board, best, DEFENSE)
        plain = rows_of(strongest(_alike(board, best, SETTING).filter("baseline")))
        undefended = None if best["baseline"] else (plain[0] if plain else None)
        most = _most(best, here)
        kind = _kind(best, most, here)
        loss, slack = _loss(best, undefended)
        held = kind in HELD and not best["baseline"]
        found.append(
            Verdict(
                setting=best["setting_label"],
                defense=best["defense_label"],
                kind=kind,
                best=best,
                most=most,
                baseline=best["baseline"],
                plain=undefended,
                loss=loss,
                slack=slack,
                objections=tuple(_objections(board, here, best, undefended)) if held else (),
            )
        )
    return found


def chosen_on(best: Row) -> str:
    """On whom the strongest attack was chosen."""
    return "development victims" if best["chosen_psnr"] is not None else "these victims"


def of_another_form(best: Row) -> str:
    """What utility and epsilon of a row are of, where that is another form of sharing than was attacked; or nothing."""
    cost = json.loads(best["cost_of"] or "{}")
    if cost.get("same_form", True):
        return ""
    steps = f"{cost['steps']} step{'' if cost['steps'] == 1 else 's'} of {cost['batch_size']}"
    what = "gradients" if cost["share"] == "gradient" else f"the weights after {steps}"
    return f"measured where clients share {what}, on which this defense acts differently than on what was attacked"


def _alike(board: pl.DataFrame, row: Mapping[str, object], columns: list[str]) -> pl.DataFrame:
    return board.filter(pl.all_horizontal(pl.col(key).eq_missing(pl.lit(row[key])) for key in columns))


def _most(best: Row, here: pl.DataFrame) -> Row:
    attacks = rows_of(here.filter((pl.col("role") == "attack") & (pl.col("answered") > 0)))
    return max([best, *attacks], key=lambda row: row["leaked_psnr"] or 0.0)


def _kind(best: Row, most: Row, here: pl.DataFrame) -> str:
    guess = here.filter(pl.col("role") == "floor")["psnr"].max()
    if not most["leaked_psnr"]:
        return "resists"
    if isinstance(guess, float) and best["psnr"] <= guess:
        return "floor"
    return "leaks" if most["leaked_psnr"] >= 0.5 else "partly"


def _loss(best: Row, plain: Row | None) -> tuple[float | None, float | None]:
    if plain is None or plain["utility"] is None or best["utility"] is None:
        return None, None
    spans = [(row["utility_low"], row["utility_high"]) for row in (best, plain)]
    known = [(low, high) for low, high in spans if low is not None and high is not None]
    slack = sum(((high - low) / 2) ** 2 for low, high in known) ** 0.5 if len(known) == len(spans) else None
    return plain["utility"] - best["utility"], slack


def _below(low: Row, high: Row) -> bool:
    """Whether one row's median is surely below another's: intervals of 95 %, wholly apart."""
    end, begin = low["psnr_high"], high["psnr_low"]
    sure = all((row["level"] or 0.0) >= intervals.LEVEL for row in (low, high))
    return sure and end is not None and begin is not None and end < begin


def _objections(
    board: pl.DataFrame, here: pl.DataFrame, best: Row, plain: Row | None
) -> Iterator[str]:
    """What a defense that held still lacks before anybody should rely on it."""
    if plain is None:
        yield "the undefended client was not attacked"
        return
    rivals = here.filter(pl.col("role") == "attack")
    failed = int(rivals.filter(pl.col("n") > 0)["failed"].sum())
    if failed:
        yield f"{failed} attack{' has' if failed == 1 else 's have'} failed"
    if (plain["leaked_psnr"] or 0.0) < 0.5:
        yield "the attacks did not rebuild most of the undefended client's images either"
    informed = rows_of(strongest(here, among=pl.col("informed")))
    if not informed:
        yield "no attack that takes it into account was tried"
    else:
        yield from _weaknesses(board, informed[0], best)
    yield from _likenesses(rivals)
    fewest = min(row["clients"] for row in (best, plain))
    if fewest < intervals.ENOUGH:
        yield f"{fewest} clients are too few for an interval ({intervals.ENOUGH} are needed)"
    elif not _below(best, plain):
        yield "its interval and that of the undefended client overlap"


def _likenesses(rivals: pl.DataFrame) -> Iterator[str]:
    """What tells whose image it is although it is not the image, as half of its patches do."""
    telling = rivals.filter(pl.col("identified") > 0)
    if len(telling):
        most = rows_of(telling.sort("identified", descending=True, maintain_order=True))[0]
        yield f"what {spoken(most['attack_label'])} made of it identifies {f.percent(most['identified'])} of the images"


def _weaknesses(board: pl.DataFrame, informed: Row, best: Row) -> Iterator[str]:
    """Why the strongest attack that knows the defense may be no measure of it."""
    name = spoken(informed["attack_label"])
    if float(f.decibel(informed["psnr"])) < float(f.decibel(best["psnr"])):  # to the digits that are printed
        yield (
            f"{name}, which takes it into account, is weaker ({f.decibel(informed['psnr'])} dB) than "
            f"{spoken(best['attack_label'])}, which does not ({f.decibel(best['psnr'])} dB)"
        )
    if informed["at_budget"]:
        yield f"{name} stopped at its budget of iterations before it converged"
    if not rebuilds_undefended(board, informed):
        yield f"{name} does not rebuild the undefended client"


def rebuilds_undefended(board: pl.DataFrame, row: Row) -> bool | None:
    """Whether the attack of a row rebuilds most images of the undefended client in its setting: else no defense can be
    said to stop it. None where it was not tried there."""
    undefended = _alike(_alike(board, row, SETTING).filter("baseline"), row, ["attack", "attack_params"])
    return any((rate or 0.0) >= 0.5 for rate in undefended["leaked_psnr"]) if len(undefended) else None
