"""The templates, and how they print numbers. Everything that comes from a run is escaped."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedsim.reporting import formats


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("fedsim.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "decibel": formats.decibel,
        "number": formats.number,
        "percent": formats.percent,
        "count": formats.count,
        "seconds": formats.seconds,
        "accuracy": formats.accuracy,
        "epsilon": formats.epsilon,
        "times": formats.times,
    }
    made.globals |= {
        "interval": formats.interval,
        "percent_interval": formats.percent_interval,
        "rank_text": formats.rank_text,
        "accuracy": formats.accuracy,
        "points": formats.points,
        "level_text": formats.level_text,
    }
    return made
