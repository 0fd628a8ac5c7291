"""Manifests: what is read, and that every fault is told at once with its line."""

from __future__ import annotations

import csv
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.clips import Clip, clips_in, read_manifest, write_manifest
from affectgpt_r1.errors import ManifestError, MissingFileError


def write(path: Path, *rows: object) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_paths_are_relative_to_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").write_bytes(b"x")
    path = write(tmp_path / "m.jsonl", {"id": "a", "video": "clips/a.mp4", "labels": "happy, sad"})
    (clip,) = read_manifest(path)
    assert clip.video == tmp_path / "clips/a.mp4"
    assert clip.labels == ("happy", "sad")


def test_csv_reads_as_json_lines_do(tmp_path: Path) -> None:
    row = {"id": "a", "subtitle": 'he said "no", twice', "labels": "[happy, relieved]"}
    with (tmp_path / "m.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    lines = write(tmp_path / "m.jsonl", row)
    assert read_manifest(tmp_path / "m.csv") == read_manifest(lines)


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        {"id": "a", "video": "gone.mp4"},
        "{not json",
        {"id": "b", "subtitel": "oh"},
        {"subtitle": 3},
        {"id": "c"},
        {"id": "c"},
        {"id": "d", "labels": []},
        "[1, 2]",
    )
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    problems = "\n".join(caught.value.problems)
    for line in (1, 2, 3, 4, 6, 7, 8):
        assert f"line {line}:" in problems
    assert "line 5:" not in problems
    assert "'subtitle' is meant?" in problems
    assert "stands on line 5 already" in problems
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00"])
def test_a_manifest_without_clips_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(ManifestError):
        read_manifest(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"gone\.jsonl"):
        read_manifest(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("text", ["id,labels\na,b,c\n", 'id,subtitle\na,"open\n'])
def test_a_damaged_csv_names_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"line [0-9]"):
        read_manifest(path)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(
    st.lists(
        st.builds(
            Clip,
            id=texts.filter(str.strip),
            subtitle=texts,
            labels=st.just(("happy", "on edge")) | st.none(),
            description=texts | st.none(),
            group=texts | st.none(),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda clip: clip.id,
    )
)
def test_what_is_written_is_read_again(clips: list[Clip]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.jsonl"
        write_manifest(path, clips)
        assert list(read_manifest(path)) == clips


def test_a_manifest_in_a_linked_folder_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "far/a/b").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/scratch").symlink_to(tmp_path / "far/a/b")
    films = [tmp_path / "x.mp4", tmp_path / "far/a/b/y.mp4", tmp_path / "linked.mp4"]
    for film in films[:2]:
        film.write_bytes(b"film")
    films[2].symlink_to(films[0])
    path = tmp_path / "home/scratch/m.jsonl"
    write_manifest(path, [Clip(film.stem, video=film) for film in films])
    for clip, film in zip(read_manifest(path), films, strict=True):
        assert clip.video is not None
        assert (clip.video.name, clip.video.samefile(film)) == (film.name, True)


def test_a_folder_gives_media_of_every_usual_kind(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MPG", "c.3gp", "d.aac", "e.opus", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [clip.id for clip in clips_in([tmp_path])] == ["a", "b", "c", "d", "e"]


@given(st.binary(max_size=200))
def test_any_bytes_are_clips_or_a_manifest_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("m.jsonl", "m.csv"):
            path = Path(folder) / name
            path.write_bytes(content)
            with suppress(ManifestError):
                assert read_manifest(path)
