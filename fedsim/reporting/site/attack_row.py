"""A row of the table of attacks: one entry, with all that the table calls it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from fedsim.files import key_of
from fedsim.reporting.entries.entry import Entry
from fedsim.reporting.entries.parts import Estimate
from fedsim.reporting.leaderboard import Span
from fedsim.scoring import intervals


@dataclass(frozen=True)
class AttackRow:
    """An entry as a row of the table of attacks."""

    stem: str
    entry: Entry
    setting_label: str
    attack_label: str
    scenario_label: str
    threat_label: str  # in which fields its threat model differs from others'; empty where all are alike
    setting_key: str
    defense_key: str
    defense_group: str  # defenses of one group are ranked against each other
    defense_threat_label: str  # as `threat_label`, of the fields that part defenses
    rank: int | None = None
    tied: bool = False
    by_range: bool = False  # the rank rests on ranges of fewer than six clients

    @property
    def group(self) -> str:
        """Attacks of one group are ranked against each other."""
        return key_of([self.setting_key, self.defense_key, self.entry.threat_model])

    @property
    def psnr(self) -> float:
        """Its median, to sort by: below all others where there is none."""
        psnr = self.entry.scores.psnr
        return float("-inf") if psnr is None else psnr.value

    @property
    def span(self) -> Span:
        psnr = self.entry.scores.psnr
        return (None, None) if psnr is None else (psnr.low, psnr.high)

    @property
    def heading(self) -> str:
        return f"{self.setting_label} · {self.entry.defense.label}"

    @property
    def note(self) -> str:
        return " · ".join(filter(None, (self.setting_note, self.threat_label)))

    @property
    def attack_name(self) -> str:
        return self.entry.attack.name

    @property
    def attack_apart(self) -> str:
        """The parameters that tell it from others of its name; empty where there are none."""
        if self.attack_label == self.attack_name:
            return ""
        return self.attack_label.removeprefix(f"{self.attack_name} (").removesuffix(")")

    @property
    def update_label(self) -> str:
        return {"gradient": "gradients", "delta": "weights", None: "unknown"}[self.entry.setting.update_kind]

    @property
    def setting_note(self) -> str:
        """What the label of the setting may leave out."""
        setting = self.entry.setting
        steps = f"{setting.local_steps} step{'' if setting.local_steps == 1 else 's'}"
        said = (f"batch {setting.batch_size}", steps, f"clients send {self.update_label}")
        return ", ".join(part for part in said if part not in self.setting_label)

    @property
    def range_level(self) -> float | None:
        """The level of the interval of its median where it is a range of too few clients; else None."""
        level = self.entry.scores.level
        return level if level is not None and level < intervals.LEVEL else None

    @property
    def verified(self) -> str:
        """`agrees`, or `agrees 2, differs 1`; empty where nobody repeated it."""
        outcomes = Counter(one.outcome for one in self.entry.verified)
        if len(outcomes) == 1 and outcomes.total() == 1:
            return next(iter(outcomes))
        return ", ".join(f"{outcome} {count}" for outcome, count in sorted(outcomes.items()))

    @property
    def values(self) -> list[Any]:
        """What the columns of the table are sorted by, from left to right."""
        entry, scores = self.entry, self.entry.scores
        return [
            self.rank,
            self.attack_label,
            value_of(scores.psnr),
            scores.coverage,
            *(value_of(score) for score in (scores.leaked_psnr, scores.ssim, scores.lpips)),
            scores.label_accuracy,
            value_of(scores.mask_accuracy),
            entry.cost.seconds,
            self.verified or None,
            self.scenario_label,
        ]


def value_of(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
