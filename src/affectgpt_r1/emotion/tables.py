"""The tables behind a lexicon: five wheels, word forms, near wheel words, every word's classes.

Read from this package's own file, or from the folder in which the authors hand theirs out
(METRIC.md, "Tables"), and compiled into word -> classes. Looking words up is `lexicon`'s part.

The authors' files stay theirs: they are not part of this package, and are fetched only for a user
who accepts their terms, and checked.
"""

import csv
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from zipfile import BadZipFile

from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.errors import LexiconError
from affectgpt_r1.files import digest_of, sha256_of, write_whole
from affectgpt_r1.progress import Progress, counted

#: word -> class, for each of two rings.
WheelTable: TypeAlias = Sequence[Mapping[str, str]]
Table = TypeVar("Table")
#: Words on each of the published wheels (METRIC.md, "Tables").
_WHEEL_SIZES = {f"wheel{i}.xlsx": size for i, size in enumerate((114, 126, 78, 102, 77), 1)}
#: What a damaged table does to its reader (XML that is none is a SyntaxError).
_FAULTS = (OSError, BadZipFile, zlib.error, SyntaxError, csv.Error, LookupError, ValueError)
_DATA = files("affectgpt_r1.emotion") / "data"

#: What a user accepts; printed before anything is fetched.
TERMS = (
    "The emotion-wheel tables are published by the authors of MER2024 to MER2026 in the MERTools "
    "repository (github.com/zeroQiaoba/MERTools), under Apache-2.0 with a line in its README that "
    "limits them to non-commercial use."
)
SOURCE = "https://raw.githubusercontent.com/zeroQiaoba/MERTools"
_OF_2025 = "fb8dda0ebd52281f69affcbec3cc34dfd281f1ba/MER2025/MER2025_Track23/emotion_wheel"
_OF_2026 = "1052cb82fb05b91f821bd197de5bb123fcc9b0e3/MER2026/MER2026_Track2/emotion_wheel"
_SUMS = (_DATA / "authors.sha256").read_text(encoding="utf-8")

#: File in the folder -> its place in the repository, at a fixed commit, and its SHA-256.
FILES: Mapping[str, tuple[str, str]] = {
    name: (f"{_OF_2026 if '2026' in name else _OF_2025}/{name.rpartition('/')[2]}", digest)
    for digest, name in map(str.split, _SUMS.splitlines())
}


@dataclass(frozen=True, slots=True)
class Tables:
    """A lexicon's content.

    Attributes:
        bases: word form -> its base forms, sorted.
        nearest: base form -> wheel words, sorted.
        wheels: five wheels, each word -> class at the inner and at the middle ring.
        polarity: base form -> 1, -1 or 0; empty where the tables say nothing of it.
        names: for each ring and wheel, its classes, sorted.
        classes: two rings' five classes of each word form in the order of `bases`, a byte each:
            place in `names` plus 1, or 0 for none.
        hash: eight hex digits over the first four.
    """

    bases: Mapping[str, Sequence[str]]
    nearest: Mapping[str, Sequence[str]]
    wheels: Sequence[WheelTable]
    polarity: Mapping[str, int]
    names: Sequence[Sequence[Sequence[str]]]
    classes: bytes
    hash: str


def builtin_tables() -> Tables:
    """This package's own tables, as `tools/builtin_lexicon.py` compiles them."""
    return _unpack(json.loads((_DATA / "builtin.json").read_text(encoding="utf-8")))


def authors_tables(name: str, folder: Path) -> Tables:
    """The authors' tables of one year, compiled in a quarter of a second.

    Args:
        name: mer2025 or mer2026, which word forms.
        folder: holds wheel1.xlsx to wheel5.xlsx, synonym.xlsx and `name`/format.csv.

    Raises:
        LexiconError: a file is missing or damaged; the message names it.
    """
    wheels = [_read(folder / file, _wheel) for file in _WHEEL_SIZES]
    forms = _read(folder / name / "format.csv", _forms)
    near = _read(folder / "synonym.xlsx", _synonyms)
    return _unpack(pack(bases=forms, nearest=near, wheels=wheels, polarity={}))


def download(folder: Path, *, source: str = SOURCE, progress: Progress | None = None) -> None:
    """Fetch what is missing or differs in a folder; each file appears checked and whole.

    Args:
        folder: made where needed.
        source: address before the commit, for a mirror.
        progress: told how many of how many files are there.

    Raises:
        LexiconError: a file cannot be fetched, or is not the one that was published.
    """
    wrong = verify(folder)
    for name, (place, digest) in counted(FILES.items(), len(FILES), progress):
        if name in wrong:
            _fetch(f"{source}/{place}", folder / name, digest)


def verify(folder: Path) -> dict[str, str]:
    """The files of a folder that are not as published: name -> `missing` or `differs`."""
    wrong = {}
    for name, (_, digest) in FILES.items():
        if not (folder / name).is_file():
            wrong[name] = "missing"
        elif sha256_of(folder / name) != digest:
            wrong[name] = "differs"
    return wrong


def compile_wheel(sectors: Mapping[str, Mapping[str, Iterable[str]]]) -> WheelTable:
    """A wheel's word -> class tables from its sectors: inner -> middle -> outer words.

    Written inner ring by inner ring, its middle sectors in order, their outer words; the last
    writing wins. An inner word's class on the middle ring is its alphabetically first sector.
    """
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for inner, middles in sectors.items():
        first[inner], second[inner] = inner, min(middles)
        for middle, outers in middles.items():
            for word in (middle, *outers):
                first[word], second[word] = inner, middle
    return [first, second]


def near_words(
    word: str, bases: Mapping[str, Sequence[str]], nearest: Mapping[str, Sequence[str]]
) -> list[str]:
    """The wheel words that stand for a word, in the order in which they are tried."""
    return sorted({near for base in bases.get(word, ()) for near in nearest.get(base, ())})


def pack(**content: Any) -> dict[str, Any]:
    """A lexicon's content as the JSON object that `Tables` is made of.

    Args:
        **content: the first four of `Tables`, whose words may be sets.
    """
    packed: dict[str, Any] = json.loads(json.dumps(content, default=sorted))  # sets: sorted lists
    packed["hash"] = digest_of(packed)[:8]
    packed["names"], packed["classes"] = _classes(packed)
    return packed


def _unpack(packed: dict[str, Any]) -> Tables:
    return Tables(**{**packed, "classes": bytes.fromhex(packed["classes"])})


def _classes(packed: Mapping[str, Any]) -> tuple[list[list[list[str]]], str]:
    """Every word form's class on every wheel: of the first near word that stands there."""
    wheels = packed["wheels"]
    names = [[sorted(set(wheel[ring].values())) for wheel in wheels] for ring in range(2)]
    codes = bytearray()
    for form in packed["bases"]:
        near = near_words(form, packed["bases"], packed["nearest"])
        for ring, of_wheels in enumerate(names):
            for classes, wheel in zip(of_wheels, wheels, strict=True):
                found = next(filter(None, map(wheel[ring].get, near)), None)
                codes.append(0 if found is None else 1 + classes.index(found))
    return names, codes.hex()


def _read(path: Path, read: Callable[[Path], Table]) -> Table:
    """Whatever a missing or damaged table does to its reader is told as the file's fault."""
    try:
        return read(path)
    except (*_FAULTS, TypeError, AttributeError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise LexiconError(
            f"{path}: not readable as one of the authors' tables ({' '.join(reason.split())}): "
            "fetch them with `affectgpt-r1 lexicon download`, or name their emotion_wheel folder"
        ) from None


def _forms(path: Path) -> dict[str, set[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _gathered((row["name"], row["format"]) for row in csv.DictReader(file))


def _synonyms(path: Path) -> dict[str, set[str]]:
    """Base form -> wheel words, the union over the table's eight runs."""
    header, *rows = _sheet(path) or [()]
    runs = [i for i, title in enumerate(header) if str(title).startswith("word")]
    return _gathered((row[run], row[run + 1]) for row in rows for run in runs)


def _gathered(cells: Iterable[tuple[object, object]]) -> dict[str, set[str]]:
    """From words and the lists beside them: each of both -> the words that it stands for."""
    found: dict[str, set[str]] = {}
    for cell, others in cells:
        if word := str(cell or "").strip().lower():
            for other in (word, *parse_labels(others, "reference")):
                found.setdefault(other, set()).add(word)
    if not found:
        raise ValueError("it holds no words")
    return found


def _wheel(path: Path) -> WheelTable:
    """A wheel, whose cells stand empty where they repeat the one above."""
    sectors: dict[str, dict[str, list[str]]] = {}
    inner = middle = ""
    for row in _sheet(path)[1:]:
        cells = [str(cell or "").strip().lower() for cell in row[:3]]
        inner, middle = cells[0] or inner, cells[1] or middle
        sectors.setdefault(inner, {}).setdefault(middle, []).extend(filter(None, cells[2:]))
    wheel = compile_wheel(sectors)
    if len(wheel[0]) != (size := _WHEEL_SIZES[path.name]):
        raise ValueError(f"it has {len(wheel[0])} words, not {size}")
    return wheel


def _sheet(path: Path) -> list[tuple[Any, ...]]:
    from openpyxl import load_workbook

    with closing(load_workbook(path, read_only=True)) as book:
        return list(book.worksheets[0].iter_rows(values_only=True))


def _fetch(address: str, path: Path, digest: str) -> None:
    # Slow to load, and of no use to those who score.
    import http.client
    import urllib.request

    try:
        with urllib.request.urlopen(address, timeout=30) as reply:
            content = bytes(reply.read())
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise ValueError(f"its SHA-256 is {found}, not the published {digest}")
        write_whole(path, content)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LexiconError(
            f"{address} cannot be fetched to {path} ({' '.join(str(error).split())}): try again "
            "where there is a connection and room, or copy the folder and name it with "
            "--lexicon-folder"
        ) from None
