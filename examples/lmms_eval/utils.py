"""Open-vocabulary emotion recognition as lmms-eval tasks: the functions that the YAML files name.

`corpus` gets all samples' labels and words and returns a figure of `affectgpt-r1 score`: the score
is the corpus' F (or HIT, or WAF), not a mean over samples. AFFECTGPT_R1_LEXICON_NAME chooses the
lexicon (`builtin`), AFFECTGPT_R1_LEXICON names the folder of the authors' tables. The file's own
name is lmms-eval's custom.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

# lmms-eval loads this file by its path, so Python does not look in the folders around it.
if (_EXAMPLES := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.append(_EXAMPLES)

from affectgpt_r1.dialogue import Mode
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.evaluation.scoring import HEADLINES, Metric, Rule
from emotion_tasks import (
    answer_row,
    figures,
    question,
    read_reply,
    signature_of,
)

Doc = Mapping[str, Any]
Item = Mapping[str, Any]

_COMMON = ("score", "low", "high", "constant", "without_words", "n", "signature")
#: What a task reports, by its metric: the names in `metric_list`.
FIGURES: Mapping[Metric, tuple[str, ...]] = {
    "ew": (*_COMMON, "coverage", "words_per_answer"),
    "hit": (*_COMMON, "coverage", "words_per_answer"),
    "sentiment": (*_COMMON, "accuracy", "without_polarity"),
}


def doc_to_visual(doc: Doc) -> list[object]:
    """The clip's video as a path, and its own sound file, where it has one, decoded."""
    folder = Path(os.environ.get("AFFECTGPT_R1_MANIFESTS", ".")).resolve()
    found: list[object] = [str(folder / doc["video"])] if doc.get("video") else []
    if doc.get("audio"):
        found.append(_sound(folder / doc["audio"]))
    return found


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None) -> str:
    """The question, with the subtitle; `mode` (answer or think) comes from the YAML file."""
    mode: Mode = (lmms_eval_specific_kwargs or {}).get("mode", "answer")
    return question(doc.get("subtitle") or "", mode)


def doc_to_target(doc: Doc) -> str:
    """The labels as one text."""
    return ", ".join(parse_labels(doc["labels"]))


def process_ew(doc: Doc, results: Sequence[str | None]) -> dict[str, Item]:
    """A sample whose labels are any words, by figure."""
    return _process("ew", doc, results)


def process_hit(doc: Doc, results: Sequence[str | None]) -> dict[str, Item]:
    """A sample whose label is one basic emotion, by figure."""
    return _process("hit", doc, results)


def process_sentiment(doc: Doc, results: Sequence[str | None]) -> dict[str, Item]:
    """A sample whose label is positive, negative or neutral, by figure."""
    return _process("sentiment", doc, results)


def corpus(items: Sequence[Item]) -> float | str:
    """The figure of all samples that these items ask for; NaN where it is not known."""
    metric, figure = items[0]["metric"], items[0]["figure"]
    lexicon = Lexicon.load(os.environ.get("AFFECTGPT_R1_LEXICON_NAME", "builtin"))
    rule = Rule(metric, lexicon.name)
    rows = [
        answer_row(
            f"{item['id']} ({place})", item["labels"], item["words"], metric, group=item["group"]
        )
        for place, item in enumerate(items)
    ]
    if figure == "signature":
        return signature_of(rows, rule, lexicon)
    name = HEADLINES[metric] if figure == "score" else figure
    return figures(rows, rule, lexicon).get(name, nan)


def _process(metric: Metric, doc: Doc, results: Sequence[str | None]) -> dict[str, Item]:
    """Labels and words under each figure's name; words are None where there is no reply."""
    reply = results[0] if results else None
    item = {
        "id": str(doc["id"]),
        "group": doc.get("group") or str(doc["id"]),
        "labels": parse_labels(doc["labels"]),
        "words": None if reply is None else list(read_reply(reply)),
        "metric": metric,
    }
    return {figure: {**item, "figure": figure} for figure in FIGURES[metric]}


def _sound(path: Path) -> dict[str, object]:
    """Sound as models of both kinds take it: the older ones samples, those of messages a path."""
    from affectgpt_r1.media.audio import RATE_HZ, read_waveform  # PyAV, where it is needed

    waveform, _ = read_waveform(path)
    return {"type": "audio", "path": str(path), "array": waveform, "sampling_rate": RATE_HZ}
