"""Reading and encoding at scale: eight frames of a video, clips a second, memory over many clips.

    python benchmarks/encode.py                # some 15 minutes, most of it the 5,000 clips
    python benchmarks/encode.py --clips 500

Frames: ours against decoding the whole file with PyAV (and torchcodec, where it loads), sides in
turn. Clips: demo clips, each copy with a box of its own at the end so that its content is another.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip, read_manifest
from affectgpt_r1.media.video import read_frames, sampled_indices
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.model.profiles import PROFILES, encoder_source
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import encode_clips
from affectgpt_r1_demo.clips import demo_lines, write_demo

COUNT = 8
Read = Callable[[Path], NDArray[np.uint8]]


def film(path: Path, duration_s: int, rate: int = 25) -> Path:
    """A moving pattern of 640 x 360 with a key frame every two seconds, as clips from cameras."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate, options={"g": str(2 * rate)})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        ramp = np.add.outer(np.arange(360), np.arange(640))
        for i in range(duration_s * rate):
            grey = ((ramp + 3 * i) % 256).astype(np.uint8)
            picture = VideoFrame.from_ndarray(np.stack([grey, grey[::-1], grey], -1), "rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def whole(path: Path) -> NDArray[np.uint8]:
    """Every frame decoded, eight kept."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        frames = list(container.decode(video=0))
    wanted = sampled_indices(len(frames), COUNT)
    return np.stack([frames[i].to_ndarray(format="rgb24") for i in wanted])


def sides() -> dict[str, Read]:
    """Ours, and what it is held against."""
    found: dict[str, Read] = {"ours": lambda path: read_frames(path, COUNT)[0], "PyAV": whole}
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec does not load here: {str(error).splitlines()[0]}")
        return found

    def by_torchcodec(path: Path) -> NDArray[np.uint8]:
        decoder = VideoDecoder(str(path), dimension_order="NHWC")
        wanted = sampled_indices(len(decoder), COUNT)
        return np.asarray(decoder.get_frames_at(wanted).data)

    return {**found, "torchcodec": by_torchcodec}


def frames(folder: Path, repeats: int) -> None:
    """Print how long eight frames take."""
    compared = sides()
    print("\n| video | side | ms, median (least, most) | times ours |\n|---|---|---|---|")
    for duration_s in (3, 20, 120):
        path = film(folder / f"{duration_s}.mp4", duration_s)
        took: dict[str, list[float]] = {name: [] for name in compared}
        for _ in range(repeats):
            for name, read in compared.items():
                read(path)  # after the other side's thousands of frames, memory is not as it was
                start = time.perf_counter()
                read(path)
                took[name].append(1000 * (time.perf_counter() - start))
        ours = statistics.median(took["ours"])
        for name, values in took.items():
            middle = statistics.median(values)
            spread = f"{middle:.0f} ({min(values):.0f}, {max(values):.0f})"
            print(f"| {duration_s} s | {name} | {spread} | {middle / ours:.1f} |")


def copies(folder: Path, count: int) -> list[Clip]:
    """So many clips, every one of other content."""
    lines = [line for line in demo_lines() if line.split == "grpo"][:20]
    made = read_manifest(write_demo(folder / "demo", lines=lines).grpo)
    clips = []
    for i in range(count):
        source = made[i % len(made)].video
        assert source is not None
        path = folder / f"{i:05d}.mp4"
        box = b"free" + i.to_bytes(4, "big")
        path.write_bytes(source.read_bytes() + (4 + len(box)).to_bytes(4, "big") + box)
        clips.append(Clip(id=path.stem, video=path))
    return clips


def clips_a_second(clips: list[Clip], folder: Path) -> None:
    """Print the rate with one and two workers."""
    source = encoder_source(PROFILES["small"])
    print("\n| workers | clips a second |\n|---|---|")
    for workers in (1, 2):
        cache = folder / f"cache-{workers}"
        start = time.perf_counter()
        fates = encode_clips(clips, source, FeatureCache(cache), Guard(workers))
        rate = len(clips) / (time.perf_counter() - start)
        assert fates["encoded"] == len(clips), fates
        print(f"| {workers} | {rate:.1f} |")
        shutil.rmtree(cache)


def memory(clips: list[Clip], folder: Path) -> None:
    """Print the parent's memory after a tenth and after all."""
    source = encoder_source(PROFILES["small"])
    seen: dict[int, int] = {}

    def told(done: int, total: int) -> None:
        if done in (total // 10, total):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[done] = pages * resource.getpagesize() >> 20

    start = time.perf_counter()
    encode_clips(clips, source, FeatureCache(folder / "cache"), Guard(2), progress=told)
    first, last = seen.values()
    rate = len(clips) / (time.perf_counter() - start)
    print(
        f"\n{len(clips):,} clips, {rate:.1f} a second: {first} MiB after a tenth, {last} at the end"
    )
    print(f"ratio {last / first:.3f}")


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames(folder, options.repeats)
        clips = copies(folder, options.clips)
        clips_a_second(clips[:200], folder)
        memory(clips, folder)


if __name__ == "__main__":
    main()
