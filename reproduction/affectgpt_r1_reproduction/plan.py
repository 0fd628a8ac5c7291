"""Tables: which settings are compared on which ground, and what would confirm a claim.

A table is a YAML file of this package and is written before its runs. Nothing is trained here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from affectgpt_r1.config import (
    ColdStartRecipe,
    GrpoRecipe,
    NonNegative,
    Section,
    Share,
    load_recipe,
    problem_of,
)
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.errors import MissingFileError, RecipeError

GroundName = Literal["demo", "text", "speech"]
Figure = Literal["f", "f of level 2", "f by mer2026", "words", "coverage"]
Kind = TypeVar("Kind", ColdStartRecipe, GrpoRecipe)

#: The name under which contrasts speak of the constant answer that scores best on the test clips.
CONSTANT = "best constant answer"
_PACKAGE = files("affectgpt_r1_reproduction")
#: Keys of recipes that say where things lie, and nothing of what is learned.
_PLACES = {"cache", "folder", "held_out", "model", "output", "test", "train"}


class Setting(Section):
    """A row of a table: how it departs from the table's two recipes.

    Attributes:
        paper: the score that the paper reports for it, x 100.
        rl: whether there is a second phase.
        cold_start, grpo: keys of the recipes and their values.
        cold_start_share, grpo_share: share of the training clips, whole groups of them.
        mode: answer alone or thinking, in GRPO and evaluation; None: the table's.
    """

    paper: float | None = None
    rl: bool = True
    cold_start: dict[str, Any] = Field(default_factory=dict)
    grpo: dict[str, Any] = Field(default_factory=dict)
    cold_start_share: Share = 1.0
    grpo_share: Share = 1.0
    mode: Mode | None = None


class Claim(Section):
    """A statement that the runs confirm, refute, or leave open.

    Attributes:
        says: the statement.
        contrast: settings' coefficients; the claim holds where the sum of a figure over them, plus
            the margin, is above 0.
        figure: EW F (at level 1 by the built-in lexicon, or otherwise), words an answer, coverage.
        margin: what may be lost where the claim is that nothing is.
    """

    says: str
    contrast: dict[str, float]
    figure: Figure = "f"
    margin: NonNegative = 0.0


class Table(Section):
    """What is run, and what it is to decide.

    Attributes:
        title, about: for the reader.
        ground: the data.
        cold_start, grpo: recipes of this package, or files.
        seeds: each trains every setting; settings of one seed share their cold start.
        mode: of GRPO and evaluation.
        baseline: the setting that the others are told against.
        settings: by name, in the table's order.
        claims: what is decided, together (Holm).
    """

    title: str
    about: str
    ground: GroundName
    cold_start: str
    grpo: str
    seeds: tuple[int, ...]
    mode: Mode
    baseline: str
    settings: dict[str, Setting]
    claims: tuple[Claim, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting, trained once: with one seed, and on one fold of the ground's clips.

    Attributes:
        ground, fold: whose clips.
        seed: of everything random.
        cold_start, grpo: the recipes' keys and values, without places; grpo is None where there is
            no second phase.
        cold_start_share, grpo_share: shares of the training clips.
        mode: of GRPO and evaluation.
    """

    ground: GroundName
    fold: int
    seed: int
    cold_start: dict[str, Any]
    cold_start_share: float
    grpo: dict[str, Any] | None
    grpo_share: float
    mode: Mode

    @property
    def cold_start_name(self) -> str:
        """Names the cold start by all that it depends on; equal ones are trained once."""
        return _digest(self.ground, self.fold, self.cold_start, self.cold_start_share)

    @property
    def name(self) -> str:
        """Names the cell by all that its figures depend on; equal cells of two tables are one."""
        return _digest(self.cold_start_name, self.grpo, self.grpo_share, self.mode)


def table_names() -> list[str]:
    """Names of the package's tables."""
    return sorted(p.name.removesuffix(".yaml") for p in (_PACKAGE / "tables").iterdir())


def load_table(source: str) -> Table:
    """Read a table: a YAML file, or the name of one of the package's.

    Raises:
        MissingFileError: there is no such table.
        RecipeError: it is no table, or speaks of a setting that it does not have.
    """
    try:
        row = yaml.safe_load(_file(source, "tables").read_text(encoding="utf-8"))
        table = Table.model_validate_json(json.dumps(row))
    except ValidationError as error:
        problems = [problem_of(item, Table) for item in error.errors()]
        raise RecipeError(source, problems) from None
    except (yaml.YAMLError, TypeError) as error:
        raise RecipeError(source, [f"not a table in YAML: {error}"]) from None
    known = {CONSTANT, *table.settings}
    said = {table.baseline}.union(*(claim.contrast for claim in table.claims))
    if unknown := sorted(said - known):
        raise RecipeError(source, [f"no setting is called {name!r}" for name in unknown])
    return table


def cells(table: Table, setting: str, folds: int) -> Iterator[Cell]:
    """The cells of a setting: seeds x folds."""
    chosen = table.settings[setting]
    mode = chosen.mode or table.mode
    for seed in table.seeds:
        seeded = {"run.seed": seed}
        cold = _recipe(table.cold_start, ColdStartRecipe, chosen.cold_start | seeded)
        tuned = {"mode": mode, "profile": cold.profile, **chosen.grpo, **seeded}
        rl = _recipe(table.grpo, GrpoRecipe, tuned) if chosen.rl else None
        for fold in range(folds):
            yield Cell(
                table.ground,
                fold,
                seed,
                _without_places(cold),
                chosen.cold_start_share,
                _without_places(rl) if rl else None,
                chosen.grpo_share if rl else 0.0,
                mode,
            )


def placed(kind: type[Kind], row: Mapping[str, Any], **places: Mapping[str, str] | str) -> Kind:
    """A cell's recipe with its places: sections with their keys, or keys of the top."""
    whole = dict(row)
    for name, value in places.items():
        whole[name] = value if isinstance(value, str) else {**(row.get(name) or {}), **value}
    return kind.model_validate_json(json.dumps(whole))


def _recipe(source: str, kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return load_recipe(str(_file(source, "recipes")), kind, overrides)


def _file(source: str, folder: str) -> Path:
    own = Path(str(_PACKAGE / folder / f"{source}.yaml"))
    path = Path(source) if Path(source).is_file() else own
    if not path.is_file():
        raise MissingFileError(f"no table {source!r}: the package has {', '.join(table_names())}")
    return path


def _without_places(recipe: ColdStartRecipe | GrpoRecipe) -> dict[str, Any]:
    """What a recipe says of learning, without defaults: a key that is new one day renames no cell.

    The judge of the perception reward is always the frozen cold start: its place is left out too.
    """

    def kept(row: dict[str, Any]) -> dict[str, Any]:
        return {
            key: kept(value) if isinstance(value, dict) else value
            for key, value in row.items()
            if key not in _PLACES
        }

    return kept(recipe.model_dump(mode="json", exclude_defaults=True))


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
