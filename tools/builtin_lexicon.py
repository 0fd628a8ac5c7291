"""Compile the built-in lexicon: wheels and thesaurus, with inflected forms added by lemminflect.

    PYTHONPATH=src python tools/builtin_lexicon.py

Reads `lexicon/wheels.yaml` and `lexicon/thesaurus.txt`, writes the package's `builtin.json`. Other
words make another hash, and with it other signatures.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from lemminflect import getAllInflections

from affectgpt_r1.emotion.tables import compile_wheel, pack

SOURCES = Path(__file__).parent / "lexicon"
BUILTIN = Path(__file__).parents[1] / "src/affectgpt_r1/emotion/data/builtin.json"
_POLARITY = {"+": 1, "-": -1, "=": 0}


def main() -> None:
    """Compile and write."""
    BUILTIN.write_text(compiled(), encoding="utf-8")


def compiled() -> str:
    """The file's content: JSON, a key a line."""
    packed = pack(**content())
    rows = (f"{json.dumps(key)}: {json.dumps(packed[key])}" for key in packed)
    return "{\n" + ",\n".join(rows) + "\n}\n"


def content() -> dict[str, Any]:
    """Word forms to bases, bases to wheel words, wheels, polarities."""
    sectors_of = yaml.safe_load((SOURCES / "wheels.yaml").read_text(encoding="utf-8"))
    wheels = [compile_wheel(sectors) for sectors in sectors_of]
    nearest = {word: {word} for first, _ in wheels for word in first}
    polarity: dict[str, int] = {}
    for line in (SOURCES / "thesaurus.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            choices, bases_of = line[1:].split("|")
            for base in bases_of.strip().split(", "):
                nearest.setdefault(base, set()).update(filter(None, choices.strip().split(", ")))
                polarity[base] = _POLARITY[line[0]]
    bases = {base: {base} for base in nearest}
    for base in nearest:  # a word with an entry of its own is no other word's form
        for forms in getAllInflections(base).values():
            for form in forms:
                if form not in nearest:
                    bases.setdefault(form, set()).add(base)
    return {"bases": bases, "nearest": nearest, "wheels": wheels, "polarity": polarity}


if __name__ == "__main__":
    main()
