"""Pictures: a table's scores with their intervals, and the length of answers in training (SVG)."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, isnan

from jinja2 import Environment, PackageLoader

from affectgpt_r1.emotion.significance import Interval
from affectgpt_r1_reproduction.plan import Table
from affectgpt_r1_reproduction.results import Found
from affectgpt_r1_reproduction.verdicts import Ground


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    f: Interval
    words: list[float]


def picture(table: Table, ground: Ground, found: Mapping[str, Found]) -> str:
    """An SVG of the settings that have results; empty where none has."""
    names = [name for name in table.settings if found[name].said]
    if not names:
        return ""
    intervals = [ground.interval("f", found[name].said) for name in names]
    curves = [found[name].curve("words_per_answer") for name in names]
    constant = ground.interval("f", {0: [ground.constant()] * len(ground.labels)}).value
    # Bounds are unknown where all clips are of one group.
    ends = [x for i in intervals for x in (i.low, i.value, i.high) if not isnan(x)]
    low = floor(20 * min(constant, *ends)) / 20
    high = max(ceil(20 * max(constant, *ends)) / 20, low + 0.05)
    loader = PackageLoader("affectgpt_r1_reproduction", "templates")
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template("table.svg").render(
        title=table.title,
        settings=[*map(_Row, names, intervals, curves)],
        constant=constant,
        low=low,
        high=high,
        ticks=[low + (high - low) * i / 4 for i in range(5)],
        most=max((value for curve in curves for value in curve), default=0.0),
    )
