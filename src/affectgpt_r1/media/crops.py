"""Face crops written once, in the layout that data sets come with: OpenFace is not needed.

A clip's file is `FOLDER/ID.npy`: (8, 224, 224, 3) uint8, BGR as OpenFace writes, of the frames that
are looked at anyway; an empty array where no face was found. They are read as any given crops.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MediaError
from affectgpt_r1.files import write_whole
from affectgpt_r1.media.faces import crop_faces, detect_with_cascade, yunet_detector
from affectgpt_r1.media.values import MediaFlag
from affectgpt_r1.media.video import read_frames
from affectgpt_r1.media.worker import Guard, guarded


def write_crops(
    clips: Sequence[Clip],
    folder: Path,
    guard: Guard,
    *,
    face_model: Path | None = None,
    frames: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Clip], dict[str, str]]:
    """Crop one face a clip in guarded processes; what stands there already is left as it is.

    Args:
        clips: with videos.
        folder: gets a file a clip.
        guard: limits of reading.
        face_model: a YuNet model file; None: the bundled detector.
        frames: sampled of each clip.
        progress: told how many of how many clips are done.

    Returns:
        The clips, with their crops where there are some, in their order; reasons, by the ids of
        those that have none.
    """
    reasons: dict[str, str] = {}
    work = partial(_write, face_model, folder, frames)
    for done, (clip, _, reason) in enumerate(guarded(work, clips, guard), 1):
        if reason:
            reasons[clip.id] = reason
        if progress:
            progress(done, len(clips))
    return [c if c.id in reasons else replace(c, faces=_place(folder, c)) for c in clips], reasons


def _place(folder: Path, clip: Clip) -> Path:
    return folder / f"{clip.id}.npy"


def _write(face_model: Path | None, folder: Path, frames: int, clip: Clip) -> None:
    path = _place(folder, clip)
    if path.parent != folder:
        raise MediaError(f"id {clip.id!r} is no file name: rename it")
    if path.is_file():
        return
    if clip.video is None:
        raise MediaError(f"clip {clip.id!r} has no video: give it one, or leave it out")
    pictures, _, _ = read_frames(clip.video, frames)
    detector = yunet_detector(face_model) if face_model else detect_with_cascade
    crops, flags = crop_faces(pictures, detector)
    if MediaFlag.NO_FACE in flags:
        crops = crops[:0]
    content = io.BytesIO()
    np.save(content, crops[..., ::-1], allow_pickle=False)
    write_whole(path, content.getvalue())
