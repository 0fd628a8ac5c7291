"""The run folder: the resolved recipe, the versions, the metrics, the final model.

Starting a run in its own folder goes on with it; a folder that holds another recipe is refused.
Checkpoints inside it are `checkpoints`' matter.
"""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from safetensors import SafetensorError

from affectgpt_r1.config import Recipe, load_recipe, recipe_yaml
from affectgpt_r1.errors import CheckpointError, RecipeError
from affectgpt_r1.evaluation.doctor import versions
from affectgpt_r1.files import make_folder, own_rows, write_rows, write_whole, writing

#: Where a judge is and how long it is waited for: a run goes on with a server that moved.
_MAY_CHANGE = {f"judge.{n}" for n in ("url", "concurrency", "timeout_s", "retries", "budget_s")}
_GO_ON = "make room or give the permission; the same command goes on from the last checkpoint"


def check_run(folder: Path, recipe: Recipe) -> bool:
    """Refuse a folder that is not empty and not of this very recipe; nothing is written.

    Returns:
        Whether the run came to its end: its final model is there.

    Raises:
        CheckpointError: the folder holds a run of another recipe, or something else.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        if folder.is_file() or any(path.suffix != ".tmp" for path in folder.glob("*")):
            raise CheckpointError(f"{folder} holds other files: set run.output to an empty one")
        return False
    try:
        # A key that an older release did not know had the effect of its default.
        before = load_recipe(str(path), type(recipe))
        changed = sorted(set(_differences(before, recipe)) - _MAY_CHANGE)
        other = f"with other settings ({', '.join(changed)})" if changed else ""
    except RecipeError as error:
        other = f"of another stage or release ({error.problems[0]})"
    if other:
        raise CheckpointError(
            f"{folder} holds a run {other}: choose another folder with --set run.output=... or "
            "remove it"
        )
    return (folder / "model" / "config.json").is_file()


def begin_run(folder: Path, recipe: BaseModel, begun_on: str) -> None:
    """Make the run folder and write recipe and versions; a resumed run keeps the first ones.

    Args:
        folder, recipe: the run's.
        begun_on: names the clips, and of GRPO the model that it begins with.

    Raises:
        CheckpointError: the run was begun on others.
    """
    path = folder / "environment.json"
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before.get("begun_on", begun_on) != begun_on:
            raise CheckpointError(
                f"{folder} was begun on other clips (their order, words or features; one that "
                "could not be read then is another too), or from another model: put them back, or "
                "set run.output to another folder"
            )
        return
    make_folder(folder)
    write_whole(folder / "recipe.yaml", recipe_yaml(recipe))  # first: it says whose the folder is
    # All that numbers may depend on.
    found = {"git_commit": _git_commit(), "begun_on": begun_on}
    found |= {part.name: part.value for part in versions()}
    write_whole(path, json.dumps(found, indent=1))


@contextmanager
def locked(folder: Path, recipe: BaseModel, begun_on: str) -> Iterator[None]:
    """Begin a run in its folder, or go on, and hold it; the first process holds it for all.

    Raises:
        CheckpointError: another run that lives holds it, or it was begun on other clips
            or from another model.
        InputError: what is done inside the block cannot write there.
    """
    with writing(folder, _GO_ON, (OSError, SafetensorError, RuntimeError)):
        begin_run(folder, recipe, begun_on)
        with (folder / "lock").open("w") as file:
            if os.environ.get("RANK", "0") == "0":
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise CheckpointError(f"{folder}: another run works there: stop it") from None
            yield


def drop_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines of steps after `step`: a resumed run writes them again.

    A last line that a kill tore is dropped too.

    Returns:
        What is left, in order.
    """
    kept = [row for row in own_rows(path) if row["step"] <= step]
    if path.is_file():
        write_rows(path, kept)
    return kept


def _differences(before: BaseModel, now: BaseModel, prefix: str = "") -> Iterator[str]:
    for name, value in now:
        old = getattr(before, name)
        if isinstance(value, BaseModel) and isinstance(old, BaseModel):
            yield from _differences(old, value, f"{prefix}{name}.")
        elif value != old:
            yield prefix + name


def _git_commit() -> str | None:
    ask = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(ask, stderr=subprocess.DEVNULL, text=True, timeout=5).strip()
    return None
