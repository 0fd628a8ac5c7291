"""Drawn faces that move: nine expressions by parameters, on identities drawn from a seed.

Made so that a face detector finds them and a person reads them. They resemble nobody, and what a
model learns from them says nothing of real faces.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

#: Drawn at this multiple of the wanted size, then shrunk: smooth edges.
_OVERSAMPLING = 2
_SHIFT = 4  # OpenCV's fixed-point coordinates: sixteenths of a pixel


@dataclass(frozen=True, slots=True)
class FaceParameters:
    """An expression; all zero but `lid_opening` and `mouth_width` is a neutral face.

    Attributes:
        brow_height: -1 lowered to 1 raised.
        brow_inner: -1 inner ends drawn down and together to 1 inner ends raised.
        lid_opening: 1 neutral, 0 closed.
        mouth_corner: -1 hanging to 1 smiling.
        mouth_opening: 0 closed to 1 wide open.
        mouth_width: 1 neutral.
        nose_wrinkle: 0 to 1.
        asymmetry: 0 to 1, one mouth corner and brow alone.
    """

    brow_height: float = 0.0
    brow_inner: float = 0.0
    lid_opening: float = 1.0
    mouth_corner: float = 0.0
    mouth_opening: float = 0.0
    mouth_width: float = 1.0
    nose_wrinkle: float = 0.0
    asymmetry: float = 0.0


NEUTRAL = FaceParameters()

EXPRESSIONS = {
    "joy": FaceParameters(0.15, 0.0, 0.7, 1.0, 0.3, 1.2),
    "sadness": FaceParameters(-0.1, 1.0, 0.65, -0.9, 0.0, 0.9),
    "anger": FaceParameters(-0.9, -1.0, 0.9, -0.45, 0.0, 0.95),
    "fear": FaceParameters(0.7, 0.8, 1.45, -0.4, 0.4, 1.05),
    "surprise": FaceParameters(1.0, 0.1, 1.45, 0.0, 1.0, 0.75),
    "disgust": FaceParameters(-0.5, -0.5, 0.5, -0.6, 0.12, 1.0, 1.0),
    "contempt": FaceParameters(0.0, -0.1, 0.75, 0.0, 0.0, 1.0, 0.0, 1.0),
    "calm": FaceParameters(0.15, 0.15, 0.5, 0.35, 0.0, 1.05),
    "neutral": NEUTRAL,
}


def between(one: FaceParameters, other: FaceParameters, share: float) -> FaceParameters:
    """The expression `share` of the way from one to another; beyond 1 it is exaggerated."""
    return FaceParameters(
        *(
            (1 - share) * getattr(one, field.name) + share * getattr(other, field.name)
            for field in fields(FaceParameters)
        )
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same in one person's face; lengths are shares of the picture's side.

    Attributes:
        skin, hair, background, shirt: RGB.
        width, height: half axes of the face's oval.
        eye_distance: from the middle to an eye.
        eye_size, nose_length, mouth_size, brow_weight: about 1.
        hair_length: 0 short to 1 long.
        x, y: the face's middle.
    """

    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    background: tuple[int, int, int]
    shirt: tuple[int, int, int]
    width: float
    height: float
    eye_distance: float
    eye_size: float
    nose_length: float
    mouth_size: float
    brow_weight: float
    hair_length: float
    x: float
    y: float


_SKINS = ((236, 198, 172), (224, 180, 148), (205, 158, 122), (182, 134, 100), (150, 108, 80))
_HAIRS = ((38, 28, 24), (74, 50, 34), (120, 84, 50), (96, 92, 90), (150, 112, 66))


def identity(rng: np.random.Generator) -> Identity:
    """Draw an identity."""

    def colour(base: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
        red, green, blue = (
            int(np.clip(c + rng.integers(-spread, spread + 1), 10, 250)) for c in base
        )
        return red, green, blue

    def about(value: float, spread: float) -> float:
        return value * float(1 + rng.uniform(-spread, spread))

    return Identity(
        skin=colour(_SKINS[rng.integers(len(_SKINS))], 8),
        hair=colour(_HAIRS[rng.integers(len(_HAIRS))], 10),
        background=colour((150, 160, 168), 45),
        shirt=colour((90, 100, 120), 50),
        width=about(0.235, 0.07),
        height=about(0.315, 0.06),
        eye_distance=about(0.1, 0.07),
        eye_size=about(1.0, 0.1),
        nose_length=about(1.0, 0.12),
        mouth_size=about(1.0, 0.1),
        brow_weight=about(1.0, 0.25),
        hair_length=float(rng.uniform(0, 1)),
        x=about(0.5, 0.05),
        y=about(0.5, 0.04),
    )


def draw_head(who: Identity, size: int) -> NDArray[np.uint8]:
    """Draw what no expression changes, once a clip: (2 size, 2 size, 3) uint8 RGB."""
    pen = _Pen(np.zeros((size * _OVERSAMPLING, size * _OVERSAMPLING, 3), np.uint8), who.x, who.y)
    _body(pen, who)
    _skin(pen, who)
    return pen.picture


def draw_face(who: Identity, face: FaceParameters, head: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw one picture.

    Args:
        who, face: identity and expression.
        head: of the same identity, from `draw_head`; it is not changed.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    pen = _Pen(head.copy(), who.x, who.y)
    for mirror in (-1, 1):
        _eye(pen, who, face, mirror)
        _brow(pen, who, face, mirror)
    _nose(pen, who, face)
    _mouth(pen, who, face)
    size = len(head) // _OVERSAMPLING
    picture = cv2.resize(pen.picture, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(picture, dtype=np.uint8)


class _Pen:
    """Draws shapes given in shares of the side, relative to the face's middle."""

    def __init__(self, picture: NDArray[np.uint8], x: float, y: float) -> None:
        self.picture, self.side, self.x, self.y = picture, len(picture), x, y

    def point(self, x: float, y: float) -> tuple[int, int]:
        scale = self.side * (1 << _SHIFT)
        return round((self.x + x) * scale), round((self.y + y) * scale)

    def ellipse(
        self,
        x: float,
        y: float,
        across: float,
        down: float,
        colour: tuple[int, int, int],
        picture: NDArray[np.uint8] | None = None,
    ) -> None:
        scale = self.side * (1 << _SHIFT)
        axes = (max(round(across * scale), 1), max(round(down * scale), 1))
        target = self.picture if picture is None else picture
        cv2.ellipse(target, self.point(x, y), axes, 0, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)

    def polygon(self, points: list[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        corners = np.array([self.point(*p) for p in points], dtype=np.int32)
        cv2.fillPoly(self.picture, [corners], colour, cv2.LINE_AA, _SHIFT)

    def line(
        self, points: list[tuple[float, float]], width: float, colour: tuple[int, int, int]
    ) -> None:
        corners = np.array([self.point(*p) for p in points], dtype=np.int32)
        thick = max(round(width * self.side), 1)
        cv2.polylines(self.picture, [corners], False, colour, thick, cv2.LINE_AA, _SHIFT)

    def shade(self, x: float, y: float, across: float, down: float, strength: float) -> None:
        """Lighten or darken a soft spot by `strength` (-1 to 1)."""
        columns = (np.arange(self.side) / self.side - self.x - x) / across
        rows = (np.arange(self.side) / self.side - self.y - y) / down
        beside, along = np.flatnonzero(np.abs(columns) < 2), np.flatnonzero(np.abs(rows) < 2)
        if not len(beside) or not len(along):
            return
        region = np.s_[along[0] : along[-1] + 1, beside[0] : beside[-1] + 1]
        spot = strength * np.exp(-(rows[along, None] ** 2 + columns[None, beside] ** 2))
        shaded = self.picture[region] * (1 + spot[..., None])
        self.picture[region] = np.clip(shaded, 0, 255).astype(np.uint8)


def _darker(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round(c * share) for c in colour)
    return red, green, blue


def _body(pen: _Pen, who: Identity) -> None:
    pen.picture[:] = who.background
    pen.shade(0.0, -0.3, 0.6, 0.6, 0.15)
    pen.ellipse(0, -0.05, who.width * 1.2, who.height * (1.08 + 0.3 * who.hair_length), who.hair)
    pen.ellipse(0, who.height + 0.28, 0.36, 0.22, who.shirt)
    pen.polygon(
        [(-0.085, who.height * 0.6), (0.085, who.height * 0.6), (0.1, 0.46), (-0.1, 0.46)],
        _darker(who.skin, 0.78),
    )


def _skin(pen: _Pen, who: Identity) -> None:
    pen.ellipse(-who.width, 0.0, 0.03, 0.055, _darker(who.skin, 0.85))
    pen.ellipse(who.width, 0.0, 0.03, 0.055, _darker(who.skin, 0.85))
    pen.ellipse(0, 0, who.width, who.height, who.skin)
    for mirror in (-1, 1):
        pen.shade(mirror * who.width, 0.05, 0.08, 0.3, -0.25)  # the oval's sides turn away
        pen.shade(mirror * who.eye_distance, -0.055, 0.075, 0.045, -0.42)  # eye sockets
        pen.shade(mirror * 0.12, 0.09, 0.07, 0.06, 0.14)  # cheeks
    pen.shade(0, -0.19, 0.14, 0.08, 0.14)  # forehead
    pen.shade(0, -0.02, 0.022, 0.1, 0.3)  # bridge of the nose
    pen.shade(0, who.height * 0.95, 0.16, 0.05, -0.2)  # under the chin
    fringe = np.zeros_like(pen.picture)
    pen.ellipse(0.02, -who.height * 0.93, who.width * 0.98, who.height * 0.34, who.hair, fringe)
    hair = fringe.any(axis=2)
    pen.picture[hair] = who.hair
    pen.shade(-0.06, -who.height * 1.05, 0.1, 0.06, 0.35)  # light on the hair


def _eye(pen: _Pen, who: Identity, face: FaceParameters, mirror: int) -> None:
    x, y = mirror * who.eye_distance, -0.05
    across, down = 0.047 * who.eye_size, 0.021 * who.eye_size * max(face.lid_opening, 0.06)
    if face.lid_opening > 0.15:
        pen.ellipse(x, y, across, down, (238, 236, 232))
        iris = min(0.021 * who.eye_size, down * 1.15)
        pen.ellipse(x, y, 0.021 * who.eye_size, iris, (70, 52, 40))
        pen.ellipse(x, y, 0.011 * who.eye_size, min(0.011, down), (15, 12, 12))
        pen.ellipse(x + 0.006, y - min(0.006, down / 2), 0.004, 0.004, (250, 250, 250))
    turns = np.linspace(np.pi, 2 * np.pi, 9)
    lid = [(x + across * 1.1 * np.cos(t), y + down * np.sin(t)) for t in turns]
    pen.line(lid, 0.011, (35, 25, 24))
    lower = [(x + across * np.cos(t), y - down * np.sin(t)) for t in turns]
    pen.line(lower, 0.004, _darker(who.skin, 0.55))


def _brow(pen: _Pen, who: Identity, face: FaceParameters, mirror: int) -> None:
    lone = face.asymmetry if mirror > 0 else 0.0
    height = -0.115 - 0.032 * face.brow_height - 0.03 * lone
    inner = -0.034 * face.brow_inner
    drawn = 0.016 * max(-face.brow_inner, 0.0)  # together
    near = (mirror * (who.eye_distance - 0.055 - drawn), height + inner)
    middle = (mirror * who.eye_distance, height - 0.012 + inner * 0.3)
    far = (mirror * (who.eye_distance + 0.06), height + 0.012 - inner * 0.35)
    pen.line([near, middle, far], 0.02 * who.brow_weight, _darker(who.hair, 0.75))


def _nose(pen: _Pen, who: Identity, face: FaceParameters) -> None:
    tip = 0.075 * who.nose_length - 0.012 * face.nose_wrinkle
    pen.shade(0, tip + 0.022, 0.045, 0.016, -0.3)
    for mirror in (-1, 1):
        pen.ellipse(mirror * 0.022, tip + 0.008, 0.01, 0.006, _darker(who.skin, 0.42))
        if face.nose_wrinkle > 0.05:
            dark = _darker(who.skin, 1 - 0.45 * face.nose_wrinkle)
            for step in range(3):
                y = -0.035 + 0.024 * step
                pen.line([(mirror * 0.008, y), (mirror * 0.034, y - 0.018)], 0.007, dark)
            fold = [(mirror * 0.045, tip - 0.01), (mirror * 0.085, tip + 0.06)]
            pen.line(fold, 0.008, dark)


def _mouth(pen: _Pen, who: Identity, face: FaceParameters) -> None:
    across = 0.083 * who.mouth_size * face.mouth_width
    y = 0.165 - 0.012 * face.nose_wrinkle
    left = -0.036 * face.mouth_corner
    right = left - 0.04 * face.asymmetry
    opening = 0.062 * face.mouth_opening
    places = np.linspace(-1, 1, 15)
    bow = 1 - places**2
    slope = np.where(places < 0, left, right) * places**2
    raised = 0.014 * face.nose_wrinkle * bow
    upper = [
        (across * p, y + s - opening * 0.45 * b - r)
        for p, s, b, r in zip(places, slope, bow, raised, strict=True)
    ]
    lower = [(across * p, y + s + opening * b) for p, s, b in zip(places, slope, bow, strict=True)]
    lips = (round(who.skin[0] * 0.72), round(who.skin[1] * 0.5), round(who.skin[2] * 0.5))
    full_upper = [(px, py - 0.013 * b) for (px, py), b in zip(upper, bow, strict=True)]
    full_lower = [(px, py + 0.02 * b) for (px, py), b in zip(lower, bow, strict=True)]
    pen.polygon([*full_upper, *full_lower[::-1]], lips)
    if opening > 0.004:
        pen.polygon([*upper, *lower[::-1]], (48, 22, 24))
        if face.mouth_corner > 0.3:
            teeth = [
                (px, py + min(opening * 0.6, 0.016) * b)
                for (px, py), b in zip(upper, bow, strict=True)
            ]
            pen.polygon([*upper, *teeth[::-1]], (236, 232, 224))
    else:
        pen.line(upper, 0.006, _darker(lips, 0.5))
    if face.mouth_corner > 0.4:
        for mirror in (-1, 1):
            fold = [(mirror * 0.06, 0.085), (mirror * (across + 0.018), y + left)]
            pen.line(fold, 0.006, _darker(who.skin, 0.75))
