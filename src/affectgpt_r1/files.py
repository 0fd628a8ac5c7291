"""Files and folders of results: text that appears whole or not at all."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from affectgpt_r1.errors import InputError


def sha256_of(path: Path) -> str:
    """64 hex digits over a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def sync(path: Path) -> None:
    """Wait until a file, or what stands in a folder, has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
