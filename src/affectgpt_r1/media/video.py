"""Eight frames spread uniformly over a video, by index, without decoding all of it where possible.

A demuxing pass (no decoding) lists the frames' time stamps, so that a frame's index is exact at a
variable rate too. Then the decoder jumps to the last key frame before each wanted one, and leaves
out what is neither wanted nor needed by others. Where a container gives no time stamps, everything
is decoded instead; both ways yield the same frames.
"""

from collections.abc import Iterator, Sequence, Set
from contextlib import suppress
from itertools import islice
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from affectgpt_r1.errors import MediaError
from affectgpt_r1.media.container import MAX_DURATION_S, decoded, opened, track
from affectgpt_r1.media.values import MediaFlag

#: Of a film; more are refused.
MAX_FRAMES = 120 * MAX_DURATION_S
_RATE_TOLERANCE = 0.25  # of a frame's median duration, beyond which a rate counts as variable


#: The time stamp of each frame, in order of display, and whether it is a key frame's.
Timeline = dict[int, bool]


def sampled_indices(available: int, count: int) -> list[int]:
    """Indices of `count` uniform frames of `available`, the last repeated where there are fewer.

    >>> sampled_indices(16, 8), sampled_indices(2, 4)
    ([0, 2, 4, 6, 8, 10, 12, 14], [0, 1, 1, 1])
    """
    if available < count:
        return [min(i, available - 1) for i in range(count)]
    return [int(i) for i in np.arange(0, available, available / count).astype(int)[:count]]


def read_frames(
    path: Path | None, count: int, *, seek: bool = True
) -> tuple[NDArray[np.uint8], float, frozenset[MediaFlag]]:
    """Read uniformly sampled frames of a file's video.

    Args:
        path: the file; None: there is none.
        count: how many.
        seek: False decodes everything; the frames are the same.

    Returns:
        frames (count, H, W, 3) uint8 RGB, upright, or (0, 0, 0, 3) where there is no video track;
        the video's duration in seconds; flags.

    Raises:
        MissingFileError, MediaError: the file cannot be read, or its track holds no frame.
    """
    flags: set[MediaFlag] = set()
    nothing = np.zeros((0, 0, 0, 3), dtype=np.uint8), 0.0, frozenset[MediaFlag]()
    if path is None:
        return nothing
    with opened(path) as container:
        if (stream := track(container.streams.video)) is None:
            return nothing
        base = stream.time_base or 0
        timeline = _timeline(container, stream) if seek else {}
        total = len(timeline)
        wanted = sampled_indices(total, count)
        frames = _by_seeking(container, stream, timeline, sorted(set(wanted))) if timeline else {}
    if not timeline or len(frames) < len(set(wanted)):
        # No time stamps, or some do not decode: count what does, then take from that.
        decodable = sum(1 for _ in _decoded(path))
        if decodable < total:
            flags.add(MediaFlag.TRUNCATED)
        if decodable == 0:
            raise MediaError(f"{path}: no frame of its video decodes: record it again")
        total, wanted = decodable, sampled_indices(decodable, count)
        frames = {i: f for i, f in enumerate(_decoded(path)) if i in set(wanted)}
    if total == 1:
        flags.add(MediaFlag.SINGLE_FRAME)
    duration_s = 0.0
    if timeline:
        stamps = list(timeline)
        steps = np.diff(stamps)
        step = float(np.median(steps)) if len(steps) else 0.0
        duration_s = float((stamps[-1] - stamps[0] + step) * base)
        # The last frame's stamp is often off; one odd step among many is no variable rate.
        if np.sum(np.abs(steps - step) > _RATE_TOLERANCE * step) > 1:
            flags.add(MediaFlag.VARIABLE_RATE)
    pictures = {index: _upright(frame, flags) for index, frame in frames.items()}
    if len({picture.shape for picture in pictures.values()}) > 1:
        raise MediaError(f"{path}: its frames change their size: convert it to one size")
    return np.stack([pictures[index] for index in wanted]), duration_s, frozenset(flags)


def _timeline(container: InputContainer, stream: VideoStream) -> Timeline:
    """All frames' stamps, from packets alone; empty where they are not to be had."""
    try:
        marks = [
            (packet.pts, packet.is_keyframe)
            for packet in islice(container.demux(stream), MAX_FRAMES + 1)
            if packet.size and not packet.is_discard
        ]
    except av.error.FFmpegError:
        return {}
    if len(marks) > MAX_FRAMES:
        raise MediaError(f"{container.name} has over {MAX_FRAMES} frames: cut it into clips")
    timeline = dict(sorted((stamp, key) for stamp, key in marks if stamp is not None))
    return timeline if len(timeline) == len(marks) else {}


def _by_seeking(
    container: InputContainer, stream: VideoStream, timeline: Timeline, wanted: Sequence[int]
) -> dict[int, VideoFrame]:
    """Decode the wanted frames, jumping over what lies between where a key frame allows."""
    stamps = list(timeline)
    targets = {stamps[index] for index in wanted}
    keys = [stamp for stamp, is_key in timeline.items() if is_key]
    found: dict[int, VideoFrame] = {}
    decoder: Iterator[VideoFrame] = iter(())
    last: int | None = None  # stamp of the last frame that came out of the decoder
    for index in wanted:
        target = stamps[index]
        if last is None or any(last < key <= target for key in keys):
            with suppress(av.error.FFmpegError):  # some can only be read through
                container.seek(target, stream=stream, backward=True)
            decoder = _needed(container, stream, targets)
        with suppress(av.error.FFmpegError):
            for frame in decoder:
                last = last if frame.pts is None else frame.pts
                if frame.pts == target:
                    found[index] = frame
                if last is not None and last >= target:
                    break
        if index not in found:
            break  # it does not decode
    return found


def _needed(
    container: InputContainer, stream: VideoStream, targets: Set[int]
) -> Iterator[VideoFrame]:
    """Frames from here on; of those that no other is made from, only the targets."""
    for packet in container.demux(stream):
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in targets else "NONREF"
        yield from stream.decode(packet)


def _decoded(path: Path) -> Iterator[VideoFrame]:
    """All frames that decode, in order."""
    with opened(path) as container:
        yield from decoded(container, track(container.streams.video), set())


def _upright(frame: VideoFrame, flags: set[MediaFlag]) -> NDArray[np.uint8]:
    picture = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as the display matrix says
    if turns:
        flags.add(MediaFlag.ROTATED)
    return np.rot90(picture, turns)
