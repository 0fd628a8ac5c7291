"""Reading clips: exact frames from every container, exact windows, and every oddity flagged."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soxr
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MediaError, MissingFileError
from affectgpt_r1.media import MediaFlag, content_hash, read_media
from affectgpt_r1.media.audio import RATE_HZ, cut_windows, read_waveform
from affectgpt_r1.media.faces import crop_faces, follow, overlap, read_given_faces
from affectgpt_r1.media.video import read_frames, sampled_indices
from affectgpt_r1_demo.face import EXPRESSIONS, Person

SIDE = 64


def numbered(number: int) -> NDArray[np.uint8]:
    """A picture that tells its number: eight bright or dark bars, one a bit."""
    bits = [(number >> bit) & 1 for bit in range(8)]
    bars = np.repeat(np.array([230 if bit else 20 for bit in bits], np.uint8), SIDE // 8)
    return np.ascontiguousarray(np.broadcast_to(bars[None, :, None], (SIDE, SIDE, 3)))


def number_of(picture: NDArray[np.uint8]) -> int:
    middles = picture[SIDE // 2, SIDE // 16 :: SIDE // 8, 1]
    return sum(1 << bit for bit, value in enumerate(middles[:8]) if value > 128)


def write_video(
    path: Path,
    count: int,
    codec: str = "libx264",
    sound: bool = True,
    stamps: list[int] | None = None,
    key_every: int = 12,
) -> Path:
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, 25, options={"g": str(key_every)})
        video.width = video.height = SIDE
        video.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        video.bit_rate = 2_000_000
        rate = 48000
        audio = (
            container.add_stream(
                "libopus"
                if path.suffix == ".webm"
                else "libmp3lame"
                if path.suffix == ".avi"
                else "aac",
                rate,
                layout="stereo",
            )
            if sound
            else None
        )
        if stamps:
            video.codec_context.time_base = Fraction(1, 100)
        for i in range(count):
            frame = VideoFrame.from_ndarray(numbered(i), format="rgb24")
            if stamps:
                frame.pts, frame.time_base = stamps[i], Fraction(1, 100)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            samples = int(rate * max(count / 25, 0.04))
            tone = np.sin(2 * np.pi * 440 * np.arange(samples) / rate).astype(np.float32) * 0.5
            block = av.AudioFrame.from_ndarray(np.stack([tone, tone]), "fltp", "stereo")
            block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), 0
            resampler = av.AudioResampler(
                format=audio.codec_context.format, layout="stereo", rate=rate
            )
            for part in [*resampler.resample(block), *resampler.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def write_sound(path: Path, codec: str, channels: NDArray[np.float32], rate: int) -> Path:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate, layout=layout)
        block = av.AudioFrame.from_ndarray(channels, "fltp", layout)
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), 0
        resampler = av.AudioResampler(format=stream.codec_context.format, layout=layout, rate=rate)
        for part in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write_take(folder: Path, i: int) -> tuple[Path, Path]:
    """A silent film and a tone beside it, each `i` another: what most clips of a test need."""
    tone = 0.2 * np.sin(np.arange(40_000) * (2 + i) / 60).astype(np.float32)[None]
    sound = write_sound(folder / f"{i}.wav", "pcm_s16le", tone, 16_000)
    return write_video(folder / f"{i}.mp4", 20 + i, sound=False), sound


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mov", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mkv", "mpeg4"),
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.avi", "mjpeg"),
    ],
)
@pytest.mark.parametrize("count", [1, 5, 50])
def test_frames_are_the_uniform_ones_in_every_container(
    tmp_path: Path, name: str, codec: str, count: int
) -> None:
    path = write_video(tmp_path / name, count, codec)
    frames, _, flags = read_frames(path, 8)
    assert [number_of(frame) for frame in frames] == sampled_indices(count, 8)
    everything, _, _ = read_frames(path, 8, seek=False)
    assert np.array_equal(frames, everything)
    assert (MediaFlag.SINGLE_FRAME in flags) == (count == 1)
    media = read_media(Clip(id="a", video=path))
    assert media.faces.shape == (8, 224, 224, 3)
    assert media.windows.shape == (8, 32000)
    assert MediaFlag.NO_FACE in media.flags


def test_a_variable_rate_is_read_by_index_and_flagged(tmp_path: Path) -> None:
    stamps = [0, 4, 8, 30, 34, 60, 64, 68, 72, 200, 204, 208]
    path = write_video(tmp_path / "a.mkv", len(stamps), stamps=stamps)
    frames, _, flags = read_frames(path, 8)
    assert [number_of(frame) for frame in frames] == sampled_indices(len(stamps), 8)
    assert MediaFlag.VARIABLE_RATE in flags


def test_a_rotated_video_is_turned_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 10)
    data = bytearray(path.read_bytes())
    # A phone held upright: the track header's matrix turns the picture a quarter clockwise.
    start = data.index(b"tkhd") + 4 + 40
    matrix = [0, 0x10000, 0, -0x10000 & 0xFFFFFFFF, 0, 0, SIDE * 0x10000, 0, 0x40000000]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big") for value in matrix)
    path.write_bytes(data)
    frames, _, flags = read_frames(path, 8)
    assert MediaFlag.ROTATED in flags
    stored = np.rot90(frames[-1], 1)  # turned back, counter-clockwise
    assert number_of(np.ascontiguousarray(stored)) == sampled_indices(10, 8)[-1]


def test_a_video_without_sound_and_a_sound_without_video_are_flagged(tmp_path: Path) -> None:
    silent = read_media(Clip(id="a", video=write_video(tmp_path / "a.mp4", 30, sound=False)))
    assert MediaFlag.NO_AUDIO in silent.flags
    assert silent.windows.shape == (0, 32000)
    sound = np.zeros((1, 16000), np.float32)
    blind = read_media(
        Clip(id="a", video=write_sound(tmp_path / "a.wav", "pcm_s16le", sound, 16000))
    )
    assert {MediaFlag.NO_VIDEO, MediaFlag.SHORT} <= blind.flags
    assert blind.faces.shape == (0, 224, 224, 3)


def test_a_third_of_a_second_is_read_and_flagged(tmp_path: Path) -> None:
    media = read_media(Clip(id="a", video=write_video(tmp_path / "a.mp4", 8)))
    assert MediaFlag.SHORT in media.flags
    assert media.duration_s == pytest.approx(0.32, abs=0.08)
    assert len(media.frames) == 8


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.wav", "pcm_s16le", 8000),
        ("a.flac", "flac", 44100),
        ("a.ogg", "libopus", 48000),
        ("a.mp3", "libmp3lame", 44100),
        ("a.m4a", "aac", 48000),
    ],
)
def test_every_kind_of_sound_keeps_its_pitch(
    tmp_path: Path, name: str, codec: str, rate: int
) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(3 * rate) / rate).astype(np.float32)
    path = write_sound(tmp_path / name, codec, np.stack([tone, tone]), rate)
    waveform, _ = read_waveform(path)
    assert waveform is not None
    assert len(waveform) == pytest.approx(48000, abs=3000)
    spectrum = np.abs(np.fft.rfft(waveform[8000:40000]))
    assert spectrum.argmax() / 2 == pytest.approx(300, abs=1)
    assert np.abs(waveform[8000:40000]).max() == pytest.approx(0.5, abs=0.06)


def test_two_channels_are_averaged_and_of_more_the_first_is_taken(tmp_path: Path) -> None:
    time = np.arange(32000) / 16000
    loud, quiet = (a * np.sin(2 * np.pi * 200 * time).astype(np.float32) for a in (0.8, 0.2))
    stereo, _ = read_waveform(
        write_sound(tmp_path / "s.wav", "pcm_s16le", np.stack([loud, quiet]), 16000)
    )
    many, _ = read_waveform(
        write_sound(tmp_path / "m.wav", "pcm_s16le", np.stack([loud, *[quiet] * 5]), 16000)
    )
    assert stereo is not None
    assert many is not None
    assert np.abs(stereo).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(many).max() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("samples", [1, 5000, 32000, 32001, 48000, 123457])
def test_windows_start_where_the_published_rule_says(samples: int) -> None:
    waveform = np.arange(1, samples + 1, dtype=np.float32)
    windows = cut_windows(waveform, 8)
    assert windows.shape == (8, 32000)
    for i, window in enumerate(windows):
        start = int(Fraction(max(samples - 32000, 0), 16000) / 8 * i * 16000)
        assert window[0] == waveform[start]
    if samples < 32000:
        assert (windows[:, samples:] == 0).all()


@pytest.mark.parametrize(
    ("available", "indices"),
    [
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (11, [0, 1, 2, 4, 5, 6, 8, 9]),
        (25, [0, 3, 6, 9, 12, 15, 18, 21]),
        (77, [0, 9, 19, 28, 38, 48, 57, 67]),
        (5, [0, 1, 2, 3, 4, 4, 4, 4]),
        (1, [0] * 8),
    ],
)
def test_frames_of_odd_lengths(available: int, indices: list[int]) -> None:
    assert sampled_indices(available, 8) == indices


@pytest.mark.parametrize(
    ("samples", "starts"),
    [
        # 10 s: the last window is 7.0 to 9.0 s.
        (160_000, [0, 16_000, 32_000, 48_000, 64_000, 80_000, 96_000, 112_000]),
        (77_777, [0, 5722, 11444, 17166, 22888, 28610, 34332, 40054]),
        (32_001, [0] * 8),
        (32_009, [0, 1, 2, 3, 4, 5, 6, 7]),
        (20_000, [0] * 8),
    ],
)
def test_windows_of_odd_lengths(samples: int, starts: list[int]) -> None:
    waveform = np.arange(1, samples + 1, dtype=np.float32)
    assert (cut_windows(waveform, 8)[:, 0] - 1).tolist() == starts


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000])
def test_sound_is_resampled_as_soxr_does(tmp_path: Path, rate_hz: int, channels: int) -> None:
    seconds = np.arange(3 * rate_hz) / rate_hz
    # Speech's band: up to where the two filters begin to differ.
    tones = [(140, 0.2), (1180, 0.1), (2900, 0.05), (3400, 0.02)]
    mono = sum(gain * np.sin(2 * np.pi * hz * seconds) for hz, gain in tones)
    sound = np.stack([mono * (0.6 + 0.4 * c) for c in range(channels)]).astype(np.float32)
    path = write_sound(tmp_path / "a.wav", "pcm_f32le", sound, rate_hz)
    found, _ = read_waveform(path)
    assert found is not None
    expected = soxr.resample(sound.mean(axis=0), rate_hz, RATE_HZ, quality="VHQ")
    inner = slice(RATE_HZ // 10, 3 * RATE_HZ - RATE_HZ // 10)  # the ends ring
    assert np.abs(found[inner] - expected[inner]).max() < 1e-3


def test_given_faces_win_and_are_bgr(tmp_path: Path) -> None:
    crops = np.zeros((20, 30, 40, 3), np.uint8)
    crops[..., 0] = np.arange(20)[:, None, None] * 10  # the first channel is blue
    np.save(tmp_path / "f.npy", crops)
    clip = Clip(id="a", video=write_video(tmp_path / "a.mp4", 30), faces=tmp_path / "f.npy")
    media = read_media(clip)
    assert MediaFlag.GIVEN_FACES in media.flags
    assert media.faces[:, 0, 0, 2].tolist() == [i * 10 for i in sampled_indices(20, 8)]


def test_empty_given_faces_are_flagged_and_searched(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros((0,), np.float64))
    clip = Clip(id="a", video=write_video(tmp_path / "a.mp4", 10), faces=tmp_path / "f.npy")
    assert {MediaFlag.GIVEN_FACES_EMPTY, MediaFlag.NO_FACE} <= read_media(clip).flags


@pytest.mark.parametrize("kind", ["pickle", "float", "flat", "text"])
def test_wrong_face_files_are_refused_and_never_unpickled(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f.npy"
    if kind == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif kind == "float":
        np.save(path, np.ones((2, 8, 8, 3)))
    elif kind == "flat":
        np.save(path, np.ones((8, 8), np.uint8))
    else:
        path.write_text("not npy")
    with pytest.raises(MediaError, match=r"f\.npy"):
        read_given_faces(path, 8)


@pytest.mark.parametrize("expression", list(EXPRESSIONS))
def test_a_drawn_face_is_found_in_every_expression(expression: str) -> None:
    frames = []
    for seed in range(4):
        person = Person(np.random.default_rng(seed), 192)
        frames.append(person.draw(EXPRESSIONS[expression]))
    crops, flags = crop_faces(np.stack(frames))
    assert MediaFlag.NO_FACE not in flags
    assert crops.shape == (4, 224, 224, 3)


def test_the_face_is_followed_and_gaps_are_filled() -> None:
    frames = np.zeros((3, 100, 100, 3), np.uint8)
    frames[:, 10:50, 10:50] = 200
    bright, large = (10, 10, 40, 40), (40, 40, 55, 55)
    found = iter([[(bright, 1.0)], [], [((12, 10, 40, 40), 1.0), (large, 1.0)]])
    crops, flags = crop_faces(frames, lambda _: next(found))
    assert flags == {MediaFlag.PARTIAL_FACE}
    assert np.array_equal(crops[0], crops[1])
    assert crops[2].mean() > 100  # still the bright one, though another is larger


def test_the_surer_face_begins_where_two_are_equally_large() -> None:
    one, other = (0, 0, 20, 20), (50, 50, 21, 21)
    assert follow([[(one, 0.9), (other, 0.3)]]) == [one]
    assert follow([[(one, 0.9), (other, 0.9)]]) == [other]


def test_overlap_is_a_share() -> None:
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert overlap((0, 0, 10, 10), (20, 20, 5, 5)) == 0
    assert overlap((0, 0, 10, 10), None) == 0


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "broken.mp4"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no video\n" * 100)
    elif kind == "head":
        path.write_bytes(write_video(tmp_path / "w.mp4", 30).read_bytes()[:900])
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    return path


@pytest.mark.parametrize("kind", ["folder", "empty", "text", "head", "noise"])
def test_what_is_no_media_is_one_clear_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(MediaError, match=r"broken\.mp4") as caught:
        read_media(Clip(id="a", video=damaged(tmp_path, kind)))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.mp4"):
        read_media(Clip(id="a", video=tmp_path / "gone.mp4"))
    with pytest.raises(MissingFileError, match=r"gone\.npy"):
        read_given_faces(tmp_path / "gone.npy", 8)


def test_a_torn_video_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "w.mkv", 60, key_every=6)
    torn = tmp_path / "t.mkv"
    torn.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    media = read_media(Clip(id="a", video=torn))
    assert len(media.frames) == 8


def spoil(path: Path, kind: str, number: int) -> Path:
    """Overwrite one packet of a file's first track of a kind."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(**{kind: 0}) if p.size]
        place, size = packets[number].pos, packets[number].size
    assert place is not None
    content = bytearray(path.read_bytes())
    content[place : place + size] = b"\xff" * size
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mjpeg")])
def test_a_damaged_packet_of_a_film_costs_no_more_than_its_frames(
    tmp_path: Path, name: str, codec: str
) -> None:
    frames, _, flags = read_frames(spoil(write_video(tmp_path / name, 40, codec), "video", 10), 8)
    assert frames is not None
    assert MediaFlag.TRUNCATED in flags
    numbers = [number_of(frame) for frame in frames]
    assert numbers[-1] > 30
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("number", [0, 20])
def test_a_damaged_packet_of_a_sound_costs_no_more_than_itself(tmp_path: Path, number: int) -> None:
    tone = 0.3 * np.sin(np.arange(96_000) / 20).astype(np.float32)[None]
    path = write_sound(tmp_path / "a.m4a", "aac", tone, 48_000)
    whole, _ = read_waveform(path)
    heard, flags = read_waveform(spoil(path, "audio", number))
    assert whole is not None
    assert heard is not None
    assert flags == {MediaFlag.TRUNCATED}
    assert len(whole) - 2048 < len(heard) <= len(whole)


def test_sound_of_which_nothing_decodes_leaves_the_picture(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40)
    with av.open(str(path)) as container:
        count = sum(p.size > 0 for p in container.demux(audio=0))
    for number in range(count):
        spoil(path, "audio", number)
    media = read_media(Clip("a", video=path))
    assert len(media.frames) == 8
    assert MediaFlag.NO_AUDIO in media.flags


def test_a_picture_on_a_sounds_cover_is_nobodys_face(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(96_000) / 20).astype(np.float32)[None]
    plain = write_sound(tmp_path / "a.mp3", "libmp3lame", tone, 48_000)
    drawn = write_video(tmp_path / "c.mjpeg", 1, "mjpeg", sound=False)
    body = b"\x00image/jpeg\x00\x03\x00" + drawn.read_bytes()
    frame = b"APIC" + struct.pack(">I", len(body)) + b"\0\0" + body
    size = bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0))
    covered = tmp_path / "covered.mp3"
    covered.write_bytes(b"ID3\x03\0\0" + size + frame + plain.read_bytes())
    with av.open(str(covered)) as container:
        assert len(container.streams.video) == 1
    media = read_media(Clip("a", video=covered))
    assert MediaFlag.NO_VIDEO in media.flags
    assert not len(media.faces)
    assert len(media.windows)


def test_of_a_film_in_an_unknown_code_the_sound_is_heard(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", 40)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    media = read_media(Clip("a", video=path))
    assert MediaFlag.NO_VIDEO in media.flags
    assert len(media.windows) == 8
    silent = write_video(tmp_path / "s.mp4", 40, sound=False)
    silent.write_bytes(silent.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(MediaError, match="neither picture nor sound"):
        read_media(Clip("a", video=silent))


def test_sound_whose_channels_and_rate_change_is_heard_to_its_end(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(48_000) / 20).astype(np.float32)[None]
    parts = [
        write_sound(tmp_path / "mono.aac", "aac", tone, 48_000),
        write_sound(tmp_path / "stereo.aac", "aac", np.concatenate([tone, tone]), 48_000),
        write_sound(tmp_path / "slow.aac", "aac", tone[:, :24_000], 24_000),
    ]
    joined = tmp_path / "joined.aac"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    heard, flags = read_waveform(joined)
    assert heard is not None
    assert not flags
    assert len(heard) == pytest.approx(48_000, abs=6000)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", 30).rename(tmp_path / "2024-01-01T12:30.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_media(Clip("a", video=Path("2024-01-01T12:30.mp4"))).frames) == 8


def test_a_clip_that_names_no_file_is_its_subtitle_and_without_one_is_refused() -> None:
    read = read_media(Clip("a", subtitle="Oh."))
    assert (len(read.frames), len(read.faces), len(read.windows)) == (0, 0, 0)
    assert {MediaFlag.NO_VIDEO, MediaFlag.NO_AUDIO} <= read.flags
    with pytest.raises(MediaError, match="neither picture nor sound"):
        read_media(Clip("a"))
    with pytest.raises(MediaError, match="no file and no subtitle"):  # also where another is cached
        content_hash(Clip("a"))


def test_the_content_hash_tells_bytes_and_roles(tmp_path: Path) -> None:
    one, other = tmp_path / "a", tmp_path / "b"
    one.write_bytes(b"x")
    other.write_bytes(b"x")
    assert content_hash(Clip(id="1", video=one)) == content_hash(Clip(id="2", video=other))
    assert content_hash(Clip(id="1", video=one)) != content_hash(Clip(id="1", audio=one))
    other.write_bytes(b"y")
    assert content_hash(Clip(id="1", video=one)) != content_hash(Clip(id="1", video=other))
    with pytest.raises(MissingFileError):
        content_hash(Clip(id="1", video=tmp_path / "gone"))


def test_a_real_talking_face_is_found(shared_dir: Path) -> None:
    (path,) = (shared_dir / "data/clips").glob("*.mp4")
    media = read_media(Clip(id="a", video=path))
    assert media.flags == frozenset()
    assert np.array_equal(read_frames(path, 8)[0], read_frames(path, 8, seek=False)[0])


def test_real_speech_is_heard(shared_dir: Path) -> None:
    path = next((shared_dir / "data/ravdess_speech").rglob("*.ogg"))
    media = read_media(Clip(id="a", video=path))
    assert media.flags == {MediaFlag.NO_VIDEO}
    assert 0.01 < np.abs(media.windows).max() <= 1
