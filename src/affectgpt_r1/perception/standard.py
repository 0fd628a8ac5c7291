"""The constants that bring raw measurements to a common size.

Pooling is quadratic in the features and unnormalised (MODEL.md, "Ours"), so every value is
standardised: `scale * clip((raw - mean) / std, -5, 5)`, where mean and std are of the windows (or
pictures) of many clips, and scale brings a clip's mean over its windows to root mean square 1. An
unknown value (NaN: the pitch of a window without voice) becomes 0, the mean of all that are known.

The constants are measurements, not data; `tools/standardise.py` makes them from a manifest.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.errors import InputError, MissingFileError

#: Where the package keeps its constants: one JSON file an encoder, named after it.
DATA_FOLDER = Path(__file__).parent / "data"

_LIMIT = 5.0


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
            scale, clips = float(read["scale"]), int(read["clips"])
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise (MissingFileError if missing else InputError)(
                f"{path}: no constants of an encoder ({error!r}): install the package again, or "
                "make them with tools/standardise.py"
            ) from None
        return cls(mean, std, scale, clips)

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
