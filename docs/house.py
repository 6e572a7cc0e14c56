"""The two drawings of docs/design.md: who may import whom, and the way of one image.

    python docs/house.py    # writes docs/house.svg and docs/way.svg

The first is drawn from the contracts in pyproject.toml, which `lint-imports` holds; a test compares both with what this
command writes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[1]

INK, MUTED, LINE, PAPER = "#1d2330", "#5b6472", "#98a2b3", "#ffffff"
FILLS = {"fedsim": "#e8f0fe", "attacks": "#fdece6", "defenses": "#e7f5ec", "seen": "#fff7dd", "sealed": "#efe9fb"}
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def main() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (ROOT / "docs" / "house.svg").write_text(house(contracts))
    (ROOT / "docs" / "way.svg").write_text(way())


@dataclass(frozen=True)
class Box:
    """A box at (x, y) of a drawing, with a bold title and lines below it; `mono`: the lines are names of code."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    title: str = ""
    lines: tuple[str, ...] = ()
    mono: bool = False

    def svg(self) -> str:
        shape = f'<rect x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" height="{self.height:g}" rx="6" '
        drawn = [shape + f'fill="{self.fill}" stroke="{LINE}"/>']
        texts = [(self.title, True), *((line, False) for line in self.lines)] if self.title else [
            (line, False) for line in self.lines
        ]  # fmt: skip
        top = self.y + self.height / 2 - 8.5 * (len(texts) - 1) + 4.5
        for row, (line, bold) in enumerate(texts):
            drawn.append(_text(self.x + self.width / 2, top + 17 * row, line, bold=bold, mono=self.mono and not bold))
        return "".join(drawn)


def house(contracts: Sequence[dict]) -> str:
    """Each package with its layers, from the top; what stands in one row does not know its neighbours."""
    layers = {one["containers"][0] if "containers" in one else "defenses": one["layers"] for one in contracts
              if one["type"] == "layers"}  # fmt: skip
    row, gap, head = 25, 7, 46
    tall = {name: head + (row + gap) * len(rows) + 8 for name, rows in layers.items()}
    width, left, right = 460, 20, 600
    places = {
        "fedsim": (left, 20),
        "attacks": (right, 20),
        "defenses": (left, 20 + tall["fedsim"] + 60),
    }
    drawn = []
    for name, (x, y) in places.items():
        drawn.append(Box(x, y, width, tall[name], FILLS[name]).svg())
        drawn.append(_text(x + 14, y + 24, name, bold=True, anchor="start", size=16))
        drawn.append(_text(x + width - 14, y + 24, SAID[name], anchor="end", muted=True))
        for index, layer in enumerate(layers[name]):
            parts = [part.strip().removeprefix(f"{name}.") for part in layer.split("|")]
            line = y + head + index * (row + gap)
            spare = width - 28 - 6 * (len(parts) - 1)
            letters, at = sum(len(part) + 3 for part in parts), x + 14.0
            for part in parts:
                share = spare * (len(part) + 3) / letters
                drawn.append(Box(at, line, share, row, PAPER, lines=(part,), mono=True).svg())
                at += share + 6
    entered = places["defenses"][1] + head + row + gap + row / 2  # at the client's round
    drawn += [
        _arrow((left + width, 60), (right, 60)),
        _arrow((left + width / 2, 20 + tall["fedsim"]), (left + width / 2, places["defenses"][1])),
        _arrow((right, min(entered, tall["attacks"])), (left + width, entered)),
        _text((left + width + right) / 2, 50, "imports", muted=True),
        _text(left + width / 2 + 10, 20 + tall["fedsim"] + 35, "imports", muted=True, anchor="start"),
        _text((left + width + right) / 2, entered + 18, "the round alone", muted=True),
    ]
    bottom = max(y + tall[name] for name, (_, y) in places.items())
    return _page(right + width + 20, bottom + 20, drawn)


SAID = {
    "fedsim": "the simulator: all that runs",
    "attacks": "the adversary: torch and numpy",
    "defenses": "the client: torch",
}


def way() -> str:
    """One victim image from the data set to the report, and where the barrier stands."""
    boxes = {
        "data": Box(20, 20, 300, 62, FILLS["fedsim"], "an image of a client's part",
                    ("fedsim/data/partition.py",), True),
        "batch": Box(20, 120, 300, 62, FILLS["fedsim"], "drawn into a batch, by names",
                     ("fedsim/federation/plan.py",), True),
        "play": Box(20, 220, 300, 79, FILLS["defenses"], "the client plays its round",
                    ("defenses/client/round.py: play", "fedsim/federation/client.py"), True),
        "reply": Box(20, 340, 300, 79, FILLS["fedsim"], "one Flower reply",
                     ("arrays: the update", "config record: the envelope")),
        "ear": Box(20, 460, 300, 79, FILLS["fedsim"], "the server parts them",
                   ("fedsim/federation/grid.py", "fedsim/recording/eavesdropper.py"), True),
        "seen": Box(395, 340, 230, 62, FILLS["seen"], "observations/", ("what the server saw",)),
        "grants": Box(395, 460, 230, 62, FILLS["seen"], "grants/", ("labels, noise: if granted",)),
        "truth": Box(395, 590, 230, 79, FILLS["sealed"], "truth/", ("batch, labels, what was drawn", "sealed")),
        "driver": Box(690, 340, 300, 79, FILLS["fedsim"], "the driver reads what is granted",
                      ("fedsim/observations.py", "fedsim/runs/attack.py"), True),
        "job": Box(690, 220, 300, 79, FILLS["attacks"], "an attack: tensors, no path",
                   ("attack(observation, threat_model,", "       model built afresh)"), True),
        "answer": Box(690, 120, 300, 62, FILLS["seen"], "jobs/", ("the answer: images, the attack's own loss",)),
        "score": Box(690, 590, 300, 79, FILLS["fedsim"], "scoring: matches and measures",
                     ("fedsim/scoring/job.py", "fedsim/truth.py"), True),
        "rows": Box(690, 710, 300, 62, FILLS["seen"], "results.parquet", ("one row for each image",)),
        "report": Box(395, 710, 230, 62, FILLS["fedsim"], "report, leaderboard", ("fedsim/reporting/",), True),
    }  # fmt: skip
    drawn = [
        f'<line x1="376" y1="556" x2="1024" y2="556" stroke="{INK}" stroke-width="2" stroke-dasharray="8 6"/>',
        _text(384, 549, "the barrier: nothing from below it reaches an attack", anchor="start", bold=True),
    ]
    drawn += [box.svg() for box in boxes.values()]
    for start, end in [("data", "batch"), ("batch", "play"), ("play", "reply"), ("reply", "ear")]:
        drawn.append(_down(boxes[start], boxes[end]))
    drawn += [
        _arrow((320, 478), (395, 380)), _arrow((320, 491), (395, 491)), _arrow((320, 504), (395, 620)),
        _arrow((625, 371), (690, 371)), _arrow((625, 482), (690, 400)),
        _arrow((840, 340), (840, 299)), _arrow((840, 220), (840, 182)),
        _arrow((625, 629), (690, 629)), _arrow((840, 669), (840, 710)), _arrow((690, 741), (625, 741)),
        _path("M990 151 H1024 V629 H990"),
    ]  # fmt: skip
    return _page(1044, 792, drawn)


def _down(upper: Box, lower: Box) -> str:
    return _arrow((upper.x + upper.width / 2, upper.y + upper.height), (lower.x + lower.width / 2, lower.y))


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    return _path(f"M{start[0]:g} {start[1]:g} L{end[0]:g} {end[1]:g}")


def _path(d: str) -> str:
    return f'<path d="{d}" fill="none" stroke="{INK}" stroke-width="1.6" marker-end="url(#tip)"/>'


def _text(
    x: float, y: float, text: str, *, bold: bool = False, mono: bool = False, muted: bool = False,
    anchor: str = "middle", size: float = 13,
) -> str:  # fmt: skip
    style = f' font-family="{MONO}"' if mono else ""
    weight = ' font-weight="600"' if bold else ""
    size = 12 if mono else size
    fill = MUTED if muted else INK
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size:g}" fill="{fill}"'
    return f"<text {place}{weight}{style}>{escape(text)}</text>"


def _page(width: float, height: float, drawn: Iterable[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="system-ui, sans-serif">'
    )
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>'
    )
    paper = f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>'
    return "\n".join([head, tip, paper, *drawn, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
