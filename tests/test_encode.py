"""Very many clips: files that hang, crash and lie, encodes that are killed, and two at once."""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.errors import InputError, MediaError
from affectgpt_r1.media import read_media, video
from affectgpt_r1.media.audio import read_waveform
from affectgpt_r1.media.container import MAX_DURATION_S
from affectgpt_r1.media.worker import Guard, guarded
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import _name, encode_clips, to_encode
from affectgpt_r1.perception.encode import failures as encode_failures
from affectgpt_r1.perception.features import EncoderSource, Features, perceive
from affectgpt_r1.perception.signal import GradientFaceEncoder, SignalSpeechEncoder
from affectgpt_r1_demo.clips import demo_lines, write_demo
from test_media import write_sound, write_video

STRESS = bool(os.environ.get("AFFECTGPT_R1_STRESS"))
SOUND = SignalSpeechEncoder()
SOURCE = EncoderSource.of(GradientFaceEncoder(), SOUND)


def deed(name: str) -> str:
    """What a file may do to the process that reads it."""
    if name == "hangs":
        ctypes.CDLL(None).sleep(600)  # as inside a decoder: no Python code runs
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "exits":
        os._exit(3)
    if name == "grows":
        return str(len(np.ones(8 << 27)))
    if name == "raises":
        raise ZeroDivisionError("in a decoder")
    if name == "is refused":
        raise MediaError("no media")
    return f"{name} {os.getpid()}"


def test_a_file_that_hangs_crashes_or_grows_is_a_reason_and_the_rest_goes_on() -> None:
    names = ["fine", "hangs", "crashes", "exits", "grows", "raises", "is refused", "fine too"]
    start = time.monotonic()
    found = {name: (got, why) for name, got, why in guarded(deed, names, Guard(2, 2.0, 2 << 30))}
    assert time.monotonic() - start < 20
    assert found.keys() == set(names)
    assert found["fine"][0]
    assert found["fine too"][0]
    reasons = {name: why for name, (_, why) in found.items() if why}
    assert reasons == {
        "hangs": "took longer than 2 s",
        "crashes": "its process died (exit -11)",
        "exits": "its process died (exit 3)",
        "grows": "needs more than 2048 MiB of memory",
        "raises": "ZeroDivisionError: in a decoder",
        "is refused": "no media",
    }


def test_a_hanging_process_does_not_outlive_its_limit() -> None:
    list(guarded(deed, ["fine"], Guard(1)))  # what is loaded once
    start = time.monotonic()
    work = guarded(deed, ["fine", "hangs"], Guard(1, 1.5))
    pid = int(str(next(work)[1]).split()[1])
    ready_s = time.monotonic() - start
    assert next(work)[2] == "took longer than 1.5 s"
    assert time.monotonic() - start - ready_s < 1.5 + 1.0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert list(work) == []


def test_nobody_is_left_behind_when_the_caller_stops() -> None:
    work = guarded(deed, ["fine", "hangs", "hangs"], Guard(1))
    pid = int(str(next(work)[1]).split()[1])
    work.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_no_process_outlives_a_parent_that_is_killed() -> None:
    code = (
        "from affectgpt_r1.media.worker import Guard, guarded; from test_encode import deed\n"
        "work = guarded(deed, ['fine', 'hangs', 'hangs'], Guard(1, 600.0))\n"
        "print(next(work)[1], flush=True); next(work)"
    )
    paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=paths
    )
    assert parent.stdout is not None
    stat = Path("/proc", parent.stdout.readline().split()[1], "stat")
    assert stat.is_file()
    time.sleep(0.5)
    parent.kill()
    parent.wait()
    time.sleep(1.0)
    # Gone, or dead and not yet collected by whoever inherits it.
    assert not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("originals")
    tone = np.sin(np.arange(24000) / 9).astype(np.float32)[None] * 0.3
    return [
        write_video(folder / "a.mp4", 30),
        write_video(folder / "a.mkv", 30, "mpeg4"),
        write_video(folder / "a.webm", 20, "libvpx"),
        write_video(folder / "a.avi", 30, "mjpeg"),
        write_sound(folder / "a.wav", "pcm_s16le", tone, 16000),
        write_sound(folder / "a.flac", "flac", tone, 44100),
        write_sound(folder / "a.ogg", "libopus", np.repeat(tone, 2, 0), 48000),
        write_sound(folder / "a.mp3", "libmp3lame", tone, 22050),
    ]


def mutated(originals: Sequence[Path], place: Path, draw: random.Random) -> Path:
    """A file with bits flipped, an end cut off, another's piece inside, or a wrong extension."""
    source = draw.choice(originals)
    content, suffix = bytearray(source.read_bytes()), source.suffix
    for _ in range(draw.randint(1, 3)):
        kind = draw.choice(["flip", "cut", "splice", "hole", "suffix"])
        at = draw.randrange(len(content)) if draw.random() < 0.6 else draw.randrange(200)
        at = min(at, len(content) - 1)
        if kind == "flip":
            content[at] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del content[max(at, 1) :]
        elif kind == "splice":
            other = draw.choice(originals).read_bytes()
            start = draw.randrange(len(other))
            content[at:at] = other[start : start + draw.randrange(4000)]
        elif kind == "hole":
            content[at : at + draw.randrange(64)] = bytes(64)
        else:
            suffix = draw.choice([".mp4", ".wav", ".mkv", ".txt", ".m3u8", ".npy"])
    path = place / f"{draw.getrandbits(64):x}{suffix}"
    path.write_bytes(content)
    return path


def encode(
    clips: Sequence[Clip], cache: Path, *, retry: bool = False, **limits: float
) -> dict[str, int]:
    guard = Guard(2, limits.get("wall_s", 60.0), int(limits.get("memory_bytes", 3 << 30)))
    kept = FeatureCache(cache)
    wanted = to_encode(clips, kept, retry=retry)
    fates = encode_clips(wanted, SOURCE, kept, guard)
    skipped = 0 if retry else len(clips) - len(wanted)
    counts = [*fates.items(), ("skipped", skipped)]
    return {fate: count for fate, count in counts if count}


def failures(cache: Path) -> list[dict[str, str]]:
    path = cache / "failures.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def test_every_mutated_file_ends_as_features_or_as_a_reason(
    originals: list[Path], tmp_path: Path
) -> None:
    draw, count = random.Random(5), 10_000 if STRESS else 120
    (tmp_path / "files").mkdir()
    files = [mutated(originals, tmp_path / "files", draw) for _ in range(count)]
    clips = [Clip(id=path.name, video=path) for path in files]
    fates = encode(clips, tmp_path / "cache", wall_s=10.0)
    assert fates["encoded"] + fates.get("cached", 0) + fates["failed"] == count
    assert min(fates["encoded"], fates["failed"]) > count / 20
    listed = failures(tmp_path / "cache")
    assert len(listed) == fates["failed"]
    assert all(row["reason"] and "\n" not in row["reason"] for row in listed)
    cache = FeatureCache(tmp_path / "cache")
    told = {row["id"] for row in listed}
    for clip in clips:
        found = cache.get(SOURCE.key(clip))
        assert (found is None) == (clip.id in told)


def test_a_playlist_is_no_way_to_another_file(originals: list[Path], tmp_path: Path) -> None:
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{originals[0]}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile {originals[0]}\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        for suffix in ("", ".mp4"):
            path = (tmp_path / name).rename(tmp_path / (name + suffix))
            with pytest.raises(MediaError):
                read_media(Clip("x", video=path))
            path.rename(tmp_path / name)


def test_what_claims_to_be_endless_or_huge_is_refused(tmp_path: Path) -> None:
    rate = 8000
    path = tmp_path / "long.wav"
    size = (MAX_DURATION_S + 60) * rate
    header = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    header += bytes([1, 0, 1, 0]) + rate.to_bytes(4, "little") + rate.to_bytes(4, "little")
    header += bytes([1, 0, 8, 0]) + b"data" + size.to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + size)  # a sparse file of silence
    with pytest.raises(MediaError, match="cut it"):
        read_waveform(path)
    with av.open(str(tmp_path / "huge.mp4"), "w") as container:
        stream = container.add_stream("libx264", 25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 8192, 4800, "yuv420p"
        container.mux(stream.encode(VideoFrame(8192, 4800, "yuv420p")))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="8192 x 4800 pixels"):
        read_media(Clip("x", video=tmp_path / "huge.mp4"))


def test_a_film_of_too_many_frames_is_refused(
    originals: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "MAX_FRAMES", 29)  # it has 30
    with pytest.raises(MediaError, match=r"a\.mp4 has over 29 frames"):
        read_media(Clip("x", video=originals[0]))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [line for line in demo_lines() if line.split == "grpo"][:5]
    return write_demo(tmp_path_factory.mktemp("demo"), lines=lines, renderings=2).grpo


@pytest.fixture(scope="module")
def many(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 clips and more under stress, else the few."""
    if not STRESS:
        return demo
    lines = [line for line in demo_lines() if line.split == "grpo"][:70]
    return write_demo(tmp_path_factory.mktemp("many"), lines=lines, renderings=18).grpo


def same(one: Features | None, other: Features | None) -> bool:
    assert one is not None
    assert other is not None
    return (
        np.array_equal(one.visual, other.visual)
        and np.array_equal(one.audio, other.audio)
        and (one.flags, one.has_audio, one.has_visual)
        == (other.flags, other.has_audio, other.has_visual)
    )


def run(manifest: Path, cache: Path, *options: str) -> subprocess.Popen[str]:
    script = str(Path(sys.executable).with_name("affectgpt-r1"))
    command = [script, "encode", str(manifest), "--profile", "nano", "--cache", str(cache)]
    return subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def fates_of(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=3000 if STRESS else 600)
    assert process.returncode == 0, err
    row: dict[str, int] = json.loads(out)
    return row


def test_an_encode_that_is_killed_goes_on_and_loses_nothing(many: Path, tmp_path: Path) -> None:
    cache, draw = tmp_path / "cache", random.Random(7)
    clips = read_manifest(many)
    for _ in range(20 if STRESS else 2):
        process = run(many, cache)
        time.sleep(draw.uniform(2.0, 5.0))
        process.kill()
        process.wait()
    before = FeatureCache(cache).contents().clips
    told = fates_of(run(many, cache))
    assert told["encoded"] + told["cached"] == len(clips)
    assert told["cached"] == before  # nothing that stands there is encoded again
    kept = FeatureCache(cache)
    for clip in clips[:: 20 if STRESS else 1]:
        undisturbed = perceive(clip, SOURCE)
        assert same(kept.get(undisturbed.key), undisturbed)
    assert fates_of(run(many, cache))["cached"] == len(clips)


def test_two_encodes_at_once_share_the_work(demo: Path, tmp_path: Path) -> None:
    both = [run(demo, tmp_path / "cache", "--workers", "1") for _ in range(2)]
    told = [fates_of(process) for process in both]
    count = len(read_manifest(demo))
    assert [row["encoded"] + row["cached"] for row in told] == [count, count]
    assert sum(row["encoded"] for row in told) <= count + 6  # what both had in flight
    assert fates_of(run(demo, tmp_path / "cache"))["cached"] == count


def test_shards_are_parts_of_the_whole(demo: Path, tmp_path: Path) -> None:
    count = len(read_manifest(demo))
    told = [fates_of(run(demo, tmp_path / "cache", "--shard", f"{i}/3")) for i in (1, 2, 3)]
    assert sum(row["encoded"] for row in told) == count
    assert all(row["encoded"] >= count // 3 for row in told)


def test_failures_are_listed_left_out_and_retried(originals: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no media at all" * 99)
    clips = [Clip("fine", video=originals[0]), Clip("broken", video=broken)]
    cache = tmp_path / "cache"

    def fates(*, retry: bool = False) -> dict[str, int]:
        return encode(clips, cache, retry=retry)

    assert fates() == {"encoded": 1, "failed": 1}
    assert [(row["id"], "cannot be read" in row["reason"]) for row in failures(cache)] == [
        ("broken", True)
    ]
    assert fates() == {"cached": 1, "skipped": 1}
    assert fates(retry=True) == {"failed": 1}
    with (cache / "failures.jsonl").open("a") as file:
        file.write('{"id": "torn", "med')  # by a kill
    broken.write_bytes(originals[1].read_bytes())
    assert fates(retry=True) == {"encoded": 1}
    assert failures(cache) == []
    assert fates() == {"cached": 2}


class BlindEncoder(GradientFaceEncoder):
    """Gives no numbers."""

    def encode(self, steps: NDArray[Any]) -> NDArray[np.float32]:
        return super().encode(steps) * np.float32(np.nan)


def test_a_text_that_failed_speaks_for_itself_alone(tmp_path: Path) -> None:
    row = {"id": "a", "media": _name(Clip("a")), "reason": "its reader died"}
    (tmp_path / "failures.jsonl").write_text(json.dumps(row) + "\n")
    assert encode_failures([Clip("a"), Clip("b")], FeatureCache(tmp_path)) == {
        "a": "its reader died"
    }


def test_a_list_of_failures_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache/failures.jsonl").mkdir(parents=True)
    (tmp_path / "a.mp4").write_bytes(b"no film")
    clip = Clip("a", video=tmp_path / "a.mp4")
    with pytest.raises(InputError, match="cannot be written"):
        encode([clip], tmp_path / "cache")


def test_copies_of_one_file_share_the_fate_of_their_batch(
    originals: list[Path], tmp_path: Path
) -> None:
    clips = [Clip(name, video=tmp_path / name) for name in ("a.mp4", "b.mp4", "c.mp4")]
    for clip in clips:
        shutil.copy(originals[0], tmp_path / clip.id)
    cache, blind = FeatureCache(tmp_path / "cache"), EncoderSource.of(BlindEncoder(), SOUND)
    guard = Guard(1)
    assert encode_clips(clips, blind, cache, guard, batch_clips=8) == {"failed": 3}
    assert {row["id"] for row in failures(cache.folder)} == {clip.id for clip in clips}
    again = to_encode(clips, cache, retry=True)
    fates = encode_clips(again, SOURCE, cache, guard, batch_clips=8)
    assert fates == {"encoded": 1, "cached": 2}
    assert failures(cache.folder) == []


def test_a_retry_that_is_interrupted_forgets_no_failure(tmp_path: Path) -> None:
    clips = []
    for i in range(4):
        (tmp_path / f"{i}.mp4").write_bytes(b"no media at all" * (90 + i))
        clips.append(Clip(str(i), video=tmp_path / f"{i}.mp4"))
    cache = FeatureCache(tmp_path / "cache")
    assert encode(clips, cache.folder) == {"failed": 4}

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    again = to_encode(clips, cache, retry=True)
    with pytest.raises(KeyboardInterrupt):
        encode_clips(again, SOURCE, cache, Guard(1), progress=interrupted)
    assert len(to_encode(clips, cache, retry=True)) == 4


def test_a_device_that_is_not_there_is_the_inputs_fault(demo: Path, tmp_path: Path) -> None:
    for device in ("foo", "cuda"):
        process = run(demo, tmp_path / "cache", "--device", device)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err.count("\n")) == (2, "", 1), err
        assert f"device '{device}' cannot be used" in err


def test_a_failure_is_of_a_file_and_not_of_its_name(
    originals: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fates = []
    for name, content in (("a", b"junk" * 99), ("b", originals[0].read_bytes())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.mp4").write_bytes(content)
        monkeypatch.chdir(tmp_path / name)
        fates.append(encode([Clip("c", video=Path("clip.mp4"))], tmp_path / "cache"))
    assert fates == [{"failed": 1}, {"encoded": 1}]


def test_a_video_whose_size_changes_is_the_inputs_fault(tmp_path: Path) -> None:
    both = b""
    for side in (64, 128):
        path = tmp_path / f"{side}.ts"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg2video", 25)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            for _ in range(25):
                container.mux(stream.encode(VideoFrame(side, side, "yuv420p")))
            container.mux(stream.encode(None))
        both += path.read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    with pytest.raises(MediaError, match="change their size"):
        read_media(Clip("x", video=tmp_path / "both.ts"))


def test_the_command_says_where_the_reasons_are(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no media at all" * 99)
    (tmp_path / "clips.jsonl").write_text('{"id": "a", "video": "a.mp4"}\n')
    process = run(tmp_path / "clips.jsonl", tmp_path / "cache")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, json.loads(out)["failed"]) == (0, 1)
    assert err.rstrip().endswith(f"{tmp_path}/cache/failures.jsonl; --retry tries again")
    process = run(tmp_path / "clips.jsonl", tmp_path / "cache", "--shard", "3/2")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)


def test_ray_encodes_the_same_with_two_actors(
    demo: Path, originals: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no media at all" * 99)
    clips = [*read_manifest(demo), Clip("broken", video=broken)]
    write_manifest(tmp_path / "clips.jsonl", clips)
    told = fates_of(run(tmp_path / "clips.jsonl", tmp_path / "ray", "--engine", "ray"))
    assert (told["encoded"], told["failed"]) == (len(clips) - 1, 1)
    assert [row["id"] for row in failures(tmp_path / "ray")] == ["broken"]
    kept = FeatureCache(tmp_path / "ray")
    for clip in clips[:-1]:
        alone = perceive(clip, SOURCE)
        assert same(kept.get(alone.key), alone)


def test_the_cache_is_looked_after_on_the_command_line(demo: Path, tmp_path: Path) -> None:
    count = fates_of(run(demo, tmp_path / "cache"))["encoded"]
    script = str(Path(sys.executable).with_name("affectgpt-r1"))

    def tend(*words: str, status: int = 0) -> dict[str, int]:
        command = [script, "cache", *words, "--cache", str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        row: dict[str, int] = json.loads(done.stdout)
        return row

    assert (tend("size")["clips"], tend("size")["loose"]) == (count, count)
    assert (tend("compact")["shards"], tend("verify")["damaged"]) == (1, 0)
    assert tend("gc", str(demo), "--profile", "nano")["clips"] == count
    (shard,) = (tmp_path / "cache" / "shards").iterdir()
    content = bytearray(shard.read_bytes())
    content[-9] ^= 1
    shard.write_bytes(content)
    assert tend("verify", status=2)["damaged"] == 1
    assert tend("compact")["clips"] == count - 1
    assert tend("gc", str(demo), "--profile", "nano", "--view", "frame")["dropped"] == count - 1
