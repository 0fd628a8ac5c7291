"""A one-page report: one self-contained HTML file that needs no network.

Scores with their intervals, how a run went, which classes are named too often or too rarely, and
the clips on which the model did worst and best, with their faces. It shows what `evaluate` and
training wrote; it computes no score of its own.
"""

import io
import json
from collections import Counter
from collections.abc import Sequence
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
        clips: all of them labelled; their media are read again for the faces.
        predictions: of the same clips, in their order.
        result: the scores.
        lexicon: words to classes.
        level: ring of the wheels.
        run: a run folder, whose curves are drawn.
    """
    cards: list[dict[str, Any]] = [
        {"f": sample_f(clip.labels or (), said.words, lexicon, level), "clip": clip, "said": said}
        for clip, said in zip(clips, predictions, strict=True)
    ]
    cards.sort(key=lambda card: (card["f"], card["clip"].id))
    loader = PackageLoader("affectgpt_r1.evaluation", "templates")
    environment = Environment(
        loader=loader, autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html").render(
        result=result,
        models=sorted({p.model for p in predictions}),
        how=sorted({p.signature for p in predictions}),
        problems=Counter(problem for p in predictions for problem in p.problems).most_common(),
        flags=Counter(flag for p in predictions for flag in p.flags).most_common(),
        words=Counter(word for p in predictions for word in p.words).most_common(20),
        curves=_curves(run) if run else "",
        wheels=_wheels(clips, predictions, lexicon, level),
        worst=cards[:_SHOWN_CLIPS],
        best=cards[::-1][:_SHOWN_CLIPS],
        strip=_strip,
    )
    write_whole(path, html)


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
    clips: Sequence[Clip], predictions: Sequence[Prediction], lexicon: Lexicon, level: int
) -> str:
    """For each wheel, the share of clips whose labels and answers name each class."""
    figure, axes = _figure(5)
    for wheel, axis in enumerate(axes):
        labelled, predicted = (
            Counter(name for words in answers for name in _classes(words, lexicon, level, wheel))
            for answers in ([clip.labels or () for clip in clips], [p.words for p in predictions])
        )
        names = sorted(labelled | predicted, key=lambda name: (-labelled[name], name))[:12]
        places = np.arange(len(names))
        total = max(len(clips), 1)
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
