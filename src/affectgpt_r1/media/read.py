"""Reading a clip whole: its pictures, its faces, its sound."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MediaError, MissingFileError
from affectgpt_r1.media.audio import RATE_HZ, WINDOW_S, cut_windows, read_waveform
from affectgpt_r1.media.faces import FaceDetector, crop_faces, detect_with_cascade, read_given_faces
from affectgpt_r1.media.values import ClipMedia, MediaFlag
from affectgpt_r1.media.video import read_frames


def read_media(
    clip: Clip, *, frames: int = 8, windows: int = 8, detector: FaceDetector = detect_with_cascade
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
    source = clip.audio or clip.video
    waveform, found = read_waveform(source) if source is not None else (None, frozenset())
    flags |= found
    cut: NDArray[np.float32] = np.zeros((0, WINDOW_S * RATE_HZ), dtype=np.float32)
    sound_s = 0.0
    if waveform is None:
        flags.add(MediaFlag.NO_AUDIO)
    else:
        cut, sound_s = cut_windows(waveform, windows), len(waveform) / RATE_HZ
    if not len(pictures):
        flags.add(MediaFlag.NO_VIDEO)
    faces = read_given_faces(clip.faces, frames) if clip.faces is not None else None
    if clip.faces is not None:
        flags.add(MediaFlag.GIVEN_FACES if faces is not None else MediaFlag.GIVEN_FACES_EMPTY)
    if faces is None:
        faces, found = crop_faces(pictures, detector)
        flags |= found
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
        if path is None:
            continue
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise MissingFileError(f"no file at {path}: check the path") from None
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error.strerror}): check the file") from None
        digest.update(f"{role} {content}\n".encode())
    return digest.hexdigest()
