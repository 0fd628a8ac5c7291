"""The emotion-wheel score against the published algorithm, written down step by step.

    python benchmarks/score.py --repeats 7

Both score the same texts, in turn, and their results must agree to 1e-12: both rings of the corpus
and every reward, with the values recorded of the authors' code too. The opponent follows the
published steps (METRIC.md) as plainly as it can be written: every word is looked up anew for every
sample and wheel. "Tables preloaded" gives it its tables for nothing; "as published" rereads them
from the spreadsheets for every wheel of every reward, as the authors' code does; only a few of
these slow rewards are timed, and the time is scaled up to all (the authors' code itself was once
measured at 69 s for 1,000, METRIC.md). Last, the command line is timed as a whole process, its
cache warm. A ratio is the median of the repeats' ratios, each of two runs that stand next to each
other; the CPU time beside ours says how busy the machine was. A minute on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from openpyxl import load_workbook

from affectgpt_r1.emotion import Lexicon, labels, score_corpus, score_sample

TABLES = "mer2026"
WHEELS = range(1, 6)
TOLERANCE = 1e-12
#: Rewards that are timed with tables reread; more of them tell nothing new.
SLOW_REWARDS = 5

Forms = dict[str, list[str]]
Synonyms = dict[str, list[str]]
Wheel = dict[str, str]


@dataclass(frozen=True, slots=True)
class Samples:
    """The reference rows: texts as the parsers get them, and what the authors' code made of them.

    Attributes:
        labels, predictions: of each sample.
        rewards: at the inner ring.
        f: the corpus' F at each ring.
    """

    labels: list[str]
    predictions: list[str]
    rewards: list[float]
    f: dict[int, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """What the repeats of one measurement gave."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured; `load`: processes that wanted to run in the minute before."""

    cpus: int | None
    architecture: str
    python: str
    load: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: is measured.
        ours_s, ours_cpu_s: seconds on the clock and of CPU, child processes included.
        opponent_s: seconds on the clock; None: there is no opponent.
        ratio: opponent / ours, repeat by repeat.
        target: as it is to be read.
        met: whether the median meets it; None: there is no target.
    """

    what: str
    ours_s: Spread
    ours_cpu_s: Spread
    opponent_s: Spread | None
    ratio: Spread | None
    target: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Contest:
    """What is measured: ours against an opponent, or against a limit.

    Attributes:
        what: is measured.
        ours, opponent: timed without arguments; opponent None: there is none.
        scale: opponent's seconds are multiplied by this.
        least_ratio, most_s: the target, if any.
    """

    what: str
    ours: Callable[[], object]
    opponent: Callable[[], object] | None = None
    scale: float = 1.0
    least_ratio: float | None = None
    most_s: float | None = None


def main() -> None:
    """Check that the results are equal, measure, and print."""
    parser = argparse.ArgumentParser(description="Time the emotion-wheel score.")
    parser.add_argument("--repeats", type=int, default=7)
    named = os.environ.get("AFFECTGPT_R1_SHARED")
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=Path(named) if named else beside)
    parser.add_argument("--json", action="store_true", help="one JSON object, not a table")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats: at least 1")
    reference: Path = arguments.shared / "reference"
    needed = ("emotion_wheel", "oracle/random_1000.json", "unibench/meld.jsonl")
    lacking = [name for name in needed if not (reference / name).exists()]
    if lacking:
        print(
            f"{reference} lacks {', '.join(lacking)}: name the folder that holds `reference` with "
            "--shared or in AFFECTGPT_R1_SHARED",
            file=sys.stderr,
        )
        raise SystemExit(2)
    samples = read_samples(reference / "oracle/random_1000.json")
    check_equal(samples, reference / "emotion_wheel")
    load, python = os.getloadavg()[0], platform.python_version()
    machine = Machine(os.cpu_count(), platform.machine(), python, load)
    rows = measure(contests(samples, reference), arguments.repeats)
    if arguments.json:
        facts = {"machine": asdict(machine), "repeats": arguments.repeats, "tables": TABLES}
        print(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print("\n".join(table(rows, machine, arguments.repeats)))


# The opponent: the published algorithm, step by step.


def parse(value: object) -> list[str]:
    """The label parser."""
    if value is None or value != value or value == "":
        return []
    if isinstance(value, list):
        return [str(item).lower().strip() for item in value]
    text = str(value)
    if text.startswith("["):
        text = text[1:]
    if text.endswith("]"):
        text = text[:-1]
    words = []
    for piece in re.split("""['",]""", text):
        piece = piece.strip()
        if piece:
            words.append(piece.lower().strip())
    return words


def read_forms(path: Path) -> Forms:
    """Word form -> base forms."""
    forms: Forms = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            name = row["name"].strip().lower()
            for form in [name, *parse(row["format"])]:
                bases = forms.setdefault(form, [])
                if name not in bases:
                    bases.append(name)
    return forms


def read_synonyms(path: Path) -> Synonyms:
    """Base form -> wheel words: of each run, all runs together."""
    header, *rows = read_sheet(path)
    synonyms: Synonyms = {}
    for column in range(0, len(header), 2):
        for row in rows:
            word = str(row[column] or "").strip().lower()
            for base in [word, *parse(row[column + 1])] if word else []:
                words = synonyms.setdefault(base, [])
                if word not in words:
                    words.append(word)
    return synonyms


def read_wheel(path: Path, level: int) -> Wheel:
    """Wheel word -> class at a ring: blanks filled from above, the last writing wins."""
    tree: dict[str, dict[str, list[str]]] = {}
    inner = middle = ""
    for row in read_sheet(path)[1:]:
        cells = [str(cell or "").strip().lower() for cell in row[:3]]
        inner = cells[0] or inner
        middle = cells[1] or middle
        tree.setdefault(inner, {}).setdefault(middle, []).append(cells[2])
    wheel: Wheel = {}
    for inner, middles in tree.items():
        wheel[inner] = inner if level == 1 else sorted(middles)[0]
        for middle, outers in middles.items():
            wheel[middle] = inner if level == 1 else middle
            for outer in outers:
                wheel[outer] = inner if level == 1 else middle
    return wheel


def read_sheet(path: Path) -> list[tuple[object, ...]]:
    """The rows of a workbook's first sheet, in openpyxl's faster way of reading."""
    book = load_workbook(path, read_only=True)
    rows: list[tuple[object, ...]] = [
        tuple(row) for row in book.worksheets[0].iter_rows(values_only=True)
    ]
    book.close()
    return rows


def class_of(word: str, forms: Forms, synonyms: Synonyms, wheel: Wheel) -> str | None:
    """A word's class on a wheel: the alphabetically first of its wheel words that is there."""
    pool: list[str] = []
    for base in forms.get(word, []):
        pool.extend(synonyms.get(base, []))
    for candidate in sorted(pool):
        if candidate in wheel:
            return wheel[candidate]
    return None


def classes_of(words: list[str], forms: Forms, synonyms: Synonyms, wheel: Wheel) -> set[str]:
    """A sample's classes on a wheel."""
    classes = set()
    for word in words:
        found = class_of(word, forms, synonyms, wheel)
        if found is not None:
            classes.add(found)
    return classes


def wheel_f(
    labels: Sequence[str],
    predictions: Sequence[str],
    forms: Forms,
    synonyms: Synonyms,
    wheel: Wheel,
) -> float:
    """F of the mean precision and the mean recall on one wheel.

    One pass from the texts to F, as in the published code, which runs all of it for each wheel
    (METRIC.md counts 15 table loads a reward: forms, synonyms and wheel, five times).
    """
    precisions, recalls = [], []
    for label, prediction in zip(labels, predictions, strict=True):
        true = classes_of(parse(label), forms, synonyms, wheel)
        if not true:
            continue
        said = classes_of(parse(prediction), forms, synonyms, wheel)
        if not said:
            precisions.append(0.0)
            recalls.append(0.0)
            continue
        hits = len(true & said)
        precisions.append(hits / len(said))
        recalls.append(hits / len(true))
    if not precisions:
        return 0.0
    precision = sum(precisions) / len(precisions)
    recall = sum(recalls) / len(recalls)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@dataclass(frozen=True, slots=True)
class Preloaded:
    """The opponent with its tables at hand, for one ring."""

    forms: Forms
    synonyms: Synonyms
    wheels: list[Wheel]

    @staticmethod
    def load(folder: Path, level: int) -> Preloaded:
        """Read every table once."""
        return Preloaded(
            read_forms(folder / TABLES / "format.csv"),
            read_synonyms(folder / "synonym.xlsx"),
            [read_wheel(folder / f"wheel{i}.xlsx", level) for i in WHEELS],
        )

    def score(self, labels: Sequence[str], predictions: Sequence[str]) -> float:
        """F of a corpus; of one sample: its reward."""
        scores = [
            wheel_f(labels, predictions, self.forms, self.synonyms, wheel) for wheel in self.wheels
        ]
        return sum(scores) / len(scores)


def published_reward(label: str, prediction: str, folder: Path) -> float:
    """One reward as the authors' code computes it: three tables reread for each wheel."""
    scores = []
    for i in WHEELS:
        forms = read_forms(folder / TABLES / "format.csv")
        synonyms = read_synonyms(folder / "synonym.xlsx")
        wheel = read_wheel(folder / f"wheel{i}.xlsx", 1)
        scores.append(wheel_f([label], [prediction], forms, synonyms, wheel))
    return sum(scores) / len(scores)


# The contest.


def read_samples(path: Path) -> Samples:
    """The rows of `random_1000.json`."""
    recorded = json.loads(path.read_text(encoding="utf-8"))
    rows = recorded["rows"]
    return Samples(
        labels=[row["label"] for row in rows],
        predictions=[row["prediction"] for row in rows],
        rewards=[row["reward"] for row in rows],
        f={level: recorded["corpus"][f"level{level}"][0] for level in (1, 2)},
    )


def check_equal(samples: Samples, folder: Path) -> None:
    """Stop where ours, the opponent and the recorded values are not one and the same."""
    lexicon = Lexicon.load(TABLES, folder)
    labels, predictions = samples.labels, samples.predictions
    opponent = {level: Preloaded.load(folder, level) for level in (1, 2)}
    for level in (1, 2):
        ours = score_corpus(labels, predictions, lexicon, level, parser="reference").f
        theirs = opponent[level].score(labels, predictions)
        _same(f"corpus F at ring {level}", ours, theirs, samples.f[level])
    for i, (label, prediction) in enumerate(zip(labels, predictions, strict=True)):
        reward = score_sample(label, prediction, lexicon, parser="reference")
        theirs = opponent[1].score([label], [prediction])
        _same(f"reward of row {i}", reward, theirs, samples.rewards[i])
        if i < SLOW_REWARDS:
            slow = published_reward(label, prediction, folder)
            _same(f"reward of row {i}, tables reread", reward, slow, samples.rewards[i])


def _same(what: str, ours: float, opponent: float, recorded: float) -> None:
    if max(abs(ours - opponent), abs(ours - recorded)) > TOLERANCE:
        raise SystemExit(f"{what} differs: ours {ours}, opponent {opponent}, recorded {recorded}")


def contests(samples: Samples, reference: Path) -> list[Contest]:
    """Everything that is measured, in the order of the table."""
    folder = reference / "emotion_wheel"
    lexicon = Lexicon.load(TABLES, folder)
    opponent = Preloaded.load(folder, 1)
    pairs = list(zip(samples.labels, samples.predictions, strict=True))
    labels, predictions = samples.labels * 2, samples.predictions * 2
    few = pairs[:SLOW_REWARDS]

    def ours() -> object:
        return score_corpus(labels, predictions, lexicon, 1, parser="reference")

    def theirs() -> object:
        return opponent.score(labels, predictions)

    def rewards() -> object:
        return [score_sample(*pair, lexicon, parser="reference") for pair in pairs]

    def their_rewards() -> object:
        return [opponent.score([label], [prediction]) for label, prediction in pairs]

    corpus = f"corpus of {len(labels):,}, tables preloaded"
    some, scale = f"{len(pairs):,} rewards", len(pairs) / len(few)
    return [
        Contest(corpus, ours, theirs, least_ratio=10),
        Contest(f"{corpus}, memory emptied", forgetting(ours), theirs),
        Contest(f"{some}, tables preloaded", rewards, their_rewards, least_ratio=10),
        Contest(f"{some}, memory emptied", forgetting(rewards), their_rewards),
        Contest(
            f"{some}, as published ({len(few)} timed, x {scale:g})",
            rewards,
            lambda: [published_reward(*pair, folder) for pair in few],
            scale,
            least_ratio=1000,
        ),
        *(
            Contest(
                f"`affectgpt-r1 score --metric {metric}`, MELD",
                command(reference / "unibench/meld.jsonl", metric),
                most_s=0.6,
            )
            for metric in ("hit", "ew")
        ),
    ]


def forgetting(run: Callable[[], object]) -> Callable[[], object]:
    """The same without the texts that the parser remembers from earlier repeats."""

    def fresh() -> object:
        labels._reference.cache_clear()
        return run()

    return fresh


def command(path: Path, metric: str) -> Callable[[], object]:
    """The command line on a file of answers, as a process of its own."""
    script = Path(sys.executable).with_name("affectgpt-r1")
    options = ["--metric", metric, "--lexicon", "builtin"]

    def run() -> object:
        done = subprocess.run(
            [str(script), "score", str(path), *options], check=True, capture_output=True
        )
        return json.loads(done.stdout)

    return run


def measure(measured: Sequence[Contest], repeats: int) -> list[Row]:
    """Time everything in turn, so that whatever slows the machine slows all alike."""
    for contest in measured:  # files, caches and bytecode become warm
        contest.ours()
    ours: list[list[tuple[float, float]]] = [[] for _ in measured]
    theirs: list[list[float]] = [[] for _ in measured]
    for _ in range(repeats):
        for i, contest in enumerate(measured):
            ours[i].append(taken(contest.ours))
            if contest.opponent is not None:
                theirs[i].append(taken(contest.opponent)[0] * contest.scale)
    return [to_row(*results) for results in zip(measured, ours, theirs, strict=True)]


def taken(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one run: on the clock, and of CPU with child processes."""
    cpu, clock = _cpu_s(), time.perf_counter()
    run()
    return time.perf_counter() - clock, _cpu_s() - cpu


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def to_row(contest: Contest, ours: Sequence[tuple[float, float]], theirs: Sequence[float]) -> Row:
    """A contest's line of the table; `theirs` is empty where there is no opponent."""
    clock, cpu = (spread(times) for times in zip(*ours, strict=True))
    ratio = None
    if theirs:
        ratio = spread([other / own for (own, _), other in zip(ours, theirs, strict=True)])
    target, met = "", None
    if contest.least_ratio is not None and ratio is not None:
        target, met = f">= {contest.least_ratio:,g} x", ratio.median >= contest.least_ratio
    elif contest.most_s is not None:
        target, met = f"<= {contest.most_s:g} s", clock.median <= contest.most_s
    return Row(contest.what, clock, cpu, spread(theirs) if theirs else None, ratio, target, met)


def spread(values: Sequence[float]) -> Spread:
    """Least, median and largest."""
    return Spread(min(values), statistics.median(values), max(values))


def table(rows: Sequence[Row], machine: Machine, repeats: int) -> list[str]:
    """The rows as the lines of a Markdown table."""
    lines = [
        f"{machine.cpus} CPUs ({machine.architecture}), load {machine.load:.1f} at the start, "
        f"Python {machine.python}. Median (least to largest) of {repeats} repeats; tables: "
        f"{TABLES}; results equal to {TOLERANCE:g}.",
        "",
        "| | ours, s | ours, CPU s | opponent, s | opponent / ours | target | met |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        spreads = (row.ours_s, row.ours_cpu_s, row.opponent_s, row.ratio)
        met = "" if row.met is None else "yes" if row.met else "no"
        lines.append(f"| {' | '.join([row.what, *map(_cell, spreads), row.target, met])} |")
    return lines


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return ""
    median, low, high = (
        f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        for value in (spread.median, spread.low, spread.high)
    )
    return f"{median} ({low} to {high})"


if __name__ == "__main__":
    main()
