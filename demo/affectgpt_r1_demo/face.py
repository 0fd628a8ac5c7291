"""Drawn faces that move: nine expressions by parameters, of persons drawn from a seed.

Made so that a face detector finds them and a person reads them. They resemble nobody, and what a
model learns from them says nothing of real faces.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

#: Drawn at this multiple of the wanted size, then shrunk: smooth edges.
_OVERSAMPLING = 2
_SHIFT = 4  # OpenCV's fixed-point coordinates: sixteenths of a pixel

Colour = tuple[int, ...]  # RGB
Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Points = list[tuple[float, float]] | NDArray[np.float64]  # (n, 2)
_Curve = NDArray[np.float64]  # (n,)


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
    pairs = zip(astuple(one), astuple(other), strict=True)
    return FaceParameters(*((1 - share) * a + share * b for a, b in pairs))


class _Pen:
    """Draws shapes given in shares of the side, relative to the face's middle."""

    def __init__(self, picture: Picture, x: float, y: float) -> None:
        self.picture, self.side, self.x, self.y = picture, len(picture), x, y
        self.scale = self.side * (1 << _SHIFT)

    def fixed(self, points: Points) -> NDArray[np.int32]:
        """The picture's fixed-point coordinates of points: (n, 2)."""
        places: NDArray[np.float64] = np.asarray(points) + np.array([self.x, self.y])
        return np.rint(places * self.scale).astype(np.int32)

    def ellipse(self, x: float, y: float, across: float, down: float, colour: Colour) -> None:
        axes = (max(round(across * self.scale), 1), max(round(down * self.scale), 1))
        place = self.fixed([(x, y)])[0].tolist()
        cv2.ellipse(self.picture, place, axes, 0, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)

    def polygon(self, points: Points, colour: Colour) -> None:
        cv2.fillPoly(self.picture, [self.fixed(points)], colour, cv2.LINE_AA, _SHIFT)

    def band(self, x: _Curve, upper: _Curve, lower: _Curve, colour: Colour) -> None:
        """Fill what lies between two curves over the same places."""
        self.polygon(np.concatenate([np.c_[x, upper], np.c_[x, lower][::-1]]), colour)

    def line(self, points: Points, width: float, colour: Colour) -> None:
        thick = max(round(width * self.side), 1)
        corners = [self.fixed(points)]
        cv2.polylines(self.picture, corners, False, colour, thick, cv2.LINE_AA, _SHIFT)

    def shade(self, x: float, y: float, across: float, down: float, strength: float) -> None:
        """Lighten or darken a soft spot by `strength` (-1 to 1)."""
        columns = (np.arange(self.side) / self.side - self.x - x) / across
        rows = (np.arange(self.side) / self.side - self.y - y) / down
        beside, along = np.flatnonzero(np.abs(columns) < 2), np.flatnonzero(np.abs(rows) < 2)
        region = np.s_[along[0] : along[-1] + 1, beside[0] : beside[-1] + 1]
        spot = strength * np.exp(-(rows[along, None] ** 2 + columns[beside] ** 2))
        shaded = self.picture[region] * (1 + spot[..., None])
        self.picture[region] = np.clip(shaded, 0, 255).astype(np.uint8)


def _darker(colour: Colour, share: float) -> Colour:
    return tuple(round(c * share) for c in colour)


_SKINS = ((236, 198, 172), (224, 180, 148), (205, 158, 122), (182, 134, 100), (150, 108, 80))
_HAIRS = ((38, 28, 24), (74, 50, 34), (120, 84, 50), (96, 92, 90), (150, 112, 66))


class Person:
    """A drawn person: drawn from a seed once, then in any expression.

    Lengths are shares of the picture's side; places are relative to the face's middle.

    Args:
        rng: everything personal is drawn from it.
        size: side of the pictures in pixels.

    Attributes:
        skin, hair, background, shirt: RGB.
        width, height: half axes of the face's oval.
        eye_distance: from the middle to an eye.
        eye_size, nose_length, mouth_size, brow_weight: about 1.
        hair_length: 0 short to 1 long.
        head: what no expression changes, a pen on (2 size, 2 size, 3) uint8 RGB.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        def colour(base: Colour, spread: int) -> Colour:
            return tuple(int(np.clip(c + rng.integers(-spread, spread + 1), 10, 250)) for c in base)

        def about(value: float, spread: float) -> float:
            return value * float(1 + rng.uniform(-spread, spread))

        self.skin = colour(_SKINS[rng.integers(len(_SKINS))], 8)
        self.hair = colour(_HAIRS[rng.integers(len(_HAIRS))], 10)
        self.background = colour((150, 160, 168), 45)
        self.shirt = colour((90, 100, 120), 50)
        self.width = about(0.235, 0.07)
        self.height = about(0.315, 0.06)
        self.eye_distance = about(0.1, 0.07)
        self.eye_size = about(1.0, 0.1)
        self.nose_length = about(1.0, 0.12)
        self.mouth_size = about(1.0, 0.1)
        self.brow_weight = about(1.0, 0.25)
        self.hair_length = float(rng.uniform(0, 1))
        empty = np.zeros((size * _OVERSAMPLING, size * _OVERSAMPLING, 3), np.uint8)
        self.head = _Pen(empty, x=about(0.5, 0.05), y=about(0.5, 0.04))
        self._draw_head()

    def draw(self, face: FaceParameters) -> Picture:
        """Draw one picture: (size, size, 3) uint8 RGB."""
        pen = _Pen(self.head.picture.copy(), self.head.x, self.head.y)
        for mirror in (-1, 1):
            self._draw_eye(pen, face, mirror)
            self._draw_brow(pen, face, mirror)
        self._draw_nose(pen, face)
        self._draw_mouth(pen, face)
        size = pen.side // _OVERSAMPLING
        picture = cv2.resize(pen.picture, (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(picture, dtype=np.uint8)

    def _draw_head(self) -> None:
        pen = self.head
        pen.picture[:] = self.background
        pen.shade(0.0, -0.3, 0.6, 0.6, 0.15)
        long = self.height * (1.08 + 0.3 * self.hair_length)
        pen.ellipse(0, -0.05, self.width * 1.2, long, self.hair)
        pen.ellipse(0, self.height + 0.28, 0.36, 0.22, self.shirt)
        throat = self.height * 0.6
        neck = [(-0.085, throat), (0.085, throat), (0.1, 0.46), (-0.1, 0.46)]
        pen.polygon(neck, _darker(self.skin, 0.78))
        for mirror in (-1, 1):
            pen.ellipse(mirror * self.width, 0.0, 0.03, 0.055, _darker(self.skin, 0.85))
        pen.ellipse(0, 0, self.width, self.height, self.skin)
        for mirror in (-1, 1):
            pen.shade(mirror * self.width, 0.05, 0.08, 0.3, -0.25)  # the oval's sides turn away
            pen.shade(mirror * self.eye_distance, -0.055, 0.075, 0.045, -0.42)  # eye sockets
            pen.shade(mirror * 0.12, 0.09, 0.07, 0.06, 0.14)  # cheeks
        pen.shade(0, -0.19, 0.14, 0.08, 0.14)  # forehead
        pen.shade(0, -0.02, 0.022, 0.1, 0.3)  # bridge of the nose
        pen.shade(0, self.height * 0.95, 0.16, 0.05, -0.2)  # under the chin
        fringe = _Pen(np.zeros_like(pen.picture), pen.x, pen.y)
        fringe.ellipse(0.02, -self.height * 0.93, self.width * 0.98, self.height * 0.34, self.hair)
        pen.picture[fringe.picture.any(axis=2)] = self.hair
        pen.shade(-0.06, -self.height * 1.05, 0.1, 0.06, 0.35)  # light on the hair

    def _draw_eye(self, pen: _Pen, face: FaceParameters, mirror: int) -> None:
        x, y = mirror * self.eye_distance, -0.05
        across, down = 0.047 * self.eye_size, 0.021 * self.eye_size * max(face.lid_opening, 0.06)
        if face.lid_opening > 0.15:
            pen.ellipse(x, y, across, down, (238, 236, 232))
            iris = min(0.021 * self.eye_size, down * 1.15)
            pen.ellipse(x, y, 0.021 * self.eye_size, iris, (70, 52, 40))
            pen.ellipse(x, y, 0.011 * self.eye_size, min(0.011, down), (15, 12, 12))
            pen.ellipse(x + 0.006, y - min(0.006, down / 2), 0.004, 0.004, (250, 250, 250))
        turns = np.linspace(np.pi, 2 * np.pi, 9)
        cosine, sine = np.cos(turns), np.sin(turns)
        pen.line(np.c_[x + across * 1.1 * cosine, y + down * sine], 0.011, (35, 25, 24))
        pen.line(np.c_[x + across * cosine, y - down * sine], 0.004, _darker(self.skin, 0.55))

    def _draw_brow(self, pen: _Pen, face: FaceParameters, mirror: int) -> None:
        lone = face.asymmetry if mirror > 0 else 0.0
        height = -0.115 - 0.032 * face.brow_height - 0.03 * lone
        inner = -0.034 * face.brow_inner
        drawn = 0.016 * max(-face.brow_inner, 0.0)  # together
        near = (mirror * (self.eye_distance - 0.055 - drawn), height + inner)
        middle = (mirror * self.eye_distance, height - 0.012 + inner * 0.3)
        far = (mirror * (self.eye_distance + 0.06), height + 0.012 - inner * 0.35)
        pen.line([near, middle, far], 0.02 * self.brow_weight, _darker(self.hair, 0.75))

    def _draw_nose(self, pen: _Pen, face: FaceParameters) -> None:
        tip = 0.075 * self.nose_length - 0.012 * face.nose_wrinkle
        pen.shade(0, tip + 0.022, 0.045, 0.016, -0.3)
        dark = _darker(self.skin, 1 - 0.45 * face.nose_wrinkle)
        for mirror in (-1, 1):
            pen.ellipse(mirror * 0.022, tip + 0.008, 0.01, 0.006, _darker(self.skin, 0.42))
            if face.nose_wrinkle > 0.05:
                for y in (-0.035 + 0.024 * step for step in range(3)):
                    pen.line([(mirror * 0.008, y), (mirror * 0.034, y - 0.018)], 0.007, dark)
                fold = [(mirror * 0.045, tip - 0.01), (mirror * 0.085, tip + 0.06)]
                pen.line(fold, 0.008, dark)

    def _draw_mouth(self, pen: _Pen, face: FaceParameters) -> None:
        across = 0.083 * self.mouth_size * face.mouth_width
        y = 0.165 - 0.012 * face.nose_wrinkle
        left = -0.036 * face.mouth_corner
        right = left - 0.04 * face.asymmetry
        opening = 0.062 * face.mouth_opening
        places = np.linspace(-1, 1, 15)
        x, bow = across * places, 1 - places**2
        between = y + np.where(places < 0, left, right) * places**2
        upper = between - opening * 0.45 * bow - 0.014 * face.nose_wrinkle * bow
        lower = between + opening * bow
        red, green, blue = self.skin
        lips = (round(red * 0.72), round(green * 0.5), round(blue * 0.5))
        pen.band(x, upper - 0.013 * bow, lower + 0.02 * bow, lips)
        if opening > 0.004:
            pen.band(x, upper, lower, (48, 22, 24))
            if face.mouth_corner > 0.3:
                teeth = upper + min(opening * 0.6, 0.016) * bow
                pen.band(x, upper, teeth, (236, 232, 224))
        else:
            pen.line(np.c_[x, upper], 0.006, _darker(lips, 0.5))
        if face.mouth_corner > 0.4:
            for mirror in (-1, 1):
                fold = [(mirror * 0.06, 0.085), (mirror * (across + 0.018), y + left)]
                pen.line(fold, 0.006, _darker(self.skin, 0.75))
