"""Five real little clips, their manifests, and replies to them, for the checks of evaluators."""

from __future__ import annotations

import wave
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from affectgpt_r1.clips import Clip, write_manifest
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import hit_rate, score_corpus
from affectgpt_r1.emotion.sentiment import sentiment_of, sentiment_scores
from affectgpt_r1.evaluation.unibench import SETS
from affectgpt_r1_demo.clips import write_mp4

RATE_HZ = 16_000
LABELS = (("joyful",), ("sad", "lonely"), ("angry", "annoyed"), ("worried",), ("surprised",))
#: In the form asked for, with reasoning, as a bare list, empty, and with an unknown word.
REPLIES = (
    "<answer>happy, glad</answer>",
    "<think>She looks down.</think><answer>gloomy</answer>",
    "1. Furious\n2. sad",
    "",
    "<answer>qwertyuiop, astonished</answer>",
)
WORDS = (("happy", "glad"), ("gloomy",), ("furious", "sad"), (), ("qwertyuiop", "astonished"))
#: One label a clip, by a set's metric.
SET_LABELS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "ew": LABELS,
    "hit": tuple(words[:1] for words in LABELS),
    "sentiment": (("positive",), ("negative",), ("negative",), ("negative",), ("neutral",)),
}


def write_clips(folder: Path) -> tuple[Clip, ...]:
    """Write the media: an mp4 with sound each, and a wav of its own for the first."""
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.1, 0.1, RATE_HZ).astype(np.float32)
    frames = [np.full((64, 64, 3), 20 * i, dtype=np.uint8) for i in range(10)]
    (folder / "clips").mkdir()
    with wave.open(str(folder / "clips/0.wav"), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    clips = []
    for i, labels in enumerate(LABELS):
        video = folder / f"clips/{i}.mp4"
        write_mp4(video, frames, sound)
        audio = folder / "clips/0.wav" if i == 0 else None
        clips.append(Clip(str(i), video, audio, subtitle=f"Line {i}.", labels=labels))
    return tuple(clips)


def write_manifests(folder: Path, clips: Sequence[Clip]) -> None:
    """Write `ov_mer.jsonl` and a manifest for each set of MER-UniBench over the same media."""
    write_manifest(folder / "ov_mer.jsonl", clips)
    for key, kind in SETS.items():
        labelled = zip(clips, SET_LABELS[kind.metric], strict=True)
        write_manifest(
            folder / f"{key}.jsonl",
            [Clip(c.id, c.video, c.audio, subtitle=c.subtitle, labels=row) for c, row in labelled],
        )


def set_scores(lexicon: Lexicon) -> dict[str, float]:
    """What `WORDS` score on each kind of set, by metric, by the project's own functions."""
    signs = {"positive": 1.0, "negative": -1.0, "neutral": 0.0}
    intensities = [signs[sign] for (sign,) in SET_LABELS["sentiment"]]
    said = [sentiment_of(words, lexicon) for words in WORDS]
    return {
        "ew": score_corpus(LABELS, WORDS, lexicon).f,
        "hit": hit_rate(SET_LABELS["hit"], WORDS, lexicon).hit,
        "sentiment": sentiment_scores(intensities, said).waf,
    }
