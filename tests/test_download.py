"""The authors' tables: fetched from a real server, checked, and never half there; the commands."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.tables import FILES, TERMS, download, verify
from affectgpt_r1.errors import LexiconError
from test_ask import Local
from test_cli import answer, complaint, run


class Mirror(Local):
    """Serves files by path; `spoil` makes it do something else with one."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.fetched: list[str] = []
        self.spoil: dict[str, str] = {}
        super().__init__(MirrorHandler)


class MirrorHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        mirror = self.server
        assert isinstance(mirror, Mirror)
        mirror.fetched.append(self.path)
        content, fault = mirror.files[self.path], mirror.spoil.get(self.path, "")
        if fault == "no HTTP":
            self.wfile.write(b"220 mail.example ready\r\n")
        if fault in ("no HTTP", "hangs up"):
            return
        if fault == "not found":
            self.send_error(404)
            return
        self.send_response(200)
        if fault == "cut short in chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(content) + content[: len(content) // 2])
            return
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        sent = {"cut short": content[:-1], "another file": content[::-1]}
        self.wfile.write(sent.get(fault, content))

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def tables(shared_dir: Path) -> Path:
    return shared_dir / "reference/emotion_wheel"


@pytest.fixture
def mirror(tables: Path) -> Iterator[Mirror]:
    server = Mirror(
        {f"/{place}": (tables / name).read_bytes() for name, (place, _) in FILES.items()}
    )
    yield server
    server.close()


def there(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def own(tables: Path, folder: Path) -> Path:
    shutil.copytree(tables, folder, copy_function=shutil.copyfile)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700)
    return folder


def test_what_is_fetched_is_what_was_published(mirror: Mirror, tmp_path: Path) -> None:
    folder = tmp_path / "new/wheels"
    told: list[tuple[int, int]] = []
    download(folder, source=mirror.url, progress=lambda *args: told.append(args))
    assert there(folder) == set(FILES)
    assert verify(folder) == {}
    assert told == [(done, 8) for done in range(1, 9)]
    one, other = Lexicon.load("mer2025", folder), Lexicon.load("mer2026", folder)
    assert one.hash != other.hash
    assert one.classes("fear")[1] != other.classes("fear")[1]


FAULTS = "another file, cut short, cut short in chunks, hangs up, no HTTP, not found"


@pytest.mark.parametrize("fault", FAULTS.split(", "))
def test_a_fetch_that_fails_keeps_nothing_and_says_what(
    fault: str, mirror: Mirror, tmp_path: Path
) -> None:
    place = FILES["wheel3.xlsx"][0]
    mirror.spoil[f"/{place}"] = fault
    with pytest.raises(LexiconError) as caught:
        download(tmp_path, source=mirror.url)
    assert f"{mirror.url}/{place}" in str(caught.value)
    assert there(tmp_path) == {"wheel1.xlsx", "wheel2.xlsx"}  # whole, and nothing of the third
    mirror.spoil.clear()
    download(tmp_path, source=mirror.url)
    assert verify(tmp_path) == {}
    assert len(mirror.fetched) == len(FILES) + 1  # what was there is not fetched again


def test_only_what_is_missing_or_differs_is_fetched(
    mirror: Mirror, tables: Path, tmp_path: Path
) -> None:
    folder = own(tables, tmp_path / "w")
    (folder / "wheel2.xlsx").unlink()
    (folder / "mer2026/format.csv").write_bytes(b"name,format\n")
    (folder / "notes.txt").write_text("mine")
    assert verify(folder) == {"wheel2.xlsx": "missing", "mer2026/format.csv": "differs"}
    download(folder, source=mirror.url)
    assert mirror.fetched == [f"/{FILES[n][0]}" for n in ("wheel2.xlsx", "mer2026/format.csv")]
    assert verify(folder) == {}
    assert there(folder) == {*FILES, "notes.txt"}


@pytest.mark.parametrize("blocked", ["w", "w/mer2025"])
def test_a_folder_that_cannot_be_written_is_an_error(
    blocked: str, mirror: Mirror, tmp_path: Path
) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("a file where a folder should be")
    with pytest.raises(LexiconError, match=re.escape(str(tmp_path / blocked))):
        download(tmp_path / "w", source=mirror.url)


@pytest.mark.parametrize("source", ["nowhere", "http://host:port", "http://127.0.0.1:1"])
def test_no_server_is_an_error_that_names_the_way_out(source: str, tmp_path: Path) -> None:
    with pytest.raises(LexiconError, match=r"cannot be fetched.*--lexicon-folder"):
        download(tmp_path, source=source)
    assert there(tmp_path) == set()


def test_the_command_fetches_nothing_before_the_terms_are_accepted(tmp_path: Path) -> None:
    done = run("lexicon", "download", "--folder", tmp_path / "w")
    assert (done.returncode, done.stdout) == (2, "")
    *terms, last = done.stderr.splitlines()
    assert " ".join(terms).split() == TERMS.split()
    assert last.startswith("affectgpt-r1: nothing was fetched")
    assert "--accept-terms" in last
    assert not (tmp_path / "w").exists()


def test_the_command_finds_nothing_to_fetch_in_a_whole_folder(tables: Path) -> None:
    # Nothing is fetched, so that no connection is needed.
    row = answer("lexicon", "download", "--folder", tables, "--accept-terms")
    assert row == {"folder": str(tables), "files": 8}


def test_verify_names_every_file_that_is_not_as_published(tables: Path, tmp_path: Path) -> None:
    assert answer("lexicon", "verify", "--folder", tables)["verified"] is True
    folder = own(tables, tmp_path / "w")
    with (folder / "wheel4.xlsx").open("ab") as file:
        file.write(b"\0")
    (folder / "synonym.xlsx").unlink()
    line = complaint("lexicon", "verify", "--folder", folder)
    assert line.endswith("/w: wheel4.xlsx differs; synonym.xlsx missing")


def test_list_tells_what_loads_and_how_to_get_the_rest(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("lexicon", "list", "--lexicon-folder", tables)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == ["builtin", "mer2025", "mer2026"]
    assert [row["forms"] for row in rows[1:]] == [7386, 7356]
    assert {row["bases"] for row in rows[1:]} == {1255}
    assert [row["hash"] for row in rows] == [
        Lexicon.load(row["name"], None if row["name"] == "builtin" else tables).hash for row in rows
    ]
    monkeypatch.delenv("AFFECTGPT_R1_LEXICON", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = run("lexicon", "list")
    assert done.returncode == 0
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["loads"] for row in rows] == [True, False, False]
    assert all("lexicon download" in row["why"] for row in rows[1:])


def wheels_of(row: dict[str, object]) -> list[dict[str, Any]]:
    assert isinstance(row["wheels"], list)
    return row["wheels"]


def test_explain_gives_the_classes_and_what_lost(tables: Path) -> None:
    row = answer("lexicon", "explain", "Frustrated")
    lexicon = Lexicon.load()
    assert row["lexicon"] == f"builtin#{lexicon.hash}"
    assert (row["word"], row["bases"], row["polarity"]) == ("frustrated", ["frustrated"], -1)
    for level in (1, 2):
        found = tuple(wheel[f"level{level}"] for wheel in wheels_of(row))
        assert found == lexicon.classes("frustrated", level)
    options = ("--lexicon", "mer2025", "--lexicon-folder", tables)
    wheels = wheels_of(answer("lexicon", "explain", "frustrated", *options))
    assert [wheels[i]["level1"] for i in (0, 1, 3)] == ["sad"] * 3  # METRIC.md, weakness 4
    assert all(wheels[i]["by"] != "frustrated" for i in (0, 1, 3))
    assert ["frustrated", "mad"] in wheels[0]["lost"]
    unknown = answer("lexicon", "explain", "qwertyuiop")
    assert (unknown["bases"], unknown["nearest"], unknown["polarity"]) == ([], [], None)
    assert {(wheel["level1"], wheel["by"]) for wheel in wheels_of(unknown)} == {(None, None)}
