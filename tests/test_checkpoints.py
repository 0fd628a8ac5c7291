"""Checkpoints are whole or are not there."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from affectgpt_r1.files import append_row
from affectgpt_r1.training.checkpoints import (
    checkpoint_path,
    fault,
    newest,
    rotate,
    seal,
)
from affectgpt_r1.training.run_folder import drop_after


def make(run: Path, step: int) -> Path:
    final = checkpoint_path(run, step)
    unfinished = final.with_name(final.name + ".tmp")
    (unfinished / "sub").mkdir(parents=True)
    (unfinished / "weights").write_bytes(bytes(range(256)) * step)
    (unfinished / "sub/state").write_text(str(step))
    seal(unfinished, final)
    return final


def test_the_newest_whole_one_is_found(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    make(tmp_path, 2)
    last = make(tmp_path, 10)
    assert newest(tmp_path) == last


@pytest.mark.parametrize("damage", ["no-manifest", "torn", "missing", "empty-manifest"])
def test_a_broken_one_is_named_and_skipped(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = make(tmp_path, 1), make(tmp_path, 2)
    if damage == "no-manifest":
        (bad / "manifest.json").unlink()
    if damage == "empty-manifest":
        (bad / "manifest.json").write_text("")
    if damage == "torn":
        (bad / "weights").write_bytes(b"x")
    if damage == "missing":
        (bad / "sub/state").unlink()
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path) == good
    assert str(bad) in caplog.text
    assert fault(good) is None


def test_an_unfinished_one_is_never_found(tmp_path: Path) -> None:
    unfinished = checkpoint_path(tmp_path, 5).with_name("step-000005.tmp")
    unfinished.mkdir(parents=True)
    (unfinished / "weights").write_bytes(b"half")
    assert newest(tmp_path) is None
    make(tmp_path, 4)
    rotate(tmp_path, keep=1)
    assert not unfinished.exists()


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        make(tmp_path, step)
    rotate(tmp_path, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-000002",
        "step-000003",
    ]


def test_a_checkpoint_written_again_is_replaced(tmp_path: Path) -> None:
    make(tmp_path, 3)
    assert fault(make(tmp_path, 3)) is None


def test_a_folder_of_another_name_is_no_checkpoint(tmp_path: Path) -> None:
    made = make(tmp_path, 3)
    shutil.copytree(made, made.with_name("step-000004-copy"))
    assert newest(tmp_path) == made


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in range(1, 6):
        append_row(path, {"step": step, "subtitle": "a\u2028b"})
    with path.open("ab") as file:
        file.write('{"step": 3, "torn": "\u2028'.encode()[:-1])  # within a character
    assert [row["step"] for row in drop_after(path, 3)] == [1, 2, 3]
    assert path.read_text(encoding="utf-8").count("\n") == 3
    assert drop_after(tmp_path / "absent.jsonl", 3) == []
    assert not (tmp_path / "absent.jsonl").exists()
