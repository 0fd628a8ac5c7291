"""What people see on stderr while a command works: bars, or a line now and then, and tables.

Nothing here writes to stdout: that is the command's answer.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

people = Console(stderr=True)


def complain(message: str) -> None:
    """Say what is at fault, in one line."""
    sys.stderr.write(f"affectgpt-r1: {' '.join(message.split())}\n")


@contextmanager
def bars() -> Iterator[Callable[[str], Callable[..., None]]]:
    """Progress on stderr; each bar is a function told how many of how many are done.

    Bars on a terminal, which leave nothing behind; elsewhere now and then a line.
    """
    if not people.is_terminal:
        yield _line_by_line
        return
    columns = (*progress.Progress.get_default_columns(), progress.TextColumn("{task.fields[note]}"))
    with progress.Progress(*columns, console=people, transient=True) as shown:

        def bar(name: str) -> Callable[..., None]:
            """A bar that appears when it is first told something."""
            task = shown.add_task(name, start=False, visible=False, note="")

            def told(done: int, total: int, note: str = "") -> None:
                shown.start_task(task)
                text = f"{done}/{total} {shown.tasks[task].speed or 0:.3g}/s {note}"
                shown.update(task, completed=done, total=total, note=text, visible=True)

            return told

        yield bar


def _line_by_line(name: str) -> Callable[..., None]:
    """Progress for a log: a line every half a minute, with the rate and the time left."""
    began_s = last_s = time.monotonic()

    def told(done: int, total: int, note: str = "") -> None:
        nonlocal last_s
        if (now_s := time.monotonic()) - last_s >= 30:
            last_s, rate = now_s, max(done, 1) / (now_s - began_s)
            left = f"{rate:.3g} a second, {(total - done) / rate / 60:.0f} minutes left"
            people.print(f"{name} {done}/{total}, {left} {note}", highlight=False, soft_wrap=True)

    return told


def step(told: Callable[..., None], done: int, total: int, figures: Mapping[str, float]) -> None:
    """Tell a bar of a training step, with its figures beside it."""
    shown = ("loss", "reward", "accuracy", "words_per_answer")
    note = " ".join(f"{name} {figures[name]:.3f}" for name in shown if name in figures)
    told(done, total, note)


def shown(predictions: Iterator[Any]) -> Iterator[Any]:
    """The same predictions, each put on a card for people where they watch."""
    for said in predictions:
        if people.is_terminal:
            odd = ", ".join((*said.flags, *said.problems))
            lines = " · ".join(said.words or ("no words",)), said.think, odd
            text = escape("\n".join(filter(None, lines)))
            people.print(Panel(text, title=escape(said.id), subtitle=said.model, expand=False))
        yield said


def prepared_table(result: Any) -> None:
    """What was found of a data set, for people; what is not as it should be stands out."""
    title = f"{result.clips} clips in {result.manifest}"
    table = Table("", "", "clips", "such as", title=title, title_justify="left")
    for line in result.findings:
        first = escape(", ".join(line.first))
        style = None if line.kind in ("there", "extra") else "yellow"
        table.add_row(line.kind, line.what, f"{line.count:,}", first, style=style)
    people.print(table)


def audit_table(rows: Sequence[Any]) -> None:
    """What every way of answering gets from a reward, for people; the honest one stands out."""
    table = Table("", "reward", "above honest", "accuracy", "words")
    for row in rows:
        gain, style = row.over_honest, {"honest": "green", "bound": "dim"}.get(row.kind)
        above = f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" if gain else ""
        means = f"{row.terms['accuracy']:.3f}", f"{row.words_per_answer:.1f}"
        table.add_row(row.way, f"{row.reward.value:.3f}", above, *means, style=style)
    people.print(table)
