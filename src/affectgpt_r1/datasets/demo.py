"""The project's own demo clips: real mp4 files of a drawn face that speaks a written line.

Each line has one or two takes: face, tone of voice and labels. Some takes say one thing in words
and another in face or voice, and many lines are said in two ways, so that no single part of a clip
tells its labels. Lines are split, never their renderings: each phase of training has lines of its
own, as in the paper (MER-Caption+, then MER2025-OV), and a part is held out from both. It is a toy
with a known truth: good for seeing the whole system work, no evidence about real people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.resources import files
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from pydantic import TypeAdapter

from affectgpt_r1.clips import Clip, write_manifest
from affectgpt_r1.datasets.demo_face import EXPRESSIONS, NEUTRAL, Person, between
from affectgpt_r1.datasets.demo_voice import RATE_HZ, TONES, syllable_count, synthesise
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole

SIZE, FRAMES_PER_S = 192, 10
#: x264's assembly for macroblock trees does not give one result every time; this makes it.
_X264 = {
    "crf": "21",
    "preset": "veryfast",
    "threads": "1",
    "x264-params": "cpu-independent=1",
}
Split = Literal["cold-start", "grpo", "test"]
#: Share of the lines, in percent, that are held out.
TEST_PERCENT = 27


@dataclass(frozen=True, slots=True)
class Take:
    """One way of saying a line.

    Attributes:
        face: a name of `demo_face.EXPRESSIONS`.
        voice: a name of `demo_voice.TONES`.
        kind: plain (all parts agree), irony, masking, or mixed.
        labels: what a careful rater would say of the whole performance.
    """

    face: str
    voice: str
    kind: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoLine:
    """A written line and its takes."""

    id: str
    text: str
    takes: tuple[Take, ...]

    @property
    def split(self) -> Split:
        """What the line is for: by a hash of its id, so that new lines move no old one.

        Of the lines that are not held out, a third is for cold start and two thirds for GRPO.
        """
        number = int(hashlib.sha256(self.id.encode()).hexdigest(), 16)
        if number % 100 < TEST_PERCENT:
            return "test"
        return "cold-start" if number % 3 == 0 else "grpo"


@dataclass(frozen=True, slots=True)
class DemoSet:
    """Where the manifests lie: one a phase, and the held-out clips."""

    cold_start: Path
    grpo: Path
    test: Path


#: What `_render` takes: where the clip goes, its words, how they are said, its seed.
_Rendering = tuple[Path, str, Take, tuple[int, ...]]


def demo_lines() -> tuple[DemoLine, ...]:
    """The package's lines, in order."""
    text = (files("affectgpt_r1.datasets") / "demo_lines.jsonl").read_text(encoding="utf-8")
    line = TypeAdapter(DemoLine)
    return tuple(line.validate_json(row) for row in text.splitlines())


_FACES = {
    "joy": "the mouth smiles and the cheeks are raised",
    "sadness": "the inner brows rise and the corners of the mouth hang",
    "anger": "the brows are drawn down and the lips are pressed",
    "fear": "the brows are raised and the eyes are wide open",
    "surprise": "the mouth falls open and the brows go up",
    "disgust": "the nose wrinkles and the upper lip is raised",
    "contempt": "one corner of the mouth is pulled up",
    "calm": "the lids are low and the face is soft",
    "neutral": "the face shows little",
}
_VOICES = {
    "bright": "the voice is high and quick",
    "warm": "the voice is low and soft",
    "flat": "the voice is flat and even",
    "heavy": "the voice is slow and quiet",
    "harsh": "the voice is loud and rough",
    "trembling": "the voice is high and shakes",
    "gasping": "the voice starts with a sudden rise",
    "drawling": "the voice is slow and swings up and down",
}
_KINDS = {
    "plain": "words, face and voice agree",
    "irony": "the words are not meant as they are said",
    "masking": "the words hide what face or voice betray",
    "mixed": "only a part of the performance tells",
}


def describe(take: Take) -> str:
    """The reasoning that leads from a take's parts to its labels: what the think block learns."""
    face, voice, kind = _FACES[take.face], _VOICES[take.voice], _KINDS[take.kind]
    return (
        f"{face[0].upper()}{face[1:]}; {voice}; {kind}. "
        f"This person seems {' and '.join(take.labels)}."
    )


def write_demo(
    folder: Path,
    *,
    renderings: int = 1,
    seed: int = 0,
    lines: Iterable[DemoLine] | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> DemoSet:
    """Render the demo clips and write a manifest a split (`cold-start.jsonl`, ...).

    A clip's pixels and samples depend on the seed, its take and its rendering alone. Clips that are
    there already are kept, so an interrupted call is simply made again.

    Args:
        folder: made where needed.
        renderings: of each training take, by other people in other voices; a test take has one.
        seed: of everything random.
        lines: instead of the package's.
        workers: processes.
        progress: told how many of how many clips are there.

    Raises:
        InputError: the folder holds demo clips of other settings.
    """
    chosen = tuple(lines) if lines is not None else demo_lines()
    digest = hashlib.sha256(json.dumps([asdict(line) for line in chosen]).encode()).hexdigest()
    _claim(folder, {"renderings": renderings, "seed": seed, "size": SIZE, "lines": digest[:16]})
    clips: dict[Split, list[Clip]] = {"cold-start": [], "grpo": [], "test": []}
    missing: list[_Rendering] = []
    for line in chosen:
        key = int(hashlib.sha256(line.id.encode()).hexdigest()[:8], 16)
        repeats = range(1 if line.split == "test" else renderings)
        for (number, take), rendering in product(enumerate(line.takes), repeats):
            name = f"{line.id}-{number}-{rendering}"
            path = folder / "clips" / f"{name}.mp4"
            if not path.is_file():
                missing.append((path, line.text, take, (seed, key, number, rendering)))
            clips[line.split].append(
                Clip(
                    id=name,
                    video=path,
                    subtitle=line.text,
                    labels=take.labels,
                    description=describe(take),
                    group=line.id,
                )
            )
    if missing:
        _render_all(missing, sum(map(len, clips.values())), workers, progress)
    for split, members in clips.items():
        write_manifest(folder / f"{split}.jsonl", members)
    return DemoSet(*(folder / f"{split}.jsonl" for split in clips))


def _claim(folder: Path, settings: dict[str, object]) -> None:
    path = folder / "demo.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # not JSON, or not UTF-8
            found = None
        if found != settings:
            raise InputError(
                f"{folder} holds demo clips of other settings: choose another folder or remove it"
            )
        return
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(settings))


def _render_all(
    missing: list[_Rendering], total: int, workers: int, progress: Callable[[int, int], None] | None
) -> None:
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            futures = [pool.submit(_render, *rendering) for rendering in missing]
            for done, future in enumerate(as_completed(futures), total - len(missing) + 1):
                future.result()
                if progress:
                    progress(done, total)
        finally:  # after an interrupt, clips not begun are not worth waiting for
            pool.shutdown(cancel_futures=True)


def _render(path: Path, text: str, take: Take, seed: tuple[int, ...]) -> None:
    """Render one clip beside its place, then rename it."""
    cv2.setNumThreads(1)  # this process is one of several
    rng = np.random.default_rng(seed)
    sound = synthesise(TONES[take.voice], syllable_count(text), rng)
    frames = _performance(take, sound, rng)
    unfinished = path.with_suffix(".part")
    try:
        write_mp4(unfinished, frames, sound)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _performance(
    take: Take, sound: NDArray[np.float32], rng: np.random.Generator
) -> list[NDArray[np.uint8]]:
    """The frames of a take: from neutral to the expression, speaking, blinking, moving a little."""
    person = Person(rng, SIZE)
    apex = between(NEUTRAL, EXPRESSIONS[take.face], float(rng.uniform(0.75, 1.1)))
    count = max(int(len(sound) / RATE_HZ * FRAMES_PER_S), 2)
    blink_at = int(rng.integers(2, max(count, 3)))
    drift = rng.uniform(0, 2 * np.pi, size=2)
    step = len(sound) // count
    loud = np.array([np.abs(sound[i * step : (i + 1) * step]).mean() for i in range(count)])
    loud = loud / (loud.max() + 1e-9)
    frames = []
    for i in range(count):
        onset = min((i / FRAMES_PER_S + 0.15) / 0.5, 1.0)
        face = between(NEUTRAL, apex, onset)
        opening = min(face.mouth_opening + 0.28 * float(loud[i]), 1.1)
        lids = 0.05 if i == blink_at else face.lid_opening
        picture = person.draw(replace(face, lid_opening=lids, mouth_opening=opening))
        x, y = 0.012 * SIZE * np.sin(drift + 2 * np.pi * np.array([0.31, 0.43]) * i / FRAMES_PER_S)
        shift = np.array([[1, 0, x], [0, 1, y]], dtype=np.float64)
        moved = cv2.warpAffine(picture, shift, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        frames.append(np.asarray(moved, dtype=np.uint8))
    return frames


def write_mp4(path: Path, frames: list[NDArray[np.uint8]], sound: NDArray[np.float32]) -> None:
    """Write frames (H, W, 3) at 10 a second and 16 kHz mono sound: H.264 and AAC."""
    with av.open(str(path), "w", format="mp4") as container:
        height, width, _ = frames[0].shape
        video = container.add_stream("libx264", FRAMES_PER_S, options=_X264)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", RATE_HZ, layout="mono")
        for picture in frames:
            container.mux(video.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = RATE_HZ, Fraction(1, RATE_HZ), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
