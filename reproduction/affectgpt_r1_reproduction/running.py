"""Cells are run: cold start, GRPO, the test's answers, one small file of JSON.

Each is an ordinary run in a folder of its own, so that what was cut goes on; each process has one
thread, and works on one cell at a time.
"""

import ctypes
import json
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from affectgpt_r1 import __version__
from affectgpt_r1.clips import read_labelled
from affectgpt_r1.config import ColdStartRecipe, GrpoRecipe
from affectgpt_r1.errors import TrainingError
from affectgpt_r1.evaluation.predict import load_predictor, perceive_clips, predict
from affectgpt_r1.files import own_rows, write_whole
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.progress import Progress
from affectgpt_r1.training.run import train_cold_start, train_grpo
from affectgpt_r1_reproduction.grounds import Fold, share_of
from affectgpt_r1_reproduction.plan import Cell, placed

#: What of a run's metrics is kept, as means over its tenths.
_CURVES = ("accuracy", "coverage", "distinct_answers", "frac_reward_zero_std", "words_per_answer")


def run_cells(
    cells: Sequence[Cell],
    folds: Sequence[Fold],
    runs: Path,
    results: Path,
    workers: int,
    progress: Progress,
) -> None:
    """Run the cells whose results are not there yet, each once its cold start is there.

    Args:
        cells: which; equal ones are run once.
        folds: the ground's.
        runs: folder of the run folders.
        results: folder of the results, a file a cell.
        workers: processes.
        progress: told how many of how many runs are done, cold starts among them.

    Raises:
        InputError: a run cannot be begun.
    """
    left = {c.name: c for c in cells if not (results / f"{c.name}.json").is_file()}
    cold = {c.cold_start_name: c for c in left.values()}
    total, done = len(cold) + len(left), 0
    # Fresh processes: torch's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _alone)
    begin = partial(_begin, folds=tuple(folds), runs=runs)
    run = partial(_cell, folds=tuple(folds), runs=runs, results=results)
    try:
        begun = {pool.submit(begin, cell): name for name, cell in cold.items()}
        running = set(begun)
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                why = future.result()
                progress(done := done + 1, total)
                ready = [c for c in left.values() if c.cold_start_name == begun.get(future)]
                running |= {pool.submit(run, cell, why) for cell in ready}
    finally:  # after a fault or an interrupt, what is not begun is not begun any more
        pool.shutdown(cancel_futures=True)


def _alone() -> None:
    """One thread, and no longer alive than who began this process."""
    torch.set_num_threads(1)
    if sys.platform == "linux":  # else it would hold the run folder of a table that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def _begin(cell: Cell, folds: Sequence[Fold], runs: Path) -> str | None:
    """Train the cold start that several cells wait for, where it is not there; or say why not."""
    fold, folder = folds[cell.fold], runs / f"cold-start-{cell.cold_start_name}"
    data = _data(share_of(fold.cold_start, cell.cold_start_share), fold)
    recipe = placed(ColdStartRecipe, cell.cold_start, data=data, run={"output": str(folder)})
    try:
        train_cold_start(recipe, _unseen, _unseen)
    except TrainingError as error:
        return _told(error, runs)
    return None


def _cell(cell: Cell, why: str | None, folds: Sequence[Fold], runs: Path, results: Path) -> None:
    """Train what follows a cold start, and ask it; `why` the cold start is not there."""
    fold, folder = folds[cell.fold], runs / f"grpo-{cell.name}"
    cold = runs / f"cold-start-{cell.cold_start_name}"
    found = {"version": __version__, **asdict(cell)}
    if cell.grpo is not None and why is None:
        try:
            _grpo(cell, cell.grpo, fold, cold, folder)
        except TrainingError as error:
            why = _told(error, runs)
    model = cold if cell.grpo is None else folder
    found |= _answers(model, cell, fold) if why is None else {"failed": why}
    found["train_s"] = sum(row["step_time_s"] for f in (cold, folder) for row in _metrics(f))
    found["curves"] = _curves(_metrics(folder))
    write_whole(results / f"{cell.name}.json", json.dumps(found, ensure_ascii=False) + "\n")


def _told(error: TrainingError, runs: Path) -> str:
    """Without a place of this machine."""
    return str(error).replace(str(runs), "RUNS")


def _grpo(cell: Cell, row: dict[str, Any], fold: Fold, cold: Path, folder: Path) -> None:
    places: dict[str, Any] = {
        "data": _data(share_of(fold.grpo, cell.grpo_share), fold),
        "run": {"output": str(folder)},
        "model": str(cold),
    }
    if "judge" in row:  # the frozen start judges: it sees the clips
        places["judge"] = {"model": str(cold)}
    train_grpo(placed(GrpoRecipe, row, **places), _unseen, _unseen)


def _answers(model: Path, cell: Cell, fold: Fold) -> dict[str, Any]:
    """The test clips' words: the different answers, and which of them each clip was given."""
    predictor = load_predictor(model)
    seen = perceive_clips(read_labelled(fold.test), predictor.encoders, FeatureCache(fold.cache))
    said = list(predict(predictor, seen, mode=cell.mode))
    texts = [", ".join(answer.words or ()) for answer in said]
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return {
        "ids": [answer.id for answer in said],
        "answers": list(numbers),
        "said": [numbers[text] for text in texts],
        "well_formed": fmean(not answer.problems for answer in said),
    }


def _data(manifest: Path, fold: Fold) -> dict[str, str]:
    return {"train": str(manifest), "test": str(fold.test), "cache": str(fold.cache)}


def _metrics(folder: Path) -> list[dict[str, Any]]:
    return own_rows(folder / "metrics.jsonl")


def _curves(rows: Sequence[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Means over tenths; None where no update of a tenth could tell, as coverage without words."""
    parts = [rows[i * len(rows) // 10 : (i + 1) * len(rows) // 10] for i in range(10)]
    told = {name: [[r[name] for r in part if name in r] for part in parts] for name in _CURVES}
    return {
        name: [round(fmean(values), 4) if values else None for values in tenths]
        for name, tenths in told.items()
        if any(tenths)
    }


def _unseen(*_: object) -> None:
    """Progress that nobody watches: cells are counted, not their steps."""
