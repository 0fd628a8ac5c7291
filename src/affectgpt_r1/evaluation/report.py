"""A one-page report: one self-contained HTML file that needs no network.

Scores with their intervals, how a run went, what the five wheels make of labels and answers, and
the clips that tell most, with their faces and voices. Here its figures are gathered, as plain
numbers; the templates choose among them, draw and word. The one score computed here is a clip's.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import Pair, sample_f
from affectgpt_r1.errors import InputError, MediaError, MissingFileError
from affectgpt_r1.evaluation.answers import AnswerRow, Kept, is_texts
from affectgpt_r1.files import own_rows, write_whole, writing


def write_report(
    path: Path,
    lexicon: Lexicon,
    kept: Kept,
    result: Mapping[str, Any] | None,
    clips: Iterable[Clip] = (),
    before: Mapping[str, Kept] | None = None,
    *,
    level: int = 1,
    run: Path | None = None,
) -> None:
    """Write the report of answers, of a run, or of both; the file appears whole.

    Args:
        path: the HTML file.
        lexicon: words to classes.
        kept: answers with their labels; none where only a run is shown.
        result: their evaluation, where there are any.
        clips: those that were answered, as far as more is known of them than the answers tell. Of
            those that are shown, the media are read.
        before: the baseline's answers, by its name, with which they were compared.
        level: ring of the wheels.
        run: a run folder, whose curves are drawn.

    Raises:
        InputError: there is nothing to show, or the file cannot be written.
    """
    curves = _curves(run / "metrics.jsonl") if run else {}
    if result is None and not curves:
        raise InputError(f"{run} has no metrics.jsonl: name a run folder or a predictions file")
    known = {clip.id: clip for clip in clips}
    old = {row.id: words for other in (before or {}).values() for row, (_, words) in other}
    cards = [
        _card(row, pair, known.get(row.id) or Clip(row.id), old.get(row.id), lexicon, level)
        for row, pair in kept
    ]
    page = environment(lexicon).get_template("report.html")
    html = page.render(
        run=run.resolve().name if run else "",
        curves=curves,
        result=result,
        cards=cards,
        count=lambda name: Counter(text for card in cards for text in card[name]).most_common(),
        wheels=wheel_figures(kept.pairs, lexicon, level),
        media=cache(_media),
    )
    with writing(path):
        write_whole(path, html.encode(errors="replace"))  # a subtitle may hold half a character


def environment(lexicon: Lexicon) -> Environment:
    """The templates of this project's pages; `in_lexicon` tests whether a word is known."""
    loader = PackageLoader("affectgpt_r1.evaluation", "templates")
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.tests["in_lexicon"] = lexicon.knows
    return pages


def _card(
    row: AnswerRow,
    pair: Pair,
    clip: Clip,
    old: Sequence[str] | None,
    lexicon: Lexicon,
    level: int,
) -> dict[str, Any]:
    """A clip, and what was said of it.

    Args:
        row: the answer; what else its file's row holds may be of any kind.
        pair: the labels and the answer's words.
        clip: what is known of it besides its labels.
        old: the baseline's words.
        lexicon, level: what scores.

    Returns:
        The clip and its labels; `words` and `before`, each word with what came of it: hit (it
        shares a class with the labels), miss, or unknown to the lexicon; F, and its gain over the
        baseline's, None where nothing can be said; texts of the row, "" or [] where it has none.
    """
    (labels, words), given = pair, row.given
    judgeable = any(map(lexicon.counts, labels))

    def score(words: Sequence[str]) -> float | None:
        return sample_f(labels, words, lexicon, level) if judgeable else None

    def judged(words: Sequence[str]) -> dict[str, str]:
        wrong = {word: "miss" if lexicon.knows(word) else "unknown" for word in words}
        return {word: "hit" if score([word]) else kind for word, kind in wrong.items()}

    f, was = score(words), None if old is None else score(old)
    think = given.get("think") or parse_completion(str(given.get("completion") or "")).think
    return {
        "clip": clip,
        "labels": dict.fromkeys(labels),
        "words": judged(words),
        "before": None if old is None else judged(old),
        "f": f,
        "gain": None if f is None or was is None else round(f - was, 9),
        "subtitle": clip.subtitle or str(given.get("subtitle") or ""),
        "think": str(think or ""),
        "made_by": [str(given[name]) for name in ("model", "signature") if given.get(name)],
        **{key: t if is_texts(t := given.get(key)) else [] for key in ("flags", "problems")},
    }


def _media(clip: Clip) -> dict[str, Any]:
    """A clip's faces side by side as a data URI, its voice's envelope; or why there are none."""
    if not (clip.video or clip.audio or clip.faces):
        return {}
    try:  # only here are the libraries for media needed
        from affectgpt_r1.media.attach import portrait
        from affectgpt_r1.media.audio import read_waveform
        from affectgpt_r1.media.read import read_media

        faces = read_media(clip).faces  # (t, 224, 224, 3)
        sound, _ = read_waveform(clip.audio or clip.video)
    except (MediaError, MissingFileError, ImportError) as error:
        return {"fault": str(error)}
    return portrait(faces, sound)


def _curves(path: Path) -> dict[str, dict[str, Any]]:
    """Every figure of a run over its updates; none where there is no such file.

    Returns:
        By name: `span`, the first and last update; `points` (update, value), thinned to means over
        a few updates, and `smooth`, to means over a twentieth of the run; `alarms`, the updates at
        which the figure looked like trouble.
    """
    rows, curves = own_rows(path), {}
    for name in sorted({name for row in rows for name in row} - {"step", "epoch"}):
        values: list[tuple[int, Any]] = [(row["step"], row.get(name)) for row in rows]
        if found := [it for it in values if isinstance(it[1], int | float) and abs(it[1]) < 1e100]:
            curves[name] = {
                "span": (found[0][0], found[-1][0]),
                "points": _thinned(found, 240),
                "smooth": _thinned(found, 20),
                "alarms": [row["step"] for row in rows if name in row.get("alarms", ())],
            }
    return curves


def _thinned(points: Sequence[tuple[float, float]], most: int) -> list[list[float]]:
    """At most so many points, means of neighbours."""
    parts = np.array_split(np.array(points, dtype=np.float64), min(len(points), most))
    return [part.mean(axis=0).tolist() for part in parts]


def wheel_figures(
    clips: Sequence[tuple[Iterable[str], Iterable[str]]], lexicon: Lexicon, level: int
) -> list[dict[str, Any]]:
    """How many clips' labels and answers name each class of the five wheels, and what is confused.

    Args:
        clips: labels and words of each.
        lexicon, level: words to classes.

    Returns:
        Of each wheel `sectors` in their order: name, inner class, labels, answers; `confused`: the
        commonest pairs of a class that labels alone name and one that answers alone name, with
        their number.
    """

    def named(words: Iterable[str], wheel: int) -> set[str]:
        return {name for word in words if (name := lexicon.classes(word, level)[wheel])}

    figures = []
    for wheel, rings in enumerate(lexicon.tables.wheels):
        sides = [(named(labels, wheel), named(words, wheel)) for labels, words in clips]
        labels, answers = (Counter(name for side in sides for name in side[i]) for i in (0, 1))
        pairs = Counter(pair for true, said in sides for pair in product(true - said, said - true))
        inner = {rings[level - 1][word]: first for word, first in rings[0].items()}
        place = {name: i for i, name in enumerate(dict.fromkeys(rings[0].values()))}
        sectors = [
            {"name": name, "inner": inner[name], "labels": labels[name], "answers": answers[name]}
            for name in sorted(inner, key=lambda name: place[inner[name]])
        ]
        confused = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
        figures.append({"sectors": sectors, "confused": confused})
    return figures
