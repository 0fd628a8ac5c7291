"""Reading a clip whole: its pictures, its faces, its sound."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MediaError, MissingFileError
from affectgpt_r1.media.audio import RATE_HZ, WINDOW_S, cut_windows, read_waveform
from affectgpt_r1.media.faces import (
    CROP,
    FaceDetector,
    crop_faces,
    detect_with_cascade,
    read_given_faces,
)
from affectgpt_r1.media.values import ClipMedia, MediaFlag
from affectgpt_r1.media.video import read_frames


def read_media(
    clip: Clip,
    *,
    frames: int = 8,
    windows: int = 8,
    detector: FaceDetector = detect_with_cascade,
) -> ClipMedia:
    """Read a clip: `frames` pictures and faces, `windows` pieces of sound.

    `clip.audio` replaces the video's own track, `clip.faces` the detected faces. A clip lacks what
    neither its files nor their tracks hold; that is flagged.

    Raises:
        MissingFileError: a file does not exist.
        MediaError: a file cannot be read, or the clip has neither picture nor sound.
    """
    flags: set[MediaFlag] = set()
    pictures: NDArray[np.uint8] = np.zeros((0, 0, 0, 3), dtype=np.uint8)
    video_s = 0.0
    if clip.video is not None:
        pictures, video_s, found = read_frames(clip.video, frames)
        flags |= found
    sound, cut, sound_s = _sound(clip, windows)
    flags |= sound
    if not len(pictures):
        flags.add(MediaFlag.NO_VIDEO)
    faces, seen = _faces(clip, pictures, frames, detector)
    flags |= seen
    if not len(pictures) and not len(cut) and not len(faces):
        named = clip.video or clip.audio
        raise MediaError(
            f"clip {clip.id!r} has neither picture nor sound"
            + (f": {named} has no such track" if named else ": give it a video or an audio file")
        )
    duration_s = max(video_s, sound_s)
    if 0 < duration_s < WINDOW_S:
        flags.add(MediaFlag.SHORT)
    return ClipMedia(pictures, faces, cut, duration_s, frozenset(flags))


def content_hash(clip: Clip) -> str:
    """64 hex digits over the bytes of a clip's media files and the role of each.

    Raises:
        MissingFileError: a file does not exist.
        MediaError: a file is a folder.
    """
    digest = hashlib.sha256()
    for role, path in (("video", clip.video), ("audio", clip.audio), ("faces", clip.faces)):
        if path is not None:
            digest.update(f"{role} {_file_hash(path)}\n".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingFileError(f"no file at {path}: check the path") from None
    except OSError as error:
        raise MediaError(f"{path} cannot be read ({error.strerror}): check the file") from None


def _sound(clip: Clip, windows: int) -> tuple[frozenset[MediaFlag], NDArray[np.float32], float]:
    """Flags, windows (windows, 32000) or (0, 32000), and the sound's duration in seconds."""
    source = clip.audio or clip.video
    waveform, flags = read_waveform(source) if source is not None else (None, frozenset())
    if waveform is None:
        silent = np.zeros((0, WINDOW_S * RATE_HZ), dtype=np.float32)
        return flags | {MediaFlag.NO_AUDIO}, silent, 0.0
    return flags, cut_windows(waveform, windows), len(waveform) / RATE_HZ


def _faces(
    clip: Clip, pictures: NDArray[np.uint8], count: int, detector: FaceDetector
) -> tuple[NDArray[np.uint8], frozenset[MediaFlag]]:
    """Crops (t, 224, 224, 3), given or found, and flags."""
    flags: frozenset[MediaFlag] = frozenset()
    if clip.faces is not None:
        given = read_given_faces(clip.faces, count)
        if given is not None:
            return given, frozenset({MediaFlag.GIVEN_FACES})
        flags = frozenset({MediaFlag.GIVEN_FACES_EMPTY})
    if not len(pictures):
        return np.zeros((0, CROP, CROP, 3), dtype=np.uint8), flags
    crops, found = crop_faces(pictures, detector)
    return crops, flags | found
