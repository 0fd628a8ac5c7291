"""Scores as people and papers want them: JSON, plain text, Markdown, LaTeX.

Nothing is computed here: every figure comes from the score's JSON object.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isnan
from typing import Any, Literal

Format = Literal["json", "text", "markdown", "latex"]

_TABULATE = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}


def json_row(record: Any) -> dict[str, Any]:
    """A dataclass as a JSON object, its fields in their order.

    Bounds that are unknown are null. Of an interval p is left out: it speaks of differences.
    """

    def plain(fields: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        return {name: _plain(value) for name, value in fields if name != "p"}

    return asdict(record, dict_factory=plain)


def render(row: Mapping[str, Any], form: Format) -> str:
    """A score as JSON, or as a table of its figures for people and papers."""
    if form == "json":
        return json.dumps(row, ensure_ascii=False)
    text = table_of(list(_figures(row)), ["", "value", "95 % interval"], form)
    cited = row["signature"]
    return f"% {cited}\n{text}" if form == "latex" else f"{text}\n\n{cited}"


def table_of(cells: Sequence[Sequence[str]], headers: Sequence[str], form: Format) -> str:
    """Cells as a table in plain text, Markdown or LaTeX."""
    from tabulate import tabulate

    return tabulate(cells, headers, tablefmt=_TABULATE[form], disable_numparse=True)


def _figures(row: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value and interval of every figure of a score."""
    for name, value in row.items():
        title = name.replace("_", " ")
        if name in ("f", "hit", "waf"):
            yield title, _number(value), _bounds(row["interval"])
        elif name == "constant":
            what, score = value.values()
            words = what if isinstance(what, str) else ", ".join(what)
            yield f"best constant answer ({words})", _number(score), ""
        elif name == "over_constant":
            yield title, _number(value["value"]), _bounds(value)
        elif name == "skipped":
            yield from ((f"left out: {reason}", str(count), "") for reason, count in value.items())
        elif name == "compared":
            for other in value:
                gap, p = other["difference"], other["p_holm"]
                corrected = "" if p is None else f" p (Holm) {_number(p)}"  # within one group
                yield f"minus {other['system']}", _number(gap["value"]), _bounds(gap) + corrected
        elif isinstance(value, int | float):
            yield title, _number(value), ""


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and isnan(value) else value


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _bounds(interval: Mapping[str, Any]) -> str:
    if interval["low"] is None:
        return ""
    return f"{interval['low']:.4f} to {interval['high']:.4f}"
