"""The encoders of the nano and small profiles: signal processing, no trained weights.

`GradientFaceEncoder` describes a face by the directions of its edges (histograms of oriented
gradients, Dalal and Triggs 2005), `SignalSpeechEncoder` a voice by the measures of `voice.py`.
They see and hear far less than CLIP and HuBERT; they need no download and cost milliseconds.

Pooling is quadratic in the features and unnormalised (MODEL.md, "Ours"), so every value is
standardised: `scale * clip((raw - mean) / std, -5, 5)`, where mean and std are of the windows (or
pictures) of many clips, and scale brings a clip's mean over its windows to root mean square 1. An
unknown value (NaN: the pitch of a window without voice) becomes 0, the mean of all that are known.
These constants are measurements, not data; `tools/standardise.py` makes them from a manifest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from affectgpt_r1.errors import InputError, MissingFileError
from affectgpt_r1.perception.voice import NAMES, measure_voice

#: Where the package keeps its constants: one JSON file an encoder, named after it.
DATA_FOLDER = Path(__file__).parent / "data"

_LIMIT = 5.0  # standard deviations
_SIDE = 96  # pixels of the resized picture
_CELLS = 8  # a row and a column
_CELL_SIDE = _SIDE // _CELLS
_CELL_OF_PIXEL = (np.arange(_SIDE) // _CELL_SIDE)[:, None] * _CELLS + np.arange(_SIDE) // _CELL_SIDE
_DIRECTIONS = 8  # of half a turn: dark on light equals light on dark
_FLAT = 0.005  # mean gradient around a cell, grey from 0 to 1, that is no more than noise


@dataclass(frozen=True, slots=True, eq=False)
class Standard:
    """Constants of one encoder.

    Attributes:
        mean: (D,) float32.
        std: (D,) float32, above 0.
        scale: applied after standardising.
        clips: how many clips they were measured on.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    scale: float
    clips: int

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read constants.

        Raises:
            MissingFileError: there is no such file.
            InputError: it is damaged.
        """
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            mean, std = (np.asarray(read[name], dtype=np.float32) for name in ("mean", "std"))
            return cls(mean, std, float(read["scale"]), int(read["clips"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise (MissingFileError if missing else InputError)(
                f"{path}: no constants of an encoder ({error!r}): install the package again, or "
                "make them with tools/standardise.py"
            ) from None

    @property
    def digest(self) -> str:
        """Sixteen hex digits that change with the constants."""
        digest = hashlib.sha256(self.mean.tobytes() + self.std.tobytes())
        digest.update(repr(self.scale).encode())
        return digest.hexdigest()[:16]

    def apply(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Standardise (t, D); unknown values become 0."""
        values = np.clip((raw - self.mean) / self.std, -_LIMIT, _LIMIT) * np.float32(self.scale)
        return np.asarray(np.nan_to_num(values, nan=0.0), dtype=np.float32)


class _SignalEncoder:
    """Standardised measurements of pictures or windows.

    Args:
        standard: other constants than the package's.

    Raises:
        MissingFileError, InputError: the package's constants are missing or damaged.
    """

    name: str
    settings: Mapping[str, str | int | float | bool]
    #: A measurement's least standard deviation, for those who make the constants.
    least_std = 0.0

    def __init__(self, standard: Standard | None = None) -> None:
        self.standard = standard or Standard.load(DATA_FOLDER / f"{self.name}.json")
        self.settings = {"version": 1, "constants": self.standard.digest}


class GradientFaceEncoder(_SignalEncoder):
    """Histograms of oriented gradients: 8 x 8 cells x 8 directions a picture."""

    name = "oriented-gradients"
    width = _CELLS * _CELLS * _DIRECTIONS
    #: A cell of a plain background hardly varies; blown up, its noise would drown the face.
    least_std = 0.05

    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB pictures (t, H, W, 3) of any size to (t, 512), standardised."""
        return self.standard.apply(measure_edges(images))


class SignalSpeechEncoder(_SignalEncoder):
    """Energy, spectrum, pitch, roughness and rate of each window: 114 measures."""

    name = "speech-signal"
    width = len(NAMES)

    def encode(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode raw 16 kHz windows (t, 32000) to (t, 114); a silent window is all zeros."""
        return self.standard.apply(measure_voice(windows))


def measure_edges(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The raw histograms (t, 512), ordered by row, column, direction; from 0 to 3."""
    grey = np.stack([_grey(image) for image in images])  # (t, 96, 96)
    down, right = np.gradient(grey, axis=(1, 2))
    size = np.hypot(right, down)
    turn = np.arctan2(down, right) / np.pi * _DIRECTIONS  # in bins, -8 to 8
    lower = np.floor(turn)
    share = turn - lower  # of the upper of two neighbouring bins
    cell = np.arange(len(images))[:, None, None] * _CELLS**2 + _CELL_OF_PIXEL
    votes = np.zeros(len(images) * _CELLS**2 * _DIRECTIONS)
    for bins, weights in ((lower, size * (1 - share)), (lower + 1, size * share)):
        places = cell * _DIRECTIONS + bins.astype(np.int64) % _DIRECTIONS
        votes += np.bincount(places.ravel(), weights.ravel(), minlength=len(votes))
    cells = votes.reshape(-1, _CELLS, _CELLS, _DIRECTIONS) / _CELL_SIDE**2
    # In relation to the mean of the 3 x 3 cells around, the border repeated, light and contrast
    # drop out; the root makes the values spread evenly.
    padded = np.pad(np.sum(cells, axis=-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = np.asarray(sliding_window_view(padded, (3, 3), axis=(1, 2)).mean(axis=(3, 4)))
    histograms = np.sqrt(cells / (around + _FLAT)[..., None])
    return histograms.reshape(len(images), -1).astype(np.float32)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Squash to 96 x 96 grey from 0 to 1."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32) / np.float32(255)
