"""What reading a clip yields: pictures, faces, sound, and what was odd about them."""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

#: Frames and windows a clip.
STEPS = 8


class MediaFlag(StrEnum):
    """What was odd about a clip, though it could be read."""

    NO_AUDIO = "no audio"
    NO_VIDEO = "no video"
    SINGLE_FRAME = "single frame"
    SHORT = "shorter than two seconds"
    TRUNCATED = "damaged, read in part"
    ROTATED = "rotated upright"
    VARIABLE_RATE = "variable frame rate"
    NO_FACE = "no face found, whole frame used"
    PARTIAL_FACE = "face found in some frames only"
    GIVEN_FACES = "faces given"
    GIVEN_FACES_EMPTY = "given faces are empty, faces searched"


@dataclass(frozen=True, slots=True, eq=False)
class ClipMedia:
    """A clip, read.

    Attributes:
        frames: (t, H, W, 3) uint8 RGB, upright; (0, 0, 0, 3) where there is no picture.
        faces: (t, 224, 224, 3) uint8 RGB crops, squashed; the whole frame where no face was found.
        windows: (8, 32000) float32 in [-1, 1], 16 kHz mono, not normalised; (0, 32000) where there
            is no sound.
        duration_s: of the longer of picture and sound.
        flags: what was odd.
    """

    frames: NDArray[np.uint8]
    faces: NDArray[np.uint8]
    windows: NDArray[np.float32]
    duration_s: float
    flags: frozenset[MediaFlag]
