"""Scores as people and papers want them: JSON, plain text, Markdown, LaTeX.

Nothing is computed here: every figure comes from the score's JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

Format = Literal["json", "text", "markdown", "latex"]

_TABULATE = {"text": "simple", "markdown": "github", "latex": "latex_booktabs"}


def render(row: Mapping[str, object], form: Format) -> str:
    """A score as JSON, or as a table of its figures for people and papers."""
    if form == "json":
        return json.dumps(row, ensure_ascii=False)
    cells = [[name, *values] for name, values in _figures(row)]
    text = table(cells, ["", "value", "95 % interval"], form)
    cited = row["signature"]
    return f"% {cited}\n{text}" if form == "latex" else f"{text}\n\n{cited}"


def table(cells: Sequence[Sequence[str]], headers: Sequence[str], form: Format) -> str:
    """Cells as a table in plain text, Markdown or LaTeX."""
    from tabulate import tabulate

    return tabulate(cells, headers, tablefmt=_TABULATE[form], disable_numparse=True)


def _figures(row: Mapping[str, object]) -> list[tuple[str, tuple[str, str]]]:
    """Name, value and interval of every figure of a score."""
    figures: list[tuple[str, tuple[str, str]]] = []
    for name, value in row.items():
        title = name.replace("_", " ")
        if name in ("f", "hit", "waf"):
            figures.append((title, (_number(value), _bounds(row.get("interval")))))
        elif name == "constant" and isinstance(value, dict):
            what, score = value.values()
            words = what if isinstance(what, str) else ", ".join(what)
            figures.append((f"best constant answer ({words})", (_number(score), "")))
        elif name == "over_constant" and isinstance(value, dict):
            figures.append((title, (_number(value["value"]), _bounds(value))))
        elif name == "skipped" and isinstance(value, dict):
            figures += [
                (f"left out: {reason}", (str(count), "")) for reason, count in value.items()
            ]
        elif name == "compared" and isinstance(value, list):
            for other in value:
                gap = other["difference"]
                note = f"{_bounds(gap)} p (Holm) {_number(other['p_holm'])}"
                figures.append((f"minus {other['system']}", (_number(gap["value"]), note)))
        elif isinstance(value, int | float):
            figures.append((title, (_number(value), "")))
    return figures


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _bounds(interval: object) -> str:
    if not isinstance(interval, dict) or interval["low"] is None:
        return ""
    return f"{interval['low']:.4f} to {interval['high']:.4f}"
