"""MER-UniBench: nine data sets, one table (METRIC.md, "MER-UniBench").

The authors report, for each data set, the checkpoint that is best on its own test set. That is
optimistic, so a fixed checkpoint stands in a column of its own, and the two are never mixed. A set
without predictions is shown as missing, and no mean is formed over fewer than nine.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.answers import AnswerRow, read_answers


@dataclass(frozen=True, slots=True)
class BenchSet:
    """A data set of the benchmark: its metric and the number of its test samples."""

    title: str
    metric: scoring.Metric
    n: int


#: In the order of the published table.
SETS: Mapping[str, BenchSet] = {
    "mer2023": BenchSet("MER2023", "hit", 411),
    "mer2024": BenchSet("MER2024", "hit", 1169),
    "meld": BenchSet("MELD", "hit", 2610),
    "iemocap": BenchSet("IEMOCAP (4)", "hit", 1241),
    "cmumosi": BenchSet("CMU-MOSI", "sentiment", 686),
    "cmumosei": BenchSet("CMU-MOSEI", "sentiment", 4659),
    "chsims": BenchSet("CH-SIMS", "sentiment", 457),
    "chsimsv2": BenchSet("CH-SIMS v2", "sentiment", 1034),
    "ovmerdplus": BenchSet("OV-MERD+", "ew", 532),
}
_ALIASES = {"iemocap4": "iemocap", "iemocapfour": "iemocap", "sims": "chsims", "simsv2": "chsimsv2"}


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One line of the table.

    Attributes:
        title, metric, expected_n: of the data set.
        fixed: the score of the fixed checkpoint; None: it has no predictions for this set.
        best: the score of the checkpoint that is best on this very set, as published.
        best_checkpoint: which that is.
        n: rows that the fixed (or else the best) checkpoint answered.
        signature: of the score.
    """

    title: str
    metric: str
    expected_n: int
    fixed: float | None
    best: float | None
    best_checkpoint: str | None
    n: int
    signature: str | None


@dataclass(frozen=True, slots=True)
class Bench:
    """The table; means are None unless all nine sets are there.

    Attributes:
        rows: nine, missing sets among them.
        fixed_checkpoint: whose scores the fixed column holds.
        fixed_mean, best_mean: plain means of the nine, times 100.
        incomplete: sets that have fewer rows than the benchmark; a mean over them is not its score.
    """

    rows: tuple[BenchRow, ...]
    fixed_checkpoint: str
    fixed_mean: float | None
    best_mean: float | None
    incomplete: tuple[str, ...]


def metric_of(clips: Iterable[Clip]) -> scoring.Metric:
    """By what answers to clips are scored: their sets' metric where all have one, else ew."""
    found = {SETS[key].metric if (key := _key(c.dataset)) in SETS else "ew" for c in clips}
    return found.pop() if len(found) == 1 else "ew"


def _key(dataset: str | None) -> str:
    """The key of `SETS` that the name of a data set means, where it is of the benchmark."""
    name = re.sub(r"[^a-z0-9]", "", (dataset or "").lower().replace("+", "plus"))
    return _ALIASES.get(name, name)


def read_bench(paths: Sequence[Path]) -> list[AnswerRow]:
    """Rows of all files. Where rows name no checkpoint, a file is one, unless no set is in two.

    Raises:
        InputError: a row names no data set, or one that is not of the benchmark.
    """
    rows = []
    for path in paths:
        for row in read_answers(path):
            if (name := _key(row.dataset)) not in SETS:
                raise InputError(
                    f"{path}: {row.id!r} is of data set {row.dataset!r}, which is none of "
                    f"{', '.join(SETS)}: name it in the column `dataset`"
                )
            rows.append((path, replace(row, dataset=name)))
    unnamed = {(row.dataset, path) for path, row in rows if row.checkpoint is None}
    apart = len(unnamed) > len({dataset for dataset, _ in unnamed})
    stems = len({path.stem for path in paths}) == len(set(paths))
    own = {path: path.stem if stems else str(path) for path in paths}
    names = own if apart else dict.fromkeys(paths, "given")
    return [replace(row, checkpoint=row.checkpoint or names[path]) for path, row in rows]


def bench(
    rows: Sequence[AnswerRow], lexicon: Lexicon, rule: scoring.Rule, checkpoint: str | None = None
) -> Bench:
    """Score every set at every checkpoint.

    Args:
        rows: from `read_bench`.
        lexicon, rule: as published mer2025 and the reference parser; the metric is the set's.
        checkpoint: the fixed one; None: the last by name, numbers in their order. It is chosen
            without a look at the scores.

    Raises:
        InputError: no row is of that checkpoint, or a set has the same id twice.
    """
    named = sorted({row.checkpoint or "" for row in rows}, key=lambda name: (_natural(name), name))
    fixed = checkpoint if checkpoint is not None else named[-1]
    if fixed not in named:
        raise InputError(f"no prediction is of checkpoint {fixed!r}: there are {', '.join(named)}")
    table = []
    for key, kind in SETS.items():
        of_set = replace(rule, metric=kind.metric, levels=(1,))
        headline = scoring.HEADLINES[kind.metric]
        scores: dict[str | None, tuple[Any, int, Any]] = {}  # value, rows, signature
        for name in named:
            part = [row for row in rows if row.dataset == key and row.checkpoint == name]
            kept = scoring.keep(part, of_set, f"{key} at {name}")
            if scoring.can_be_scored(kept, of_set, lexicon):
                row = scoring.score_row(kept, of_set, lexicon)
                scores[name] = row[headline], len(kept.rows), row["signature"]
        # A checkpoint that answered fewer samples than the fixed one is no rival of it.
        rivals = [name for name in scores if scores[name][1] >= scores.get(fixed, (0, 0))[1]]
        best = max(rivals, key=lambda name: scores[name][0], default=None)
        top, n, cited = scores.get(best, (None, 0, None))
        # Without a fixed score, rows and signature are those of the best checkpoint.
        value, n, cited = scores.get(fixed, (None, n, cited))
        table.append(BenchRow(kind.title, headline, kind.n, value, top, best, n, cited))
    means = _mean([row.fixed for row in table]), _mean([row.best for row in table])
    incomplete = tuple(row.title for row in table if row.n < row.expected_n)
    return Bench(tuple(table), fixed, *means, incomplete)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return 100 * sum(known) / len(known) if len(known) == len(values) else None


def _natural(name: str) -> list[int | str]:
    """Names in the order in which people count: step-9 before step-10."""
    # Every second part is a number, so that a text never meets one.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def bench_lines(result: Bench) -> list[list[str]]:
    """The table's cells: data set, metric, rows, fixed and best checkpoint."""

    def cell(value: float | None) -> str:
        return "missing" if value is None else f"{100 * value:.2f}"

    lines = []
    for row in result.rows:
        whose = f" ({row.best_checkpoint})" if row.best_checkpoint else ""
        what = row.title, row.metric.upper(), f"{row.n} of {row.expected_n}"
        lines.append([*what, cell(row.fixed), cell(row.best) + whose])
    means = ["" if m is None else f"{m:.2f}" for m in (result.fixed_mean, result.best_mean)]
    note = f" ({len(result.incomplete)} incomplete)" if result.incomplete else ""
    lines.append([f"mean of nine{note}", "", "", *(m or "not all sets are there" for m in means)])
    return lines
