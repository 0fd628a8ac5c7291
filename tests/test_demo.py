"""The demo set: real files, split by line, the same every time, gone on with after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from affectgpt_r1.clips import read_manifest
from affectgpt_r1.errors import InputError
from affectgpt_r1.media import MediaFlag, content_hash, read_media
from affectgpt_r1_demo.clips import DemoSet, demo_lines, describe, write_demo
from affectgpt_r1_demo.face import EXPRESSIONS
from affectgpt_r1_demo.voice import TONES, syllable_count, synthesise

LINES = demo_lines()
FEW = [
    next(line for line in LINES if line.split == "test"),
    next(line for line in LINES if line.split == "cold-start"),
    next(line for line in LINES if line.split == "grpo"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoSet]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_demo(folder, lines=FEW, renderings=2, workers=1)


def test_there_are_enough_lines_and_each_is_its_own() -> None:
    assert len(LINES) >= 300
    assert len({line.text for line in LINES}) == len(LINES) == len({line.id for line in LINES})
    for line in LINES:
        for take in line.takes:
            assert take.face in EXPRESSIONS
            assert take.voice in TONES
            assert 1 <= len(take.labels) <= 4


def test_at_least_a_hundred_clips_are_held_out() -> None:
    held_out = [take for line in LINES if line.split == "test" for take in line.takes]
    assert len(held_out) >= 100
    assert len(held_out) < 0.35 * sum(len(line.takes) for line in LINES)


def test_words_alone_do_not_tell_the_labels() -> None:
    twofold = [line for line in LINES if len({take.labels for take in line.takes}) > 1]
    contrary = [t for line in LINES for t in line.takes if t.kind in ("irony", "masking")]
    assert len(twofold) > 0.4 * len(LINES)
    assert len(contrary) > 100


def test_the_same_face_and_voice_have_different_labels() -> None:
    by_parts: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for line in LINES:
        for take in line.takes:
            by_parts.setdefault((take.face, take.voice), set()).add(take.labels)
    assert sum(len(labels) > 3 for labels in by_parts.values()) >= 10


def test_lines_are_split_not_renderings(made: tuple[Path, DemoSet]) -> None:
    _, sets = made
    parts = [read_manifest(path) for path in (sets.cold_start, sets.grpo, sets.test)]
    groups = [{clip.group for clip in part} for part in parts]
    assert len(set().union(*groups)) == sum(map(len, groups)) == len(FEW)
    assert len(parts[0]) + len(parts[1]) == 2 * sum(len(line.takes) for line in FEW[1:])
    assert len(parts[2]) == len(FEW[0].takes)


def test_a_clip_is_a_real_file_with_a_face_and_a_voice(made: tuple[Path, DemoSet]) -> None:
    for clip in (*read_manifest(made[1].cold_start), *read_manifest(made[1].grpo)):
        media = read_media(clip)
        assert not media.flags & {MediaFlag.NO_FACE, MediaFlag.NO_AUDIO, MediaFlag.NO_VIDEO}
        assert np.abs(media.windows).max() > 0.05
        assert media.duration_s > 1


def test_renderings_differ_and_are_the_same_every_time(
    made: tuple[Path, DemoSet], tmp_path: Path
) -> None:
    first = read_manifest(made[1].grpo)
    again = read_manifest(write_demo(tmp_path, lines=FEW, renderings=2, workers=2).grpo)
    hashes = [content_hash(clip) for clip in first]
    assert hashes == [content_hash(clip) for clip in again]
    assert len(set(hashes)) == len(hashes)


def test_what_is_missing_is_made_and_what_is_there_is_kept(made: tuple[Path, DemoSet]) -> None:
    folder, sets = made
    clips = sorted((folder / "clips").glob("*.mp4"))
    before = {path: path.stat().st_mtime_ns for path in clips}
    content = clips[0].read_bytes()
    clips[0].unlink()
    calls: list[tuple[int, int]] = []
    again = write_demo(
        folder, lines=FEW, renderings=2, workers=1, progress=lambda *call: calls.append(call)
    )
    assert again == sets
    assert clips[0].read_bytes() == content
    assert all(path.stat().st_mtime_ns == before[path] for path in clips[1:])
    assert calls == [(len(clips), len(clips))]


def test_other_settings_in_the_folder_are_refused(made: tuple[Path, DemoSet]) -> None:
    with pytest.raises(InputError, match="other settings"):
        write_demo(made[0], lines=FEW, renderings=1, workers=1)


def test_a_description_names_parts_and_labels() -> None:
    take = LINES[0].takes[0]
    assert all(word in describe(take) for word in take.labels)


def test_tones_differ_as_their_names_say() -> None:
    def loudness(name: str) -> float:
        voices = [synthesise(TONES[name], 8, np.random.default_rng(s)) for s in range(8)]
        return float(np.mean([np.sqrt((voice**2).mean()) for voice in voices]))

    assert loudness("heavy") < loudness("flat") < loudness("harsh")
    slow, quick = (
        len(synthesise(TONES[name], 10, np.random.default_rng(0))) for name in ("heavy", "bright")
    )
    assert slow > 1.3 * quick
    assert syllable_count("") == 2
