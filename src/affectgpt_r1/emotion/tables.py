"""The tables behind a lexicon: five wheels, word forms, near wheel words, every word's classes.

Read from this package's own files or from the folder in which the authors hand theirs out
(METRIC.md, "Tables"), compiled into word -> classes, and kept in the user's cache under the hash of
what was read, so that a spreadsheet is parsed once. Looking words up is `lexicon`'s part.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.errors import LexiconError
from affectgpt_r1.files import write_whole

#: word -> class, for each of two rings.
WheelTable = tuple[Mapping[str, str], Mapping[str, str]]
#: Where the authors' files lie in the folder that they hand out; VERSION is the lexicon's name.
AUTHORS_FILES = (*(f"wheel{i}.xlsx" for i in range(1, 6)), "synonym.xlsx", "VERSION/format.csv")

#: Words on each of the published wheels (METRIC.md, "Tables").
_WHEEL_SIZES = (114, 126, 78, 102, 77)
_POLARITY = {"+": 1, "-": -1, "=": 0}
_log = logging.getLogger(__name__)


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

    bases: Mapping[str, tuple[str, ...]]
    nearest: Mapping[str, tuple[str, ...]]
    wheels: tuple[WheelTable, ...]
    polarity: Mapping[str, int]
    names: tuple[tuple[tuple[str, ...], ...], ...]
    classes: bytes
    hash: str


def builtin_tables(cache: Path | None) -> Tables:
    """This package's own wheels and thesaurus, with inflected forms added by lemminflect.

    Args:
        cache: folder to keep the compiled tables in; None: compile them each time.
    """
    folder = files("affectgpt_r1.emotion") / "data"
    texts = [
        (folder / name).read_text(encoding="utf-8") for name in ("wheels.txt", "thesaurus.txt")
    ]
    key = _key("builtin", [text.encode() for text in texts])
    return _cached(cache, key, lambda: _compile_builtin(*texts))


def authors_tables(name: str, folder: Path, cache: Path | None) -> Tables:
    """The authors' tables of one year.

    Args:
        name: mer2025 or mer2026, which word forms.
        folder: holds wheel1.xlsx to wheel5.xlsx, synonym.xlsx and `name`/format.csv.
        cache: as in `builtin_tables`.

    Raises:
        LexiconError: a file is missing or damaged; the message names it.
    """
    paths = [folder / relative.replace("VERSION", name) for relative in AUTHORS_FILES]
    contents = []
    for path in paths:
        try:
            contents.append(path.read_bytes())
        except OSError as error:
            raise _damaged(path, error) from None
    return _cached(cache, _key(name, contents), lambda: _compile_authors(paths))


def compile_wheel(rows: Sequence[tuple[str, str, str]]) -> WheelTable:
    """A wheel's word -> class tables from its rows (inner, middle, outer word).

    Written inner ring by inner ring, its middle sectors in order, their outer words; the last
    writing wins. An inner word's class on the middle ring is its alphabetically first sector.
    """
    sectors: dict[str, dict[str, list[str]]] = {}
    for inner, middle, outer in rows:
        words = sectors.setdefault(inner, {}).setdefault(middle, [])
        if outer:
            words.append(outer)
    first: dict[str, str] = {}
    second: dict[str, str] = {}
    for inner, middles in sectors.items():
        first[inner], second[inner] = inner, min(middles)
        for middle, outers in middles.items():
            for word in (middle, *outers):
                first[word], second[word] = inner, middle
    return first, second


def _key(name: str, contents: Iterable[bytes]) -> str:
    digest = hashlib.sha256(f"3\n{name}".encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return f"{name}-{digest.hexdigest()[:16]}"


def _cached(cache: Path | None, key: str, compile_tables: Any) -> Tables:
    """Read tables from the cache, or compile and keep them; a spoilt entry is made anew."""
    path = None if cache is None else cache / f"{key}.json"
    if path is not None:
        try:
            return _unpack(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError):
            _log.warning("%s is not readable; the lexicon is compiled anew", path)
    packed = compile_tables()
    packed["hash"] = hashlib.sha256(json.dumps(packed, sort_keys=True).encode()).hexdigest()[:8]
    packed["names"], packed["classes"] = _classes(packed)
    if path is not None:
        try:
            write_whole(path, json.dumps(packed, separators=(",", ":")))
        except OSError as error:
            _log.warning("the compiled lexicon is not kept (%s); every start compiles it", error)
    return _unpack(packed)


def _unpack(packed: Mapping[str, Any]) -> Tables:
    return Tables(
        bases={form: tuple(bases) for form, bases in packed["bases"].items()},
        nearest={base: tuple(words) for base, words in packed["nearest"].items()},
        wheels=tuple((first, second) for first, second in packed["wheels"]),
        polarity=packed["polarity"],
        names=tuple(tuple(map(tuple, ring)) for ring in packed["names"]),
        classes=bytes.fromhex(packed["classes"]),
        hash=str(packed["hash"]),
    )


def near_words(
    word: str, bases: Mapping[str, Sequence[str]], nearest: Mapping[str, Sequence[str]]
) -> list[str]:
    """The wheel words that stand for a word, in the order in which they are tried."""
    return sorted({near for base in bases.get(word, ()) for near in nearest.get(base, ())})


def _classes(packed: Mapping[str, Any]) -> tuple[list[list[list[str]]], str]:
    """Every word form's class on every wheel: of the first near word that stands there."""
    rings = range(2)
    names = [[sorted(set(wheel[ring].values())) for wheel in packed["wheels"]] for ring in rings]
    codes = bytearray()
    for form in packed["bases"]:
        near = near_words(form, packed["bases"], packed["nearest"])
        by = [next((word for word in near if word in wheel[0]), None) for wheel in packed["wheels"]]
        codes += bytes(
            0 if word is None else 1 + names[ring][i].index(packed["wheels"][i][ring][word])
            for ring in rings
            for i, word in enumerate(by)
        )
    return names, codes.hex()


def _compile_builtin(wheel_text: str, thesaurus: str) -> dict[str, Any]:
    from lemminflect import getAllInflections

    wheels = [compile_wheel(rows) for rows in _read_wheels(wheel_text)]
    nearest: dict[str, list[str]] = {word: [word] for first, _ in wheels for word in first}
    polarity: dict[str, int] = {}
    for line in thesaurus.splitlines():
        if not line or line.startswith("#"):
            continue
        left, right = line[1:].split("|")
        choices = [word for word in left.strip().split(", ") if word]
        for base in right.strip().split(", "):
            nearest[base] = sorted({*nearest.get(base, ()), *choices})
            polarity[base] = _POLARITY[line[0]]
    bases: dict[str, list[str]] = {base: [base] for base in nearest}
    for base in nearest:  # a word with an entry of its own is no other word's form
        for forms in getAllInflections(base).values():
            for form in forms:
                if form not in nearest and base not in bases.setdefault(form, []):
                    bases[form].append(base)
    return {
        "bases": {form: sorted(found) for form, found in bases.items()},
        "nearest": nearest,
        "wheels": wheels,
        "polarity": polarity,
    }


def _read_wheels(text: str) -> list[list[tuple[str, str, str]]]:
    wheels: list[list[tuple[str, str, str]]] = []
    inner = ""
    for line in text.splitlines():
        if line.startswith("["):
            wheels.append([])
        elif line.startswith("  "):
            middle, outers = line.strip().split(": ")
            wheels[-1] += [(inner, middle, outer) for outer in outers.split(", ")]
        elif line and not line.startswith("#"):
            inner = line.strip()
    return wheels


def _compile_authors(paths: Sequence[Path]) -> dict[str, Any]:
    *wheel_paths, synonym_path, form_path = paths
    wheels = []
    for path, size in zip(wheel_paths, _WHEEL_SIZES, strict=True):
        with _reading(path):
            wheels.append(compile_wheel(_wheel_rows(path)))
            if len(wheels[-1][0]) != size:
                raise ValueError(f"it has {len(wheels[-1][0])} words, not {size}")
    with _reading(synonym_path):
        synonyms = _synonyms(synonym_path)
    with _reading(form_path):
        forms = _forms(form_path)
    return {
        "bases": {form: sorted(found) for form, found in forms.items()},
        "nearest": {base: sorted(words) for base, words in synonyms.items()},
        "wheels": wheels,
        "polarity": {},
    }


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever a damaged table does to its reader is told as the file's fault."""
    from xml.etree.ElementTree import ParseError
    from zipfile import BadZipFile
    from zlib import error as ZlibError

    from openpyxl.utils.exceptions import InvalidFileException

    faults = (OSError, LookupError, ValueError, TypeError, AttributeError, csv.Error, ParseError)
    try:
        yield
    except (*faults, BadZipFile, InvalidFileException, ZlibError) as error:
        raise _damaged(path, error) from None


def _forms(path: Path) -> dict[str, set[str]]:
    bases: dict[str, set[str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            name = row["name"].strip().lower()
            for form in (name, *parse_labels(row["format"], "reference")):
                bases.setdefault(form, set()).add(name)
    if not bases:
        raise ValueError("it is empty")
    return bases


def _synonyms(path: Path) -> dict[str, set[str]]:
    """Base form -> wheel words, the union over the table's eight runs."""
    header, *rows = _sheet(path)
    wheel_words: dict[str, set[str]] = {}
    runs = [i for i, title in enumerate(header) if str(title).startswith("word")]
    for row in rows:
        for run in runs:
            word = str(row[run] or "").strip().lower()
            if word:
                for base in (word, *parse_labels(row[run + 1], "reference")):
                    wheel_words.setdefault(base, set()).add(word)
    if not wheel_words:
        raise ValueError("it has no column of words")
    return wheel_words


def _wheel_rows(path: Path) -> list[tuple[str, str, str]]:
    _, *rows = _sheet(path)
    filled: list[tuple[str, str, str]] = []
    inner = middle = ""
    for row in rows:
        cells = [str(cell).strip().lower() if cell is not None else "" for cell in row[:3]]
        inner, middle = cells[0] or inner, cells[1] or middle
        filled.append((inner, middle, cells[2]))
    return filled


def _sheet(path: Path) -> list[tuple[object, ...]]:
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    rows: list[tuple[object, ...]] = [
        tuple(row) for row in book.worksheets[0].iter_rows(values_only=True)
    ]
    book.close()
    if not rows:
        raise ValueError("it is empty")
    return rows


def _damaged(path: Path, error: Exception) -> LexiconError:
    reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
    return LexiconError(
        f"{path}: not readable as one of the authors' tables ({' '.join(reason.split())}): fetch "
        "them with `affectgpt-r1 lexicon download`, or name their emotion_wheel folder"
    )
