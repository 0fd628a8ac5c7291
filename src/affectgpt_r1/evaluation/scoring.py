"""A file of answers to a score that can be cited: metric, presets, comparison, tables.

Everything that `affectgpt-r1 score` does but its options. A preset is the combination of lexicon,
ring and parser by which a published number was made (METRIC.md); the score itself is `emotion`'s.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion import score, significance
from affectgpt_r1.emotion.labels import Parser, read_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.sentiment import sentiment_of, sentiment_scores
from affectgpt_r1.emotion.significance import Statistic, bootstrap
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.answers import AnswerRow, Kept, read_answers
from affectgpt_r1.evaluation.render import json_row
from affectgpt_r1.files import write_rows, writing

Metric = Literal["ew", "hit", "sentiment"]
PresetName = Literal["mer2025-track2", "mer2026-track2", "ovmerd-plus", "builtin"]
Extractor = Literal["none", "lexical", "openai"]
Sentiments = Literal["given", "lexicon", "openai"]

#: The figure that is a metric's score.
HEADLINES: Mapping[Metric, str] = {"ew": "f", "hit": "hit", "sentiment": "waf"}


@dataclass(frozen=True, slots=True)
class Rule:
    """How answers are read and scored.

    Attributes:
        metric: ew, hit, or sentiment.
        lexicon: name of the lexicon.
        levels: rings of the wheels; the score is the mean over them.
        parser: reads labels and answers.
        extractor: what takes words out of prose: none, lexical (`emotion.extract`) or openai
            (`prose.ask_words`).
        sentiments: given (the file's, and the lexicon's polarity where it has none), lexicon
            (polarity alone) or openai.
        server, model: of openai.
    """

    metric: Metric = "ew"
    lexicon: str = "builtin"
    levels: tuple[int, ...] = (1,)
    parser: Parser = "robust"
    extractor: Extractor = "none"
    sentiments: Sentiments = "given"
    server: str | None = None
    model: str | None = None


#: The published combinations (METRIC.md, "Score"), and this project's own.
PRESETS: Mapping[PresetName, Rule] = {
    "mer2025-track2": Rule("ew", "mer2025", (1, 2), "reference"),
    "mer2026-track2": Rule("ew", "mer2026", (1,), "reference"),
    "ovmerd-plus": Rule("ew", "mer2025", (1,), "reference"),
    "builtin": Rule(),
}


def rule_of(
    preset: PresetName | None,
    metric: Metric | None,
    lexicon: str | None,
    level: int | None,
    parser: Parser | None,
) -> Rule:
    """The rule that options amount to; what is None is the preset's, or else the default.

    Raises:
        InputError: an option contradicts the preset.
    """
    rule = PRESETS[preset] if preset else Rule()
    levels = (level,) if level else rule.levels
    chosen = Rule(metric or rule.metric, lexicon or rule.lexicon, levels, parser or rule.parser)
    if level and chosen.metric != "ew":
        raise InputError(f"--level is for --metric ew: {metric} has one ring")
    if preset and chosen != rule:
        against = [f.name for f in fields(Rule) if getattr(chosen, f.name) != getattr(rule, f.name)]
        raise InputError(f"--preset {preset} fixes {', '.join(against)}: leave one of them out")
    return chosen


def keep(rows: Sequence[AnswerRow], rule: Rule, source: str) -> Kept:
    """Parse rows for a metric.

    Raises:
        InputError: labels of the wrong kind for the metric, or a sample that is answered twice.
    """
    if twice := [name for name, count in Counter(row.id for row in rows).items() if count > 1]:
        raise InputError(
            f"{source}: {twice[0]!r} is answered twice: give each checkpoint and set a file of "
            "its own, or name them in the columns `checkpoint` and `dataset` for `unibench`"
        )
    if rule.parser == "reference" and any(row.prose is not None for row in rows):
        raise InputError(
            f"{source}: the reference parser reads texts and lists in `prediction`, and no "
            "completions: leave --parser and --preset out, or take the words out of them first"
        )
    signed, read = rule.metric == "sentiment", partial(read_words, parser=rule.parser)
    if wrong := [row.id for row in rows if isinstance(row.labels, int | float) != signed]:
        wanted = "numbers (intensities)" if signed else "emotion words"
        raise InputError(
            f"{source}: --metric {rule.metric} needs labels that are {wanted}, and those of "
            f"{wrong[0]!r} are not: choose another metric"
        )
    given = [
        row for row in rows if row.prediction is not None or (signed and row.sentiment is not None)
    ]
    pairs = [(() if signed else read(row.labels), read(row.prediction)) for row in given]
    many = [row.id for row, (labels, _) in zip(given, pairs, strict=True) if len(labels) > 1]
    if rule.metric == "hit" and many:
        raise InputError(
            f"{source}: hit needs one emotion a sample ({many[0]!r} has more): use --metric ew"
        )
    return Kept(tuple(given), tuple(pairs), len(rows) - len(given))


def read_kept(path: Path, rule: Rule, clips: Iterable[Clip] = ()) -> Kept:
    """Read a file of answers for a metric; labels stand in it or are those of clips.

    Raises:
        MissingFileError, ProblemsError, InputError: as `read_answers` and `keep`.
    """
    return keep(read_answers(path, clips), rule, str(path))


def score_row(
    kept: Kept, rule: Rule, lexicon: Lexicon, others: Mapping[str, Kept] | None = None
) -> dict[str, Any]:
    """The score of one system, with all that should stand beside it, as a JSON object.

    `others`, by name, are compared with it (`compare`).
    """
    if not kept.rows:
        raise InputError("none of the predictions could be obtained: there is nothing to score")
    if not can_be_scored(kept, rule, lexicon):
        raise InputError("no label can be scored by this metric and lexicon: there is no score")
    row_of = {"ew": _ew_row, "hit": _hit_row, "sentiment": _sentiment_row}[rule.metric]
    found, headline = row_of(kept, rule, lexicon), HEADLINES[rule.metric]
    interval = bootstrap(statistic_of(kept, rule, lexicon), kept.groups)
    row = {headline: found[headline], "interval": json_row(interval)} | found
    row["skipped"] |= score.reasons({"no prediction": kept.failed})
    row["signature"] = cited(kept, rule, lexicon)
    if others:
        row["compared"] = compare(kept, others, rule, lexicon)
    return row


def score_of(body: bytes, rule: Rule, lexicon: Lexicon) -> dict[str, Any]:
    """The score of JSON Lines that were sent, as `score_row`; run in another process by the server.

    Raises:
        InputError: they cannot be read or scored.
    """
    return score_row(keep(read_answers(body), rule, "what was sent"), rule, lexicon)


def can_be_scored(kept: Kept, rule: Rule, lexicon: Lexicon) -> bool:
    """Whether any label of the answered samples has a class, or for sentiment a sign."""
    if rule.metric == "sentiment":
        return any(_intensities(kept))
    return any(lexicon.counts(word) for labels, _ in kept.pairs for word in labels)


def cited(kept: Kept, rule: Rule, lexicon: Lexicon) -> str:
    """The signature of a score, which says where sentiments came from too."""
    served = f"openai:{rule.model}"
    extractor = served if rule.extractor == "openai" else rule.extractor
    levels = rule.levels if rule.metric == "ew" else (1,) if rule.metric == "hit" else (None,)
    sign = partial(score.signature, metric=rule.metric, parser=rule.parser, extractor=extractor)
    names = [sign(lexicon, level) for level in levels]
    if rule.metric == "sentiment":
        given = sum(row.sentiment is not None for row in kept.rows)
        source = served if rule.sentiments == "openai" else "given"
        if given < len(kept.rows):
            polar = lexicon if lexicon.tables.polarity else Lexicon.load()
            source = f"{polar.name}#{polar.hash}" + (f"+{source}" if given else "")
        names[0] += f"|sentiment:{source}"
    return " + ".join(names)


def _ew_row(kept: Kept, rule: Rule, lexicon: Lexicon) -> dict[str, Any]:
    """F at a ring, or its mean over both; the ceiling is F of the labels themselves."""
    labels, words = zip(*kept.pairs, strict=True)
    scored = partial(score.score_corpus, labels, words, lexicon, parser=rule.parser)
    first, *_ = rows = [json_row(scored(level=level)) for level in rule.levels]
    figures = ("f", "precision", "recall")
    best, f = score.best_constant(labels, lexicon, rule.levels)

    def f_of(answers: Sequence[Sequence[str]]) -> Statistic:
        pairs = list(zip(labels, answers, strict=True))
        return significance.ew_statistic(pairs, lexicon, rule.levels)

    over = significance.difference(f_of(words), f_of([best] * len(words)))
    return {
        **{name: fmean(row[name] for row in rows) for name in figures},
        "by_level": [{name: row[name] for name in (*figures, "wheels")} for row in rows],
        "constant": {"words": list(best), "f": f},
        "over_constant": json_row(bootstrap(over, kept.groups)),
        "ceiling": float(f_of(labels)(np.ones(len(labels)))),
        # What follows is the same at both rings.
        **{name: first[name] for name in ("coverage", "label_coverage", "words_per_answer")},
        "distinct_answers": len({frozenset(answer) for answer in words}),
        "clips": len(words),
        "groups": len(set(kept.groups)),
        "n": first["n"],
        "skipped": first["skipped"],
    }


def _hit_row(kept: Kept, rule: Rule, lexicon: Lexicon) -> dict[str, Any]:
    labels, said = zip(*kept.pairs, strict=True)
    found = score.hit_rate(labels, said, lexicon, rule.parser)
    words, hit = score.best_constant(labels, lexicon, metric="hit")
    return {"constant": {"words": list(words), "hit": hit}, **json_row(found)}


def _sentiment_row(kept: Kept, rule: Rule, lexicon: Lexicon) -> dict[str, Any]:
    labels = _intensities(kept)
    found = sentiment_scores(labels, _sentiments(kept, lexicon))
    signs = ("positive", "negative")
    best, sign = max((sentiment_scores(labels, [s] * len(labels)).waf, s) for s in signs)
    return {
        "constant": {"sentiment": sign, "waf": best},
        **json_row(found),
        "sentiments_given": sum(row.sentiment is not None for row in kept.rows),
        "without_polarity": sum(
            row.sentiment is None and not any(map(lexicon.polarity, words))
            for row, (_, words) in kept
        ),
    }


def _intensities(kept: Kept) -> list[float]:
    return [float(row.labels) for row in kept.rows if isinstance(row.labels, int | float)]


def _sentiments(kept: Kept, lexicon: Lexicon) -> list[str]:
    return [
        row.sentiment if row.sentiment is not None else sentiment_of(words, lexicon)
        for row, (_, words) in kept
    ]


def statistic_of(kept: Kept, rule: Rule, lexicon: Lexicon) -> Statistic:
    """The metric as a function of the samples' weights."""
    if rule.metric == "ew":
        return significance.ew_statistic(kept.pairs, lexicon, rule.levels)
    if rule.metric == "hit":
        return significance.hit_statistic(kept.pairs, lexicon)
    return significance.waf_statistic(_intensities(kept), _sentiments(kept, lexicon))


def compare(
    one: Kept, others: Mapping[str, Kept], rule: Rule, lexicon: Lexicon
) -> list[dict[str, object]]:
    """Each other system's score, and the paired difference of the first to it.

    Samples that one side has no prediction for are left out of that pair, and counted. p is the
    two-sided bootstrap value, `p_holm` the same corrected for the number of comparisons.

    Raises:
        InputError: the systems answered other samples, or other labels.
    """
    rows: list[dict[str, object]] = []
    known: dict[int, float] = {}
    for name, other in others.items():
        left, right = _paired(one, other, name)
        sides = [statistic_of(side, rule, lexicon) for side in (left, right)]
        interval = bootstrap(significance.difference(*sides), left.groups)
        if not isnan(interval.p):
            known[len(rows)] = interval.p
        n, score_of_it = len(left.rows), json_row(bootstrap(sides[1], right.groups))
        row = {"system": name, rule.metric: score_of_it, "difference": json_row(interval)}
        counts = {"n_paired": n, "n_unpaired": len(one.rows) + len(other.rows) - 2 * n}
        rows.append({**row, **counts, "signature": cited(right, rule, lexicon)})
    corrected = dict(zip(known, significance.holm(list(known.values())), strict=True))
    return [{**row, "p": known.get(i), "p_holm": corrected.get(i)} for i, row in enumerate(rows)]


def _paired(one: Kept, other: Kept, name: str) -> tuple[Kept, Kept]:
    """The samples that both answered, in one order."""
    answered = {row.id for row in other.rows}
    common = [row.id for row in one.rows if row.id in answered]
    if not common:
        raise InputError(f"{name} answers none of the samples: compare systems on the same ids")
    left, right = _part(one, common), _part(other, common)
    for sample, true, others in zip(common, left.truths, right.truths, strict=True):
        if true != others:
            raise InputError(f"{name} has other labels for {sample!r}: compare on the same data")
    return left, right


def _part(kept: Kept, ids: Sequence[str]) -> Kept:
    by_id = {row.id: (row, pair) for row, pair in kept}
    rows, pairs = zip(*[by_id[name] for name in ids], strict=True)
    return replace(kept, rows=rows, pairs=pairs)


def write_samples(path: Path, kept: Kept, rule: Rule, lexicon: Lexicon) -> None:
    """What each sample contributes: JSON Lines, whole or not at all."""
    samples = []
    sentiments = _sentiments(kept, lexicon) if rule.metric == "sentiment" else None
    levels = rule.levels if rule.metric == "ew" else (1,)
    found = [score.f1(score.statistics(kept.pairs, lexicon, level)) for level in levels]
    # By ring, sample and wheel.
    fs = [[[None if isnan(x) else x for x in wheels] for wheels in f.tolist()] for f in found]
    for i, (row, (_, words)) in enumerate(kept):
        sample: dict[str, object] = {"id": row.id, "labels": row.labels, "words": list(words)}
        if sentiments is not None:
            sample["sentiment"] = sentiments[i]
        elif rule.metric == "hit":
            sample["hits"] = [None if f is None else f > 0 for f in fs[0][i]]
        else:
            sample["wheels"] = [ring[i] for ring in fs]
            sample["f"] = float(np.nan_to_num([ring[i] for ring in found]).mean())
        sample["unknown"] = [word for word in words if not lexicon.knows(word)]
        samples.append(sample)
    with writing(path):
        write_rows(path, samples)
