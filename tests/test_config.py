"""Recipes: the package's own are whole, and every fault of one is told at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from affectgpt_r1.config import (
    ColdStartRecipe,
    GrpoRecipe,
    RewardRecipe,
    load_recipe,
    recipe_names,
    recipe_yaml,
)
from affectgpt_r1.errors import MissingFileError, RecipeError


@pytest.mark.parametrize("name", recipe_names())
def test_the_packages_recipes_load_and_read_back(name: str, tmp_path: Path) -> None:
    kinds: dict[str, Any] = {"grpo": GrpoRecipe, "start": ColdStartRecipe, "reward": RewardRecipe}
    kind = kinds[name.rpartition("-")[2]]
    recipe = load_recipe(name, kind)
    path = tmp_path / "r.yaml"
    path.write_text(recipe_yaml(recipe))
    assert load_recipe(str(path), kind) == recipe


def test_there_is_a_recipe_for_each_profile_and_stage() -> None:
    expected = {f"{p}-{s}" for p in ("nano", "small", "full") for s in ("cold-start", "grpo")}
    assert expected <= set(recipe_names())


def test_an_override_reaches_its_key() -> None:
    recipe = load_recipe(
        "nano-grpo", GrpoRecipe, ["optimizer.learning_rate=5e-1", "run.output=elsewhere"]
    )
    assert recipe.optimizer.learning_rate == 0.5
    assert recipe.run.output == "elsewhere"


def test_every_fault_is_told_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    settings = yaml.safe_load(recipe_yaml(load_recipe("nano-grpo", GrpoRecipe)))
    settings["learning_rate"] = 1e-4
    settings["rollout"]["num_generation"] = 4
    settings["rollout"]["temperature"] = "hot"
    settings["betta"] = 0.1
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path), GrpoRecipe, ["loss_type=ppo", "nonsense"])
    message = str(caught.value)
    for part in (
        "'optimizer.learning_rate' is meant?",
        "'num_generations' is meant?",
        "'beta' is meant?",
        "rollout.temperature",
        "loss_type",
        "'nonsense' is not key.sub=value",
    ):
        assert part in message
    assert len(caught.value.problems) == 6
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a: [", "- 1", "just text", "a: !!python/object:os.system {}"])
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(str(path), ColdStartRecipe)


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(str(path), ColdStartRecipe)


def test_an_unknown_recipe_is_told_the_nearest() -> None:
    with pytest.raises(MissingFileError, match="'small-grpo' is meant"):
        load_recipe("smal-grpo", GrpoRecipe)


def test_checkpoints_lie_between_rollouts() -> None:
    settings = ["run.save_steps=25", "num_iterations=2"]
    with pytest.raises(RecipeError) as caught:
        load_recipe("nano-grpo", GrpoRecipe, settings)
    assert caught.value.problems[0].startswith("run.save_steps=25 is no multiple of num_iterations")


def test_a_recipe_of_the_other_stage_is_refused() -> None:
    with pytest.raises(RecipeError, match="stage"):
        load_recipe("nano-cold-start", GrpoRecipe)
