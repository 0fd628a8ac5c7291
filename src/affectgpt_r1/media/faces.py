"""One face kept over a clip's frames, cropped; or the crops that the user gives.

The detector is OpenCV's bundled frontal cascade, a YuNet model file, or any other behind
`FaceDetector`. Nothing here recognises who it is.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import open_crops
from affectgpt_r1.errors import MissingFileError, ModelFolderError
from affectgpt_r1.files import write_whole
from affectgpt_r1.media.values import MediaFlag
from affectgpt_r1.media.video import sampled_indices

#: Side of a crop in pixels: what CLIP ViT-L/14 takes.
CROP = 224
#: Added on each side of a detected box, as a share of its side: chin and brows belong to a face.
MARGIN = 0.15
#: Overlap (intersection over union) from which a box is the same face as in the frame before.
SAME_FACE = 0.2
_SEARCH_SIDE = 480  # frames are searched at most this large

#: x, y, width, height in pixels.
Box = tuple[int, int, int, int]

#: Finds faces in an RGB picture (H, W, 3): their boxes, in its pixels, and how sure it is of each,
#: 0 to 1.
FaceDetector = Callable[[NDArray[np.uint8]], Sequence[tuple[Box, float]]]


def detect_with_cascade(picture: NDArray[np.uint8]) -> list[tuple[Box, float]]:
    """Find frontal faces with OpenCV's bundled cascade, equally sure of all.

    Not safe to call from several threads.
    """
    grey, scale = _shrunk(picture, cv2.COLOR_RGB2GRAY)
    smallest = max(min(grey.shape) // 10, 24)
    boxes = _cascade().detectMultiScale(grey, 1.1, 5, minSize=(smallest, smallest))
    return [(_box(box, scale), 1.0) for box in boxes]


@cache
def yunet_detector(model: Path) -> FaceDetector:
    """A detector by a YuNet model file (ONNX), for faces turned away, small or half covered.

    Raises:
        MissingFileError: there is no such file.
        ModelFolderError: OpenCV cannot use it.
    """
    if not model.is_file():
        raise MissingFileError(f"no face detector at {model}: name a YuNet model file (ONNX)")
    try:
        yunet = cv2.FaceDetectorYN.create(str(model), "", (_SEARCH_SIDE, _SEARCH_SIDE), 0.6)
    except cv2.error as error:
        raise ModelFolderError(f"{model} is no YuNet model ({error.err})") from None

    def detect(picture: NDArray[np.uint8]) -> list[tuple[Box, float]]:
        small, scale = _shrunk(picture, cv2.COLOR_RGB2BGR)
        yunet.setInputSize((small.shape[1], small.shape[0]))
        _, rows = yunet.detect(small)  # x, y, width, height, ten numbers of landmarks, score
        found = [] if rows is None else [row for row in rows if min(row[2:4]) >= 1]
        return [(_box(row[:4], scale), float(row[14])) for row in found]

    return detect


def _shrunk(picture: NDArray[np.uint8], colours: int) -> tuple[NDArray[Any], float]:
    converted = cv2.cvtColor(picture, colours)
    scale = min(_SEARCH_SIDE / max(picture.shape[:2]), 1.0)
    if scale < 1:
        converted = cv2.resize(converted, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return converted, scale


def _box(sides: Iterable[float], scale: float) -> Box:
    x, y, width, height = (round(float(side) / scale) for side in sides)
    return x, y, width, height


@cache
def _cascade() -> cv2.CascadeClassifier:
    folder = Path(cv2.__file__).parent / "data"
    return cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))


def crop_faces(
    frames: NDArray[np.uint8], detector: FaceDetector = detect_with_cascade
) -> tuple[NDArray[np.uint8], frozenset[MediaFlag]]:
    """Crop one face out of each frame.

    The largest face of the first frame that has one (smaller, the less sure the detector is of it)
    is followed by overlap; a frame without it takes the nearest frame's box. Without any face the
    whole frame is taken, and flagged.

    Args:
        frames: (t, H, W, 3) RGB.
        detector: finds faces.

    Returns:
        (t, 224, 224, 3) RGB, squashed, bilinear; flags.
    """
    if not len(frames):
        return np.zeros((0, CROP, CROP, 3), dtype=np.uint8), frozenset()
    boxes = follow([list(detector(frame)) for frame in frames])
    found = {place: box for place, box in enumerate(boxes) if box is not None}
    if not found:
        return np.stack([squash(frame) for frame in frames]), frozenset({MediaFlag.NO_FACE})
    nearest = [min(found, key=lambda other: abs(other - place)) for place in range(len(frames))]
    crops = [squash(_cut(frame, found[i])) for frame, i in zip(frames, nearest, strict=True)]
    partial = {MediaFlag.PARTIAL_FACE} if len(found) < len(frames) else set()
    return np.stack(crops), frozenset(partial)


def follow(detections: Sequence[Sequence[tuple[Box, float]]]) -> list[Box | None]:
    """One face's box a frame, None where it is not seen.

    A box that overlaps the last one is the same face; where none does, but faces are there, the
    largest is followed from then on, its area weighed by how sure the detector is.

    >>> first, second = (0, 0, 10, 10), (50, 50, 12, 12)
    >>> follow([[(first, 0.9), (second, 0.9)], [(first, 0.9), ((51, 50, 12, 12), 0.2)]])
    [(50, 50, 12, 12), (51, 50, 12, 12)]
    """
    chosen: list[Box | None] = []
    last: Box | None = None
    for found in detections:
        weights = {box: box[2] * box[3] * confidence for box, confidence in found}
        boxes = sorted(weights, key=lambda box: -weights[box])
        same = [box for box in boxes if overlap(box, last) >= SAME_FACE]
        box = max(same or boxes[:1], key=lambda b: overlap(b, last), default=None)
        chosen.append(box)
        last = box or last
    return chosen


def overlap(one: Box, other: Box | None) -> float:
    """Intersection over union of two boxes; 0 with nothing."""
    if other is None:
        return 0.0
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    both = max(width, 0) * max(height, 0)
    return both / (one[2] * one[3] + other[2] * other[3] - both)


def squash(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) squashed to (224, 224, 3), bilinear, aspect not kept (MODEL.md)."""
    resized = cv2.resize(picture, (CROP, CROP), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)


def read_given_faces(path: Path, count: int) -> NDArray[np.uint8] | None:
    """Read given face crops, uniformly sampled.

    Args:
        path: as `clips.open_crops` takes it.
        count: how many are taken.

    Returns:
        (count, 224, 224, 3) RGB; None where the array is empty (a clip in which no face was found).

    Raises:
        MissingFileError, MediaError: as `clips.open_crops`.
    """
    crops = open_crops(path)
    if not crops.size:
        return None
    taken = crops[sampled_indices(len(crops), count)]
    return np.stack([squash(np.ascontiguousarray(crop)) for crop in taken[..., ::-1]])


def write_faces(path: Path, crops: NDArray[np.uint8]) -> None:
    """Write crops (n, H, W, 3) RGB as `read_given_faces` reads them; the file appears whole."""
    content = io.BytesIO()
    np.save(content, crops[..., ::-1], allow_pickle=False)
    write_whole(path, content.getvalue())


def _cut(frame: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    x, y, width, height = box
    across, down = round(width * MARGIN), round(height * MARGIN)
    top, left = max(y - down, 0), max(x - across, 0)
    return frame[top : y + height + down, left : x + width + across]
