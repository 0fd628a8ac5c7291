"""Make the constants of the signal-processing encoders from the clips of one or more manifests.

    PYTHONPATH=src python tools/standardise.py --manifest demo/cold-start.jsonl demo/grpo.jsonl
    PYTHONPATH=src python tools/standardise.py --manifest demo/*.jsonl real.jsonl

Writes `oriented-gradients.json` and `speech-signal.json`: means and standard deviations of raw
measurements, and a scale (src/affectgpt_r1/perception/signal.py). They are part of the encoders'
settings, so that models trained and features kept before are of another encoder afterwards.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import read_manifest
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole
from affectgpt_r1.media import MediaFlag, read_media
from affectgpt_r1.perception.signal import (
    DATA_FOLDER,
    GradientFaceEncoder,
    SignalSpeechEncoder,
    Standard,
    measure_edges,
)
from affectgpt_r1.perception.voice import measure_voice


def main() -> None:
    """Read the arguments, measure every clip, write the constants that could be measured."""
    parser = argparse.ArgumentParser(description="Make the constants of the signal encoders.")
    parser.add_argument("--manifest", type=Path, required=True, nargs="+", help="clips to measure")
    parser.add_argument("--output", type=Path, default=DATA_FOLDER, help="default: the package's")
    arguments = parser.parse_args()
    standardise(arguments.manifest, arguments.output)


def standardise(manifests: Sequence[Path], output: Path) -> None:
    """Measure the clips of manifests and write one file an encoder.

    Whole frames in place of faces are left out. An encoder for which no clip has anything keeps
    the file it has.

    Raises:
        InputError: a manifest or one of its clips cannot be read.
    """
    images: list[NDArray[np.float32]] = []  # (t, 512) a clip
    voices: list[NDArray[np.float32]] = []  # (t, 114) a clip
    for clip in chain.from_iterable(read_manifest(path) for path in manifests):
        media = read_media(clip)
        if len(media.faces) and MediaFlag.NO_FACE not in media.flags:
            images.append(measure_edges(media.faces))
        if len(media.windows):
            voices.append(measure_voice(media.windows))
    for kind, clips in ((GradientFaceEncoder, images), (SignalSpeechEncoder, voices)):
        _write(output / f"{kind.name}.json", clips, kind.least_std)


def _write(path: Path, clips: list[NDArray[np.float32]], least_std: float) -> None:
    if not clips:
        print(f"{path}: left as it is, no clip has anything to measure")
        return
    constants = fit(clips, least_std=least_std)
    save(constants, path)
    print(f"{path}: {len(clips)} clips, scale {constants.scale:.4f}, {constants.digest}")


def fit(clips: Sequence[NDArray[np.float32]], *, least_std: float = 0.0) -> Standard:
    """Measure the constants of one encoder.

    Args:
        clips: the raw measurements of each clip, (t, D), NaN where unknown.
        least_std: a smaller std becomes this, so that what hardly varies is not blown up.

    Raises:
        InputError: there is no clip.
    """
    if not clips:
        raise InputError("no clip to measure constants on: name a manifest with such media")
    known = np.ma.masked_invalid(np.concatenate(clips).astype(np.float64))  # (n, D)
    mean = known.mean(axis=0).filled(0)
    std = np.maximum(known.std(axis=0).filled(0), least_std)
    unscaled = Standard(_rounded(mean), _rounded(np.where(std > 0, std, 1)), 1.0, len(clips))
    means = np.stack([unscaled.apply(clip).mean(axis=0) for clip in clips])  # (clips, D)
    size = float(np.sqrt(np.mean(means.astype(np.float64) ** 2)))
    scale = round(1 / size, 4) if size > 0 else 1.0
    return Standard(unscaled.mean, unscaled.std, scale, len(clips))


def save(constants: Standard, path: Path) -> None:
    """Write constants as JSON; the file appears whole."""
    values = {
        "clips": constants.clips,
        "scale": constants.scale,
        "mean": [float(f"{value:.6g}") for value in constants.mean],
        "std": [float(f"{value:.6g}") for value in constants.std],
    }
    write_whole(path, json.dumps(values) + "\n")


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Six significant digits, so that what is written is what is used."""
    return np.array([float(f"{value:.6g}") for value in values], dtype=np.float32)


if __name__ == "__main__":
    main()
