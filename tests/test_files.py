"""Files that appear whole or not at all, whoever else writes them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError
from affectgpt_r1.files import make_folder, write_whole, writing


def write_often(path: Path, text: str) -> None:
    for _ in range(200):
        write_whole(path, text)


def test_two_writers_never_leave_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    texts = ["a" * 200_000, "b" * 200_000]
    write_whole(path, texts[0])
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_often, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_text())
    for writer in writers:
        writer.join()
    assert all(writer.exitcode == 0 for writer in writers)
    assert seen <= set(texts)
    assert [p.name for p in tmp_path.iterdir()] == ["f.txt"]


def test_a_folder_that_cannot_be_made_is_the_users_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make_folder(tmp_path / "file/below")


def test_a_file_that_is_missing_is_not_one_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"^no clip$"), writing(tmp_path):
        raise MissingFileError("no clip")


def test_thousands_of_faults_are_told_in_one_short_line() -> None:
    error = ProblemsError("a.csv", [f"line {i}: not JSON" for i in range(2000)])
    assert len(str(error)) < 2000
    assert str(error).endswith("and 1950 more")
    assert len(error.problems) == 2000
