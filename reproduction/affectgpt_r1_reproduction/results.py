"""Results: a small file of JSON a cell, and what the cells of a setting amount to.

The answers themselves are kept, so that they can be scored again with another lexicon.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from affectgpt_r1.errors import InputError
from affectgpt_r1_reproduction.plan import Cell
from affectgpt_r1_reproduction.verdicts import Said


@dataclass(frozen=True, slots=True)
class Found:
    """What there is of a setting.

    Attributes:
        said: the words of each seed whose folds are all there.
        results: its cells' results.
        missing: how many cells have not been run.
    """

    said: Said
    results: Sequence[Mapping[str, Any]]
    missing: int

    @property
    def failed(self) -> int:
        """How many of the cells could not be trained to their end."""
        return sum("failed" in result for result in self.results)

    def mean(self, key: str) -> float:
        """The mean of a figure of the results."""
        return fmean(result[key] for result in self.results if key in result)

    def curve(self, name: str) -> list[float]:
        """A figure of training over its tenths, the mean of the cells; [] where there was none.

        A tenth of which no cell knows anything is left out.
        """
        curves = [row["curves"][name] for row in self.results if row["curves"].get(name)]
        tenths = ([x for x in values if x is not None] for values in zip(*curves, strict=True))
        return [fmean(known) for known in tenths if known]


def found_of(cells: Iterable[Cell], folder: Path, ids: Sequence[Sequence[str]]) -> Found:
    """What there is of a setting; a seed counts where all its folds answered.

    Args:
        cells: the setting's.
        folder: of the results.
        ids: the test clips' of each fold.

    Raises:
        InputError: a result is of other test clips.
    """
    rows: list[dict[str, Any]] = []
    by_seed: dict[int, dict[int, list[tuple[str, ...]]]] = {}
    missing = 0
    for cell in cells:
        path = folder / f"{cell.name}.json"
        if not path.is_file():
            missing += 1
            continue
        rows.append(row := json.loads(path.read_text(encoding="utf-8")))
        if "failed" in row:
            continue
        if row["ids"] != list(ids[cell.fold]):
            raise InputError(f"{path} is of other test clips: remove it, and run its table again")
        lists = [tuple(text.split(", ")) if text else () for text in row["answers"]]
        by_seed.setdefault(cell.seed, {})[cell.fold] = [lists[place] for place in row["said"]]
    said = {
        seed: [words for fold in range(len(ids)) for words in found[fold]]
        for seed, found in by_seed.items()
        if len(found) == len(ids)
    }
    return Found(said, rows, missing)
