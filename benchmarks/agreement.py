"""How far the built-in lexicon and the lexical rules can stand in for tables and language models.

    python benchmarks/agreement.py --shared ../shared

Four comparisons on data that others made: HIT on AffectGPT's answers on MELD and F on human-checked
descriptions (EMER), built-in against the authors' tables; the share of words that each knows;
sentiment by polarity against the recorded sentiments of a 7B model on CMU-MOSI; and words taken out
of descriptions by the lexical rules against the same words taken from the last sentence alone, with
the paired interval. The rules were developed on the first 116 descriptions only. Some 3 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import hit_rate, score_corpus, score_sample
from affectgpt_r1.emotion.sentiment import sentiment_of, sentiment_scores
from affectgpt_r1.emotion.significance import bootstrap, difference, ew_statistic

#: So many descriptions were looked at while the extraction rules were made.
DEVELOPED_ON = 116
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_LONGEST_PHRASE = 5


@dataclass(frozen=True, slots=True)
class Agreement:
    """One figure of the built-in way beside that of the way it stands in for.

    Attributes:
        what: is compared.
        ours, theirs: the figures.
        low, high: 95 % interval of the difference, where the same samples allow one.
    """

    what: str
    ours: float
    theirs: float
    low: float | None = None
    high: float | None = None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Compare the built-in lexicon with others'.")
    named = os.environ.get("AFFECTGPT_R1_SHARED")
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=Path(named) if named else beside)
    parser.add_argument("--json", action="store_true", help="one JSON object, not a table")
    arguments = parser.parse_args()
    if not (arguments.shared / "reference/unibench/meld.jsonl").is_file():
        print(f"{arguments.shared} holds no reference data: name it with --shared", file=sys.stderr)
        raise SystemExit(2)
    rows = [*lexicon_rows(arguments.shared), *extraction_rows(arguments.shared)]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print(f"built-in lexicon {Lexicon.load().hash}\n")
    print("| | ours | theirs | difference |\n|---|---|---|---|")
    for row in rows:
        bounds = "" if row.low is None else f" ({row.low:+.3f} to {row.high:+.3f})"
        gap = row.ours - row.theirs
        print(f"| {row.what} | {row.ours:.4f} | {row.theirs:.4f} | {gap:+.4f}{bounds} |")


def lexicon_rows(shared: Path) -> list[Agreement]:
    """The built-in lexicon against the authors' tables and a 7B model's sentiments."""
    builtin = Lexicon.load()
    mer2025, mer2026 = (
        Lexicon.load(name, shared / "reference/emotion_wheel") for name in ("mer2025", "mer2026")
    )
    meld = read(shared / "reference/unibench/meld.jsonl")
    truth, said = [str(row["label"]) for row in meld], [str(row["prediction"]) for row in meld]
    answers = [parse_labels(text) for text in said]
    emer = read(shared / "data/text/emer_232.jsonl")
    labels = [parse_labels(row["labels"]) for row in emer]
    words = [plain_words(last_sentence(str(row["description"])), mer2026) for row in emer]
    pairs = list(zip(labels, words, strict=True))
    ours, theirs = (
        [score_sample(*pair, lexicon) for pair in pairs] for lexicon in (builtin, mer2026)
    )
    comments = read(shared / "data/text/goemotions_dev.jsonl")
    mosi = read(shared / "reference/unibench/cmumosi.jsonl")
    intensities = [float(str(row["label"])) for row in mosi]
    given = [str(row["sentiment"]) for row in mosi]
    polar = [sentiment_of(parse_labels(row["prediction"]), builtin) for row in mosi]
    return [
        Agreement(
            "MELD answers: HIT, built-in and mer2025",
            hit_rate(truth, said, builtin).hit,
            hit_rate(truth, said, mer2025, "reference").hit,
        ),
        Agreement(
            "EMER, last sentences: F, built-in and mer2026",
            score_corpus(labels, words, builtin).f,
            score_corpus(labels, words, mer2026).f,
        ),
        Agreement(
            "the same: correlation of the samples' scores, and the aim",
            statistics.correlation(ours, theirs),
            0.9,
        ),
        *(
            Agreement(f"share of {name} known", share(found, builtin), share(found, mer2026))
            for name, found in (
                ("EMER's labels", labels),
                ("GoEmotions' labels", [parse_labels(row["labels"]) for row in comments]),
                ("AffectGPT's words on MELD", answers),
            )
        ),
        Agreement(
            "CMU-MOSI: sentiments as the 7B model's, and the aim",
            sum(a == b for a, b in zip(polar, given, strict=True)) / len(given),
            0.93,
        ),
        Agreement(
            "CMU-MOSI: WAF, by polarity and by the 7B model",
            sentiment_scores(intensities, polar).waf,
            sentiment_scores(intensities, given).waf,
        ),
    ]


def extraction_rows(shared: Path) -> list[Agreement]:
    """The lexical rules against the last sentence alone, scored by mer2026 at the inner ring."""
    scorer = Lexicon.load("mer2026", shared / "reference/emotion_wheel")
    emer = read(shared / "data/text/emer_232.jsonl")
    rows = []
    parts = (
        (f"first {DEVELOPED_ON} descriptions (developed on)", emer[:DEVELOPED_ON]),
        (f"other {len(emer) - DEVELOPED_ON} descriptions", emer[DEVELOPED_ON:]),
    )
    for name, part in parts:
        labels = [parse_labels(row["labels"]) for row in part]
        texts = [str(row["description"]) for row in part]
        for reader in (scorer, Lexicon.load()):
            ways = (
                [extract_words(text, reader) for text in texts],
                [plain_words(last_sentence(text), reader) for text in texts],
            )
            ours, theirs = (
                ew_statistic(list(zip(labels, words, strict=True)), scorer) for words in ways
            )
            gap = bootstrap(difference(ours, theirs), range(len(part)), resamples=10_000)
            f = [score_corpus(labels, words, scorer).f for words in ways]
            what = f"{name}: F, rules and last sentence, words of {reader.name}"
            rows.append(Agreement(what, f[0], f[1], gap.low, gap.high))
    return rows


def read(path: Path) -> list[dict[str, object]]:
    """The rows of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def last_sentence(text: str) -> str:
    """What stands behind the last full stop but one."""
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part][-1]


def plain_words(text: str, lexicon: Lexicon) -> list[str]:
    """Every word of a lexicon in a text, longest match first, whatever is said of it."""
    tokens = _WORD.findall(text.lower())
    found: list[str] = []
    at = 0
    while at < len(tokens):
        phrases = (
            " ".join(tokens[at : at + length])
            for length in range(min(_LONGEST_PHRASE, len(tokens) - at), 0, -1)
        )
        phrase = next((phrase for phrase in phrases if lexicon.knows(phrase)), None)
        found += [] if phrase is None else [phrase]
        at += 1 if phrase is None else phrase.count(" ") + 1
    return found


def share(answers: Sequence[Sequence[str]], lexicon: Lexicon) -> float:
    """Share of the words that a lexicon knows."""
    words = [word for answer in answers for word in answer]
    return sum(map(lexicon.knows, words)) / len(words)


if __name__ == "__main__":
    main()
