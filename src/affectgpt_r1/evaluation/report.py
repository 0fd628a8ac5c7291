"""A one-page report: one self-contained HTML file that needs no network.

Scores with their intervals, how a run went, which classes are named too often or too rarely, and
the clips on which the model did worst and best, with their faces. It shows what `evaluate` and
training wrote; it computes no score of its own.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import sample_f
from affectgpt_r1.errors import MediaError, MissingFileError
from affectgpt_r1.evaluation.evaluate import Evaluation
from affectgpt_r1.evaluation.predict import Prediction
from affectgpt_r1.files import write_whole
from affectgpt_r1.media import read_media
from affectgpt_r1.media.attach import jpeg_uri

_SHOWN_CLIPS = 6  # best and worst each
_STRIP_HEIGHT = 72
_CURVES = (
    "reward",
    "accuracy",
    "words_per_answer",
    "distinct_answers",
    "frac_reward_zero_std",
    "loss",
)


@dataclass(frozen=True, slots=True)
class ClipCard:
    """One clip as the report shows it.

    Attributes:
        id, subtitle, labels, words, think, flags: of clip and prediction.
        f: the sample's score.
        strip: its faces as a JPEG data URI; "" where they cannot be read any more.
    """

    id: str
    subtitle: str
    labels: tuple[str, ...]
    words: tuple[str, ...]
    think: str | None
    flags: tuple[str, ...]
    f: float
    strip: str


def write_report(
    path: Path,
    clips: Sequence[Clip],
    predictions: Sequence[Prediction],
    result: Evaluation,
    lexicon: Lexicon,
    *,
    level: int = 1,
    run: Path | None = None,
) -> None:
    """Write the report of one evaluation; the file appears whole.

    Args:
        path: the HTML file.
        clips: with their labels; their media are read again for the faces.
        predictions: of the same clips.
        result: the scores.
        lexicon: words to classes.
        level: ring of the wheels.
        run: a run folder, whose curves are drawn.
    """
    said = {p.id: p for p in predictions}
    scored = [
        (sample_f(clip.labels or (), said[clip.id].words, lexicon, level), clip)
        for clip in clips
        if clip.labels is not None and clip.id in said
    ]
    scored.sort(key=lambda pair: (pair[0], pair[1].id))
    html = (
        _environment()
        .get_template("report.html")
        .render(
            result=result,
            lines=result.lines(),
            models=sorted({p.model for p in predictions}),
            how=sorted({p.signature for p in predictions}),
            problems=Counter(problem for p in predictions for problem in p.problems).most_common(),
            flags=Counter(flag for p in predictions for flag in p.flags).most_common(),
            words=Counter(word for p in predictions for word in p.words).most_common(20),
            curves=_curves(run) if run else "",
            wheels=_wheels(clips, said, lexicon, level),
            worst=[_card(f, clip, said[clip.id]) for f, clip in scored[:_SHOWN_CLIPS]],
            best=[_card(f, clip, said[clip.id]) for f, clip in scored[::-1][:_SHOWN_CLIPS]],
        )
    )
    write_whole(path, html)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("affectgpt_r1.evaluation", "templates"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _card(f: float, clip: Clip, prediction: Prediction) -> ClipCard:
    return ClipCard(
        clip.id,
        clip.subtitle,
        clip.labels or (),
        prediction.words,
        prediction.think,
        prediction.flags,
        f,
        _strip(clip),
    )


def _strip(clip: Clip) -> str:
    """The clip's faces side by side, small, as a data URI."""
    try:
        faces = read_media(clip).faces  # (t, 224, 224, 3)
    except (MediaError, MissingFileError):
        return ""
    if not len(faces):
        return ""
    size = (_STRIP_HEIGHT * len(faces), _STRIP_HEIGHT)
    return jpeg_uri(np.concatenate(list(faces), axis=1), size)


def _curves(run: Path) -> str:
    """The run's metrics over its steps, as inline SVG; "" where there are none."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return ""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    shown = [name for name in _CURVES if any(name in row for row in rows)]
    if not shown:
        return ""
    figure, axes = _figure(len(shown))
    for axis, name in zip(axes, shown, strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, color="#9db4c0", linewidth=1)
        width = max(len(values) // 10, 1)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.plot(steps[width - 1 :], smooth, color="#26547c", linewidth=2)
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set_xlabel("update", fontsize=8)
    return _svg(figure)


def _wheels(
    clips: Sequence[Clip], said: dict[str, Prediction], lexicon: Lexicon, level: int
) -> str:
    """For each wheel, the share of clips whose labels and answers name each class."""
    figure, axes = _figure(5)
    for wheel, axis in enumerate(axes):
        labelled: Counter[str] = Counter()
        predicted: Counter[str] = Counter()
        for clip in clips:
            if clip.labels is not None and clip.id in said:
                labelled.update(_classes(clip.labels, lexicon, level, wheel))
                predicted.update(_classes(said[clip.id].words, lexicon, level, wheel))
        names = sorted(labelled | predicted, key=lambda name: (-labelled[name], name))[:12]
        places = np.arange(len(names))
        total = max(len(said), 1)
        axis.barh(places - 0.2, [labelled[n] / total for n in names], 0.4, color="#9db4c0")
        axis.barh(places + 0.2, [predicted[n] / total for n in names], 0.4, color="#26547c")
        axis.set_yticks(places, names, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"wheel {wheel + 1}: share of clips", fontsize=9)
    figure.legend(["labels", "answers"], loc="lower right", fontsize=8)
    return _svg(figure)


def _classes(words: Sequence[str], lexicon: Lexicon, level: int, wheel: int) -> set[str]:
    found = (lexicon.classes(word, level)[wheel] for word in words)
    return {name for name in found if name is not None}


def _figure(count: int) -> tuple[Any, Any]:
    """A figure of `count` small axes, three a row; the rest of the grid is left empty."""
    from matplotlib.figure import Figure  # no pyplot: no window, no global state

    rows = -(-count // 3)
    figure = Figure(figsize=(10, 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis in grid[count:]:
        axis.axis("off")
    for axis in grid[:count]:
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, grid[:count]


def _svg(figure: Any) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = file.getvalue()
    return text[text.index("<svg") :]
