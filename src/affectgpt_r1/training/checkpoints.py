"""Checkpoints that are whole or are not there: written beside, hashed, renamed.

A checkpoint is a model folder plus the optimizer's, scheduler's and random generators' states. Its
`manifest.json`, written last, holds every file's hash; a folder without one, or with a file that
differs, is named and skipped, never resumed from. Which tensors go in is the trainer's matter.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from affectgpt_r1.files import sha256_of, sync, write_whole

logger = logging.getLogger(__name__)

_MANIFEST, _HELD_OUT = "manifest.json", "held_out.json"


def checkpoint_path(run_folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_folder / "checkpoints" / f"step-{step:06d}"


def seal(unfinished: Path, finished: Path) -> None:
    """Make a written folder a checkpoint: hash its files, sync them, rename it.

    Args:
        unfinished: everything is written here, on the same file system.
        finished: its final name; an older folder there is replaced.
    """
    hashes = {}
    for path in sorted(path for path in unfinished.rglob("*") if path.is_file()):
        hashes[path.relative_to(unfinished).as_posix()] = sha256_of(path)
        sync(path)
    write_whole(unfinished / _MANIFEST, json.dumps({"sha256": hashes}, indent=1), durable=True)
    shutil.rmtree(finished, ignore_errors=True)
    unfinished.rename(finished)
    sync(finished.parent)


def fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None: it is whole."""
    try:
        hashes = json.loads((checkpoint / _MANIFEST).read_text(encoding="utf-8"))["sha256"]
        for name, digest in hashes.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if sha256_of(path) != digest:
                return f"{name} differs from its hash"
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "its manifest is missing or damaged: it was never finished"
    return None


def newest(run_folder: Path) -> Path | None:
    """The newest whole checkpoint of a run; broken ones are named in the log and skipped."""
    for path in reversed(_checkpoints(run_folder)):
        if not (problem := fault(path)):
            return path
        logger.warning("skipped the checkpoint %s: %s", path, problem)
    return None


def step_of(checkpoint: Path) -> int:
    """The number of updates a checkpoint was written after, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def note_f(checkpoint: Path, f: float) -> None:
    """Note in a checkpoint that is being written what it scores on clips held out."""
    write_whole(checkpoint / _HELD_OUT, json.dumps({"f": f}))


def best(run_folder: Path) -> Path | None:
    """The whole checkpoint with the best F on clips held out, the first of equals."""
    return _best(_whole(run_folder))


def rotate(run_folder: Path, keep: int) -> None:
    """Remove all but the best and the newest `keep` whole checkpoints, and what is half-written."""
    whole = _whole(run_folder)
    spent = set(whole[:-keep]) - {_best(whole)}
    for path in (*spent, *(run_folder / "checkpoints").glob("*.tmp")):
        shutil.rmtree(path, ignore_errors=True)


def _best(whole: Sequence[Path]) -> Path | None:
    return max((path for path in whole if (path / _HELD_OUT).is_file()), key=_f_of, default=None)


def _f_of(checkpoint: Path) -> float:
    return float(json.loads((checkpoint / _HELD_OUT).read_text(encoding="utf-8"))["f"])


def _whole(run_folder: Path) -> list[Path]:
    return [path for path in _checkpoints(run_folder) if fault(path) is None]


def _checkpoints(run_folder: Path) -> list[Path]:
    found = (run_folder / "checkpoints").glob("step-*")
    return sorted((p for p in found if p.name.removeprefix("step-").isdecimal()), key=step_of)
