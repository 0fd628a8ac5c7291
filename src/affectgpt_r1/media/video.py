"""Eight frames spread uniformly over a video, by index, without decoding all of it where possible.

A demuxing pass (no decoding) lists the frames' time stamps, so that a frame's index is exact at a
variable rate too. Then the decoder jumps to the last key frame before each wanted one. Where a
container gives no time stamps, everything is decoded instead; both ways yield the same frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from affectgpt_r1.errors import MediaError
from affectgpt_r1.media.container import opened
from affectgpt_r1.media.values import MediaFlag

_RATE_TOLERANCE = 0.25  # of a frame's median duration, beyond which a rate counts as variable


@dataclass(frozen=True, slots=True)
class _Timeline:
    """Time stamps of all frames, in order of display, and those of the key frames."""

    stamps: tuple[int, ...]
    keys: frozenset[int]


def sampled_indices(available: int, count: int) -> list[int]:
    """Indices of `count` uniform frames of `available`, the last repeated where there are fewer.

    >>> sampled_indices(16, 8), sampled_indices(2, 4)
    ([0, 2, 4, 6, 8, 10, 12, 14], [0, 1, 1, 1])
    """
    if available < count:
        return [min(i, available - 1) for i in range(count)]
    return [int(i) for i in np.arange(0, available, available / count).astype(int)[:count]]


def read_frames(
    path: Path, count: int, *, seek: bool = True
) -> tuple[NDArray[np.uint8], float, frozenset[MediaFlag]]:
    """Read uniformly sampled frames of a file's video.

    Args:
        path: the file.
        count: how many.
        seek: False decodes everything; the frames are the same.

    Returns:
        frames (count, H, W, 3) uint8 RGB, upright, or (0, 0, 0, 3) where there is no video track;
        the video's duration in seconds; flags.

    Raises:
        MissingFileError, MediaError: the file cannot be read, or its track holds no frame.
    """
    flags: set[MediaFlag] = set()
    with opened(path) as container:
        if not container.streams.video:
            return np.zeros((0, 0, 0, 3), dtype=np.uint8), 0.0, frozenset()
        stream = _prepared(container)
        base = stream.time_base
        timeline = _timeline(container, stream) if seek else None
    frames: dict[int, VideoFrame] = {}
    total = 0
    if timeline is not None:
        total = len(timeline.stamps)
        wanted = sampled_indices(total, count)
        frames = _by_seeking(path, timeline, sorted(set(wanted)))
        if _is_variable(timeline.stamps):
            flags.add(MediaFlag.VARIABLE_RATE)
    if timeline is None or len(frames) < len(set(wanted)):
        # No time stamps, or some do not decode: count what does, then take from that.
        decodable = sum(1 for _ in _decoded(path))
        if timeline is not None and decodable < total:
            flags.add(MediaFlag.TRUNCATED)
        if decodable == 0:
            raise MediaError(
                f"{path}: its video track holds no frame that decodes: record it again"
            )
        total, wanted = decodable, sampled_indices(decodable, count)
        frames = {i: f for i, f in enumerate(_decoded(path)) if i in set(wanted)}
    if total == 1:
        flags.add(MediaFlag.SINGLE_FRAME)
    pictures = {index: _upright(frame, flags) for index, frame in frames.items()}
    duration_s = 0.0
    if timeline is not None and base is not None:
        stamps = timeline.stamps
        step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
        duration_s = float((stamps[-1] - stamps[0] + step) * base)
    return np.stack([pictures[index] for index in wanted]), duration_s, frozenset(flags)


def _prepared(container: InputContainer) -> VideoStream:
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # frame threads stall on sampled reads
    return stream


def _timeline(container: InputContainer, stream: VideoStream) -> _Timeline | None:
    """Stamps of all frames, from packets alone; None where they are not to be had."""
    stamps: list[int] = []
    keys: set[int] = set()
    try:
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return None
            stamps.append(packet.pts)
            if packet.is_keyframe:
                keys.add(packet.pts)
    except av.error.FFmpegError:
        return None
    if not stamps or len(set(stamps)) < len(stamps):
        return None
    return _Timeline(tuple(sorted(stamps)), frozenset(keys))


def _by_seeking(path: Path, timeline: _Timeline, wanted: Sequence[int]) -> dict[int, VideoFrame]:
    """Decode the wanted frames, jumping over what lies between where a key frame allows."""
    index_of = {stamp: index for index, stamp in enumerate(timeline.stamps)}
    keys = sorted(timeline.keys)
    found: dict[int, VideoFrame] = {}
    with opened(path) as container:
        stream = _prepared(container)
        decoder: Iterator[VideoFrame] = iter(())
        position = -1  # index of the last frame that came out of the decoder
        for index in wanted:
            target = timeline.stamps[index]
            key = max((k for k in keys if k <= target), default=None)
            if position < 0 or (key is not None and index_of[key] > position):
                container.seek(target, stream=stream, backward=True)
                decoder = container.decode(stream)
            try:
                for frame in decoder:
                    position = index_of.get(frame.pts if frame.pts is not None else -1, position)
                    if frame.pts == target:
                        found[index] = frame
                        break
                    if frame.pts is not None and frame.pts > target:
                        return found  # the wanted one did not decode
            except av.error.FFmpegError:
                return found
    return found


def _decoded(path: Path) -> Iterator[VideoFrame]:
    """All frames that decode, in order; damage ends them."""
    with opened(path) as container:
        stream = _prepared(container)
        try:
            yield from container.decode(stream)
        except av.error.FFmpegError:
            return


def _is_variable(stamps: Sequence[int]) -> bool:
    steps = np.diff(stamps)
    if len(steps) < 2:
        return False
    median = float(np.median(steps))
    # The last frame's stamp is often off; one odd step among many is no variable rate.
    return int((np.abs(steps - median) > _RATE_TOLERANCE * median).sum()) > 1


def _upright(frame: VideoFrame, flags: set[MediaFlag]) -> NDArray[np.uint8]:
    picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as the display matrix says
    if turns:
        flags.add(MediaFlag.ROTATED)
    return np.rot90(picture, turns)
