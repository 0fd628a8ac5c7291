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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from importlib.resources import files
from io import BytesIO
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from pydantic import TypeAdapter

from affectgpt_r1.clips import Clip, write_manifest
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole
from affectgpt_r1_demo.face import EXPRESSIONS, NEUTRAL, Person, Picture, between
from affectgpt_r1_demo.voice import RATE_HZ, TONES, Sound, syllable_count, synthesise

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
    text = (files("affectgpt_r1_demo") / "lines.jsonl").read_text(encoding="utf-8")
    line = TypeAdapter(DemoLine)
    return tuple(line.validate_json(row) for row in text.splitlines())


_FACES = {
    "joy": "The mouth smiles and the cheeks are raised",
    "sadness": "The inner brows rise and the corners of the mouth hang",
    "anger": "The brows are drawn down and the lips are pressed",
    "fear": "The brows are raised and the eyes are wide open",
    "surprise": "The mouth falls open and the brows go up",
    "disgust": "The nose wrinkles and the upper lip is raised",
    "contempt": "One corner of the mouth is pulled up",
    "calm": "The lids are low and the face is soft",
    "neutral": "The face shows little",
}
_KINDS = {
    "plain": "words, face and voice agree",
    "irony": "the words are not meant as they are said",
    "masking": "the words hide what face or voice betray",
    "mixed": "only a part of the performance tells",
}


def describe(take: Take) -> str:
    """The reasoning that leads from a take's parts to its labels: what the think block learns."""
    return (
        f"{_FACES[take.face]}; the voice {TONES[take.voice].heard}; {_KINDS[take.kind]}. "
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
    total = sum(map(len, clips.values()))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        # After an interrupt, `map` itself drops the clips that are not begun.
        for done, _ in enumerate(pool.map(_render, missing), total - len(missing) + 1):
            if progress:
                progress(done, total)
    for split, members in clips.items():
        write_manifest(folder / f"{split}.jsonl", members)
    return DemoSet(*(folder / f"{split}.jsonl" for split in clips))


def _claim(folder: Path, settings: dict[str, object]) -> None:
    path, content = folder / "demo.json", json.dumps(settings).encode()
    if not path.is_file():
        write_whole(path, content)
    elif path.read_bytes() != content:
        raise InputError(
            f"{folder} holds demo clips of other settings: choose another folder or remove it"
        )


def _render(rendering: _Rendering) -> None:
    cv2.setNumThreads(1)  # this process is one of several
    path, text, take, seed = rendering
    rng = np.random.default_rng(seed)
    sound = synthesise(TONES[take.voice], syllable_count(text), rng)
    write_mp4(path, _performance(take, sound, rng), sound)


def _performance(take: Take, sound: Sound, rng: np.random.Generator) -> list[Picture]:
    """The frames of a take: from neutral to the expression, speaking, blinking, moving a little."""
    person = Person(rng, SIZE)
    apex = between(NEUTRAL, EXPRESSIONS[take.face], float(rng.uniform(0.75, 1.1)))
    count = int(len(sound) / RATE_HZ * FRAMES_PER_S)  # at least 12, of 1.2 s
    blink_at = int(rng.integers(2, count))
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
        shift = np.array([[1, 0, x], [0, 1, y]])
        moved = cv2.warpAffine(picture, shift, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
        frames.append(np.asarray(moved, dtype=np.uint8))
    return frames


def write_mp4(path: Path, frames: list[Picture], sound: Sound) -> None:
    """Write frames (H, W, 3) at 10 a second and 16 kHz mono sound: H.264 and AAC; appears whole."""
    content = BytesIO()
    with av.open(content, "w", format="mp4") as container:
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
    write_whole(path, content.getvalue())
