"""Files: text that appears whole or not at all; rows of JSON Lines and CSV, read and written.

Of rows that others wrote every fault is told at once, by its line. What rows mean others know.
"""

import csv
import hashlib
import io
import json
import os
import secrets
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from affectgpt_r1.errors import InputError, MissingFileError, ProblemsError

#: A line's number, from 1, and its columns, or else why it has none.
Line: TypeAlias = tuple[int, dict[str, Any] | str]
#: A file, or its content.
Source: TypeAlias = Path | bytes
Row = TypeVar("Row")


def sha256_of(path: Path) -> str:
    """64 hex digits over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(value: object) -> str:
    """64 hex digits over a value that JSON can hold; the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def writing(
    path: Path,
    hint: str = "make room, mend its permissions or name another place",
    raised: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[None]:
    """Tell what the disk refuses inside the block as an input's fault, for the user named the path.

    Args:
        path: what is written.
        hint: what the user shall do.
        raised: how libraries say it; of RuntimeErrors only torch's of a disk is meant.

    Raises:
        InputError: the block raised one of those.
    """
    try:
        yield
    except raised as error:
        # One of ours may be an OSError too; torch.save says what is wrong in a way of its own.
        if isinstance(error, InputError | RuntimeError) and "inline_container" not in str(error):
            raise
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be written ({why}): {hint}") from None


def make_folder(path: Path) -> None:
    """Make a folder before the work whose result it is to hold.

    Raises:
        InputError: it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write a file, text as UTF-8; a reader or a crash never sees half of it. Makes its folder.

    Args:
        path: the file.
        content: what it holds.
        durable: it outlives even a loss of power once this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: several processes may write the same file.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        unfinished.write_bytes(
            content.encode(errors="backslashreplace") if isinstance(content, str) else content
        )
        if durable:
            sync(unfinished)
        unfinished.replace(path)
        if durable:
            sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or what stands in a folder, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def json_line(row: Mapping[str, object]) -> bytes:
    """A line of our JSON Lines; half a character is written as its number."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a file of JSON Lines; it appears whole."""
    write_whole(path, b"".join(map(json_line, rows)))


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Append a line to a file of JSON Lines."""
    with path.open("ab") as file:
        file.write(json_line(row))


def json_lines(text: str) -> Iterator[Line]:
    """The objects of JSON Lines; empty lines are none."""
    # Not str.splitlines: a text may hold U+2028, which JSON leaves as it is.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                yield number, "not JSON"
            else:
                yield number, value if isinstance(value, dict) else "not an object in braces"


def own_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of JSON Lines of ours; none of no file, and without a line that a kill tore."""
    # It may be torn within a character.
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return [row for _, row in json_lines(text) if isinstance(row, dict)]


def csv_lines(text: str, needed: Collection[str] = ()) -> Iterator[Line]:
    """The rows of CSV under a header, without their empty fields; damage ends them.

    Args:
        text: the file's.
        needed: columns that the header must name.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more", strict=True)
    try:
        if lacking := ", ".join(sorted(set(needed).difference(reader.fieldnames or ()))):
            held = ", ".join(reader.fieldnames or ())
            yield 1, f"the file has the columns {held} and lacks {lacking}"
            return
        for row in reader:
            if "more" in row:
                yield reader.line_num, "more fields than columns: quote fields that hold commas"
            else:
                yield reader.line_num, {k: v for k, v in row.items() if v not in (None, "")}
    except csv.Error as error:
        yield reader.line_num, f"not CSV ({error})"


def read_rows(
    path: Source,
    read: Callable[[int, dict[str, Any]], Row | None],
    nothing: str,
    *,
    lines: Callable[[str], Iterable[Line]] = json_lines,
    fault: type[ProblemsError] = ProblemsError,
) -> list[Row]:
    """What `read` makes of each line of a file.

    Args:
        path: UTF-8; `-` is standard input; bytes: what was sent.
        read: given a line's number and its columns; None leaves the line out. Raises ValueError
            with the reason why it is wrong.
        nothing: what is said of a file in which no row is left.
        lines: takes the file's text apart.
        fault: the kind of error.

    Raises:
        MissingFileError: there is no such file.
        ProblemsError: wrong lines, all of them in order; or no row, or it is not UTF-8.
    """
    name = str(path) if isinstance(path, Path) else "what was sent"
    try:
        if isinstance(path, bytes):
            content = path
        elif name == "-":
            name, content = "standard input", sys.stdin.buffer.read()
        else:
            content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError:
        raise MissingFileError(f"no file at {name}: name one that exists and can be read") from None
    except UnicodeDecodeError as error:
        raise fault(name, [f"not UTF-8 at byte {error.start}: save the file as UTF-8"]) from None
    rows: list[Row] = []
    problems: list[str] = []
    for number, found in lines(text):
        try:
            if isinstance(found, str):
                raise ValueError(found)
            if (row := read(number, found)) is not None:
                rows.append(row)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems or not rows:
        raise fault(name, problems or [nothing])
    return rows
