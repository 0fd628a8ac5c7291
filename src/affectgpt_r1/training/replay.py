"""The update that ended a run, made again from what was saved of it.

Nothing is trained and nothing is written. Whether its figures are numbers is found again, and of
which clips they are none; of several processes each saved its own clips. A KL term's reference was
saved with the completions; an update that ended before it had any is made again without the term.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.trainer_pt_utils import safe_globals

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import ColdStartRecipe, GrpoRecipe, load_recipe
from affectgpt_r1.dialogue import Completion, Problem
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import CheckpointError, RecipeError, TrainingError
from affectgpt_r1.evaluation.predict import load_predictor
from affectgpt_r1.media import MediaFlag
from affectgpt_r1.model.sampling import Sample
from affectgpt_r1.perception.features import Features
from affectgpt_r1.perception.pretrained import loading
from affectgpt_r1.rewards import RewardBreakdown
from affectgpt_r1.training.cold_start import ColdStartTrainer
from affectgpt_r1.training.grpo import GrpoTrainer, Rollout
from affectgpt_r1.training.trainer import RunTrainer

#: What a saved update consists of, arrays apart; a file that names anything else is refused unread.
_HELD: list[Any] = [
    *(Clip, Completion, Features, MediaFlag, Problem, RewardBreakdown, Rollout, Sample),
    *(PosixPath, frozenset, type(np.dtype(np.float32))),
]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What an update did when it was made again.

    Attributes:
        step: the update's number.
        error: what is no number, as the run said it; None: all figures are numbers this time.
        clips: those that do so alone.
    """

    step: int
    error: str | None
    clips: tuple[str, ...]


def replay(folder: Path, process: int = 0) -> Replayed:
    """Make a saved update again.

    Args:
        folder: RUN/failed/step-NNNNNN, as the run named it when it ended.
        process: whose part of the update, where several trained.

    Raises:
        CheckpointError: the folder holds no saved update.
        ModelFolderError: it is damaged, or holds more than an update: it would run code.
    """
    saved = folder / f"update-{process}.pt"
    if not saved.is_file():
        raise CheckpointError(f"no update is at {saved}: name RUN/failed/step-NNNNNN")
    ours = torch.serialization.safe_globals(_HELD)
    with TemporaryDirectory() as scratch:
        trainer = _trainer(folder, scratch)
        with loading(saved, what="update"), safe_globals(), ours:
            # Wherever it was made: here its tensors belong beside the model.
            held = torch.load(saved, map_location=trainer.args.device, weights_only=True)
            step, update = int(held["step"]), held["update"]
        trainer.state.global_step = step
        model = trainer.accelerator.prepare_model(trainer.affect_model)
        fault = _fault(trainer, model, update)
        alone = {
            (item.clip if isinstance(item, Rollout) else item[0]).id: {name: [item]}
            for inputs in update
            for name, items in inputs.items()
            for item in items
        }
        clips = [clip for clip, inputs in alone.items() if _fault(trainer, model, [inputs])]
    return Replayed(step + 1, fault, tuple(clips))


def _trainer(folder: Path, scratch: str) -> RunTrainer:
    """A trainer as the run had it, for one process and a run folder of no use."""
    path = folder.parent.parent / "recipe.yaml"
    if not path.is_file():
        raise CheckpointError(f"no recipe at {path}: leave the folder in its run")
    predictor = load_predictor(folder)
    parts: list[Any] = [predictor.model.train(), predictor.processor, []]
    settings = [f"run.output={scratch}", "run.shard=false"]
    try:
        recipe = load_recipe(str(path), GrpoRecipe, [*settings, "rollout.max_resamples=0"])
    except RecipeError:  # of the other stage
        tuning = load_recipe(str(path), ColdStartRecipe, settings)
        return ColdStartTrainer(*parts, recipe=tuning, progress=lambda *_: None)
    lexicon = Lexicon.load(recipe.lexicon.name, folder=recipe.lexicon.folder)
    return GrpoTrainer(*parts, recipe=recipe, lexicon=lexicon, progress=lambda *_: None)


def _fault(trainer: Any, model: nn.Module, update: Sequence[Any]) -> str | None:
    """What is no number where these batches make an update."""
    model.zero_grad()
    try:
        loss = torch.stack([trainer.compute_loss(model, inputs) for inputs in update]).sum()
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        trainer.check_finite(loss=loss, gradient=nn.utils.get_total_norm(gradients))
    except TrainingError as error:
        return str(error)
    return None
