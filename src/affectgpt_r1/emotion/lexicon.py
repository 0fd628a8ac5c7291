"""The lexicon: emotion words to classes on the five wheels.

Three lexicons. `mer2025` and `mer2026` are the authors' published tables, read from the folder that
the user has (METRIC.md, "Tables"); they give published numbers. `builtin` is this project's own and
always there. None is ever put in another's place in silence, and every score carries the name and
hash of the one that was used.

A class never depends on other words, so all that scoring needs is word -> five classes a ring.
Where several wheel words stand for a word, the alphabetically first that is on the wheel gives the
class, even against the word itself (METRIC.md, "Word -> class", "Known weaknesses" 4). The rule is
the authors', and the built-in lexicon follows it so that its scores are comparable to theirs.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from platformdirs import user_cache_path

from affectgpt_r1.emotion.tables import Tables, authors_tables, builtin_tables, near_words
from affectgpt_r1.errors import LexiconError

WHEELS, LEVELS = 5, 2
#: Names the folder of the authors' tables.
FOLDER_VARIABLE = "AFFECTGPT_R1_LEXICON"


@dataclass(frozen=True)
class Lexicon:
    """A lexicon.

    Attributes:
        name: builtin, mer2025 or mer2026.
        tables: forms, nearest wheel words and wheels.
    """

    name: str
    tables: Tables

    @staticmethod
    def load(name: str = "builtin", folder: Path | str | None = None) -> "Lexicon":
        """Load a lexicon; the same one again costs nothing.

        Args:
            name: `builtin`, or `mer2025` or `mer2026`, the authors' tables.
            folder: where the authors' tables lie (wheel1.xlsx, ..., mer2026/format.csv);
                None: the folder named by the environment variable AFFECTGPT_R1_LEXICON, or else
                where `affectgpt-r1 lexicon download` put them.

        Raises:
            LexiconError: no lexicon of that name, no folder, or a damaged file.

        >>> Lexicon.load("builtin").classes("joyful")
        ('happy', 'happy', 'joyful', 'joy', 'powerful')
        """
        if name == "builtin":
            if folder is not None:
                raise LexiconError("the built-in lexicon has no folder: leave --lexicon-folder out")
            return _loaded(name, None)
        if name not in ("mer2025", "mer2026"):
            raise LexiconError(f"no lexicon {name!r}: it is builtin, mer2025 or mer2026")
        place = Path(folder) if folder else authors_folder()
        if not folder and not place.is_dir():
            raise LexiconError(
                f"the lexicon {name!r} needs the authors' tables: fetch them with "
                "`affectgpt-r1 lexicon download`, or name their emotion_wheel folder with "
                f"--lexicon-folder or in {FOLDER_VARIABLE}"
            )
        return _loaded(name, place.resolve())

    def classes(self, word: str, level: int = 1) -> tuple[str | None, ...]:
        """A word's class on each of the five wheels at a ring; None where it has none.

        Args:
            word: as `parse_labels` returns it.
            level: 1 inner ring, 2 middle ring.
        """
        code = self.codes[level - 1].get(word, 0)
        places = [(code >> 64 * wheel & (1 << 64) - 1).bit_length() for wheel in range(WHEELS)]
        names = self.tables.names[level - 1]
        return tuple(names[i][place - 1] if place else None for i, place in enumerate(places))

    def knows(self, word: str) -> bool:
        """Whether the word stands in the lexicon; one that names no emotion (neutral) may."""
        return word in self.tables.bases

    def counts(self, word: str) -> bool:
        """Whether the word has a class on any wheel, so that a score can depend on it."""
        return self.codes[0].get(word, 0) > 0

    @cached_property
    def phrases(self) -> Mapping[str, int]:
        """How many words the longest entry has that begins with a word."""
        longest: dict[str, int] = {}
        for word in self.tables.bases:
            first, *others = word.split(" ")
            longest[first] = max(longest.get(first, 0), 1 + len(others))
        return longest

    @cached_property
    def codes(self) -> tuple[Mapping[str, int], ...]:
        """At each ring every known word's classes as one number, 64 bits a wheel, one bit a class.

        The union of words' classes is the bitwise or of their numbers.
        """
        places = np.frombuffer(self.tables.classes, np.uint8).reshape(-1, LEVELS, WHEELS)
        bits = (np.uint64(1) << places.astype("<u8")) >> np.uint64(1)  # of place 0 none
        rings = [[int.from_bytes(row, "little") for row in ring] for ring in bits.swapaxes(0, 1)]
        return tuple(dict(zip(self.tables.bases, ring, strict=True)) for ring in rings)

    def groups(self, word: str) -> tuple[str | None, str | None]:
        """What OV-MER's M1 and M2 read a word as: its first base form, and that one's wheel word.

        The first by the alphabet, both times.
        """
        base = next(iter(self.tables.bases.get(word, ())), None)
        return base, next(iter(self.tables.nearest.get(base or "", ())), None)

    def explain(self, word: str) -> dict[str, Any]:
        """How a word comes by its classes, and what lost, as a JSON object.

        Returns:
            word: as it was asked for.
            bases: its base forms; empty: the lexicon does not know it.
            nearest: the wheel words of its base forms, in the order in which they are tried.
            wheels: for each wheel the class at both rings (level1, level2), the wheel word that
                gave it (by), and those further down the order that would have given another, with
                that one (lost).
        """
        choices = near_words(word, self.tables.bases, self.tables.nearest)
        wheels = []
        for first, second in self.tables.wheels:
            on = [w for w in choices if w in first]
            by = on[0] if on else ""
            lost = [(w, first[w]) for w in on if first[w] != first[by]]
            classes = {"level1": first.get(by), "level2": second.get(by)}
            wheels.append({**classes, "by": by or None, "lost": lost})
        bases = list(self.tables.bases.get(word, ()))
        return {"word": word, "bases": bases, "nearest": choices, "wheels": wheels}

    def polarity(self, word: str) -> int | None:
        """1 where the word names something pleasant, -1 unpleasant, 0 neither; None: unknown.

        The authors' tables say nothing of it; the built-in's word is taken for them.
        """
        tables = self.tables if self.tables.polarity else Lexicon.load().tables
        found = [tables.polarity[b] for b in tables.bases.get(word, ()) if b in tables.polarity]
        return found[0] if found else None

    @property
    def words(self) -> tuple[str, ...]:
        """Every known word form, sorted."""
        return tuple(sorted(self.tables.bases))

    @property
    def hash(self) -> str:
        """Eight hex digits over the whole content: equal hashes score equally."""
        return self.tables.hash


def authors_folder() -> Path:
    """Where the authors' tables are looked for, downloaded to and verified, unless told otherwise.

    The folder in the environment variable AFFECTGPT_R1_LEXICON, or one in the user's cache.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else user_cache_path("affectgpt-r1") / "emotion_wheel"


@lru_cache(maxsize=5)
def _loaded(name: str, folder: Path | None) -> Lexicon:
    return Lexicon(name, authors_tables(name, folder) if folder else builtin_tables())
