"""Reading a clip whole: its pictures, its faces, its sound."""

import hashlib

import numpy as np

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MediaError, MissingFileError
from affectgpt_r1.files import sha256_of
from affectgpt_r1.media.audio import RATE_HZ, WINDOW_S, cut_windows, read_waveform
from affectgpt_r1.media.faces import FaceDetector, crop_faces, detect_with_cascade, read_given_faces
from affectgpt_r1.media.values import STEPS, ClipMedia, MediaFlag
from affectgpt_r1.media.video import read_frames


def read_media(clip: Clip, *, detector: FaceDetector = detect_with_cascade) -> ClipMedia:
    """Read a clip: eight pictures and faces, eight pieces of sound.

    `clip.audio` replaces the video's own track, `clip.faces` the detected faces. A clip lacks what
    neither its files nor their tracks hold; that is flagged. One without files is its subtitle.

    Raises:
        MissingFileError: a file does not exist.
        MediaError: a file cannot be read, its files hold neither picture nor sound, or there is
            neither a file nor a subtitle.
    """
    pictures, video_s, of_video = read_frames(clip.video, STEPS)
    waveform, of_sound = read_waveform(clip.audio or clip.video)
    given = read_given_faces(clip.faces, STEPS) if clip.faces is not None else None
    faces, of_faces = crop_faces(pictures, detector) if given is None else (given, frozenset())
    cut, sound_s = np.zeros((0, WINDOW_S * RATE_HZ), dtype=np.float32), 0.0
    if waveform is not None:
        cut, sound_s = cut_windows(waveform, STEPS), len(waveform) / RATE_HZ
    named = clip.video or clip.audio or clip.faces
    if not (len(pictures) or len(cut) or len(faces)) and (named or not clip.subtitle):
        raise MediaError(
            f"clip {clip.id!r} has neither picture nor sound"
            + (f": {named} has no such track" if named else ": give it a video or an audio file")
        )
    duration_s = max(video_s, sound_s)
    odd = {
        MediaFlag.NO_AUDIO: waveform is None,
        MediaFlag.NO_VIDEO: not len(pictures),
        MediaFlag.GIVEN_FACES: given is not None,
        MediaFlag.GIVEN_FACES_EMPTY: clip.faces is not None and given is None,
        MediaFlag.SHORT: 0 < duration_s < WINDOW_S,
    }
    flags = of_video | of_sound | of_faces | {flag for flag, holds in odd.items() if holds}
    return ClipMedia(pictures, faces, cut, duration_s, flags)


def content_hash(clip: Clip) -> str:
    """64 hex digits over the bytes of a clip's media files and the role of each.

    Raises:
        MissingFileError: a file does not exist.
        MediaError: a file is a folder.
    """
    if not (clip.video or clip.audio or clip.faces or clip.subtitle):
        raise MediaError(f"clip {clip.id!r} has no file and no subtitle: give it one")
    digest = hashlib.sha256()
    for role, path in (("video", clip.video), ("audio", clip.audio), ("faces", clip.faces)):
        if path is None:
            continue
        try:
            content = sha256_of(path)
        except FileNotFoundError:
            raise MissingFileError(f"no file at {path}: check the path") from None
        except OSError as error:
            raise MediaError(f"{path} cannot be read ({error.strerror}): check the file") from None
        digest.update(f"{role} {content}\n".encode())
    return digest.hexdigest()
