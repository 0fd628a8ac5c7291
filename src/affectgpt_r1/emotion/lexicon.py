"""The lexicon: emotion words to classes on the five wheels, as one table compiled once.

Three lexicons. `mer2025` and `mer2026` are the authors' published tables, read from the folder that
the user has (METRIC.md, "Tables"); they give published numbers. `builtin` is this project's own and
always there. None is ever put in another's place in silence, and every score carries the name and
hash of the one that was used.

A class never depends on other words, so all that scoring needs is word -> five classes a ring.
`neutral` has no class anywhere: no wheel has a sector for it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.errors import LexiconError

LexiconName = Literal["builtin", "mer2025", "mer2026"]
Classes = tuple[str | None, ...]
#: word -> class, for each of two rings.
WheelTable = tuple[Mapping[str, str], Mapping[str, str]]

WHEELS, LEVELS = 5, 2
_NOTHING: Classes = (None,) * WHEELS
_FOLDER_VARIABLE = "AFFECTGPT_R1_LEXICON"


@dataclass(frozen=True)
class Lexicon:
    """A compiled lexicon.

    Attributes:
        name: builtin, mer2025 or mer2026.
        table: word -> its classes on five wheels at the inner and the middle ring.
    """

    name: str
    table: Mapping[str, tuple[Classes, Classes]]

    @staticmethod
    def load(name: str = "builtin", folder: Path | None = None) -> Lexicon:
        """Load a lexicon; the same one again costs nothing.

        Args:
            name: `builtin`, or `mer2025` or `mer2026`, the authors' tables.
            folder: where the authors' tables lie (wheel1.xlsx, ..., mer2026/format.csv);
                None: the folder named by the environment variable AFFECTGPT_R1_LEXICON.

        Raises:
            LexiconError: no lexicon of that name, no folder, or a damaged file.

        >>> Lexicon.load("builtin").classes("joyful")
        ('happy', 'happy', 'joyful', 'joy', 'joyful')
        """
        if name == "builtin":
            return _builtin()
        if name not in ("mer2025", "mer2026"):
            raise LexiconError(f"no lexicon {name!r}: it is builtin, mer2025 or mer2026")
        place = folder or os.environ.get(_FOLDER_VARIABLE)
        if not place:
            raise LexiconError(
                f"the lexicon {name!r} needs the authors' emotion_wheel folder (from the MERTools "
                f"repository): name it with --lexicon-folder or in {_FOLDER_VARIABLE}"
            )
        return _authors(name, Path(place).resolve())

    def classes(self, word: str, level: int = 1) -> Classes:
        """A word's class on each of the five wheels at a ring; None where it has none.

        Args:
            word: as `parse_labels` returns it.
            level: 1 inner ring, 2 middle ring.
        """
        found = self.table.get(word)
        return _NOTHING if found is None else found[level - 1]

    def knows(self, word: str) -> bool:
        """Whether the word has a class on any wheel."""
        return word in self.table

    @property
    def words(self) -> tuple[str, ...]:
        """Every known word, sorted."""
        return tuple(sorted(self.table))

    @cached_property
    def hash(self) -> str:
        """Eight hex digits over the whole table: equal hashes score equally."""
        text = json.dumps({word: self.table[word] for word in sorted(self.table)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


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


@lru_cache(maxsize=1)
def _builtin() -> Lexicon:
    folder = files("affectgpt_r1.emotion") / "data"
    wheels = [compile_wheel(rows) for rows in _read_wheels((folder / "wheels.txt").read_text())]
    nearest: dict[str, tuple[str, ...]] = {}
    for line in (folder / "thesaurus.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            left, right = line.split(" | ")
            for word in right.split(", "):
                nearest[word] = tuple(left.split(", "))
    words = nearest.keys() | {word for first, _ in wheels for word in first}
    return _compile("builtin", {word: (word, *nearest.get(word, ())) for word in words}, wheels)


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


def _compile(
    name: str, candidates: Mapping[str, Sequence[str]], wheels: Sequence[WheelTable]
) -> Lexicon:
    """Give each word, on each wheel, the class of its first candidate that stands there."""
    table: dict[str, tuple[Classes, Classes]] = {}
    for word, choices in candidates.items():
        rings = [
            tuple(next((ring[c] for c in choices if c in ring), None) for ring in rings_of_level)
            for rings_of_level in zip(*wheels, strict=True)
        ]
        if any(rings[0]):
            table[word] = (rings[0], rings[1])
    return Lexicon(name, table)


@lru_cache(maxsize=4)
def _authors(name: str, folder: Path) -> Lexicon:
    wheels = [compile_wheel(_wheel_rows(folder / f"wheel{i}.xlsx")) for i in range(1, WHEELS + 1)]
    synonyms = _synonyms(folder / "synonym.xlsx")
    bases = _forms(folder / name / "format.csv")
    # All wheel words of all base forms, by code point: a word has no priority for itself.
    pooled = {
        form: sorted({wheel for base in found for wheel in synonyms.get(base, ())})
        for form, found in bases.items()
    }
    return _compile(name, pooled, wheels)


def _forms(path: Path) -> dict[str, set[str]]:
    bases: dict[str, set[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                name = row["name"].strip().lower()
                for form in (name, *parse_labels(row["format"], "reference")):
                    bases.setdefault(form, set()).add(name)
    except (OSError, KeyError, AttributeError, UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, error) from None
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
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True)
        rows: list[tuple[object, ...]] = [
            tuple(row) for row in book.worksheets[0].iter_rows(values_only=True)
        ]
        book.close()
    except (OSError, BadZipFile, InvalidFileException, KeyError, IndexError, ValueError) as error:
        raise _damaged(path, error) from None
    if not rows:
        raise _damaged(path, ValueError("it is empty"))
    return rows


def _damaged(path: Path, error: Exception) -> LexiconError:
    reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
    return LexiconError(
        f"{path}: not readable as one of the authors' tables ({' '.join(reason.split())}): "
        "name the emotion_wheel folder of the MERTools repository"
    )
