"""What both phases share: a transformers Trainer that loses nothing when it is killed.

The loop, accelerate, accumulation, schedules and trackers are transformers'; saving, finding and
reading checkpoints are ours (`checkpoints`): whole or absent, and nothing pickled but tensors that
are read with `weights_only`.
"""

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import ColdStartRecipe, GrpoRecipe, OptimizerSettings
from affectgpt_r1.errors import TrainingError
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.perception.features import Features
from affectgpt_r1.training.checkpoints import checkpoint_path, rotate, seal, step_of
from affectgpt_r1.training.run_folder import append_json, drop_after

#: Called after each update with the step, the number of steps and the step's metrics.
Progress = Callable[[int, int, Mapping[str, float]], None]

#: Clips with their features.
Examples = list[tuple[Clip, Features]]


class Ending(TrainerCallback):
    """Ends a run, with a checkpoint, after the update in which a process of it was asked to."""

    asked = False

    def ask(self, *_: object) -> None:
        """Ask for the end; handles a signal."""
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        """Say to the Trainer what was asked."""
        if any(gather_object([self.asked])):  # a signal may come meanwhile: nothing is unasked
            self.asked = control.should_save = control.should_training_stop = True


class RunTrainer(Trainer):
    """A Trainer over `Examples` whose checkpoints lie in a run folder.

    Args:
        model: trained in place.
        processor: saved with each checkpoint.
        examples: the training data.
        recipe: optimizer and run, and what a phase adds.
        progress: told of each update.
    """

    def __init__(
        self,
        model: AffectGPTForConditionalGeneration,
        processor: AffectGPTProcessor,
        examples: Examples,
        *,
        recipe: ColdStartRecipe | GrpoRecipe,
        progress: Progress,
    ) -> None:
        run, optimizer = recipe.run, recipe.optimizer
        self.affect_model, self.processor, self.examples = model, processor, examples
        self.recipe, self.run_folder, self.progress = recipe, Path(run.output), progress
        self._figures: dict[str, list[float]] = defaultdict(list)
        self._began_s = time.monotonic()
        schedule: str = optimizer.schedule
        if schedule == "constant" and optimizer.warmup_steps:
            schedule = "constant_with_warmup"
        arguments = TrainingArguments(
            output_dir=str(self.run_folder),
            seed=run.seed,
            per_device_train_batch_size=optimizer.batch_size,
            gradient_accumulation_steps=optimizer.gradient_accumulation_steps,
            num_train_epochs=optimizer.epochs,
            max_steps=optimizer.max_steps or -1,
            learning_rate=optimizer.learning_rate,
            lr_scheduler_type=schedule,
            warmup_steps=optimizer.warmup_steps,
            max_grad_norm=optimizer.max_grad_norm,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=run.save_steps,
            bf16=run.bf16,
            activation_checkpointing=run.gradient_checkpointing,
            report_to=list(run.report_to) or "none",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
        )
        # Without a launcher transformers would copy the model to each GPU, but not our batches.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=examples,
            # Batches are built in the step itself, from seeds of run, step and clip.
            data_collator=lambda examples: {"examples": examples},
            optimizers=(adamw(model, optimizer), None),
        )
        self.remove_callback(PrinterCallback)
        self.ending = Ending()
        self.add_callback(self.ending)
        self.model_accepts_loss_kwargs = False

    def record(self, metrics: Mapping[str, float]) -> None:
        """Add figures of the current batch; their means are logged with the update."""
        for name, value in metrics.items():
            self._figures[name].append(value)

    def check_finite(self, loss: Tensor) -> None:
        """Stop a run whose loss is no number.

        Raises:
            TrainingError: it is a NaN or an infinity.
        """
        if not bool(torch.isfinite(loss.detach())):
            raise TrainingError(
                f"the loss is not finite at step {self.state.global_step + 1}: lower the learning "
                f"rate; the last checkpoint in {self.run_folder} is untouched"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log one update's figures, the batch means among them; tell and keep them."""
        parts: list[dict[str, list[float]]] = gather_object([dict(self._figures)])
        for name in sorted({name for part in parts for name in part}):
            values = [value for part in parts for value in part.get(name, ())]
            logs[name] = math.fsum(values) / len(values)
        self._figures.clear()
        super().log(logs, start_time)
        if self.is_world_process_zero() and "train_runtime" not in logs:
            step, step_time_s = self.state.global_step, time.monotonic() - self._began_s
            row = {"step": step, "step_time_s": step_time_s, **logs}
            append_json(self.run_folder / "metrics.jsonl", row)
            self.progress(step, self.state.max_steps, row)

    def get_batch_samples(self, *given: Any, **settings: Any) -> tuple[list[Any], Any]:
        """An update's batches; its time is counted from here."""
        self._began_s = time.monotonic()
        return super().get_batch_samples(*given, **settings)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: prompts and completions differ from step to step."""
        return 0

    def _get_output_dir(self, trial: Any) -> str:
        # Below it transformers writes a checkpoint; sealed, it is moved to its place.
        return f"{checkpoint_path(self.run_folder, self.state.global_step)}.tmp"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step, staging = self.state.global_step, Path(self._get_output_dir(trial))
        first = self.args.should_save
        try:
            if first:
                shutil.rmtree(staging, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each has written its random generators' states
            if first:
                seal(staging / f"checkpoint-{step}", checkpoint_path(self.run_folder, step))
                rotate(self.run_folder, self.recipe.run.keep_checkpoints)
        finally:
            if first:
                shutil.rmtree(staging, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.affect_model.save_pretrained(output_dir)
        self.processor.save_pretrained(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.affect_model.load_trained(folder)
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            drop_after(self.run_folder / name, step_of(folder))

    def finish(self) -> Path:
        """Write the final model into the run folder, whole or not at all; returns its folder."""
        final, unfinished = self.run_folder / "model", self.run_folder / "model.tmp"
        if self.args.should_save:
            shutil.rmtree(unfinished, ignore_errors=True)
            self._save(str(unfinished))
            shutil.rmtree(final, ignore_errors=True)
            unfinished.rename(final)
        self.accelerator.wait_for_everyone()
        return final


def adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW as published: betas 0.9 and 0.999, no decay on biases and one-dimensional weights."""
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_fusion, decays = name.startswith("fusion."), parameter.ndim > 1
            own_rate = settings.fusion_learning_rate if is_fusion else None
            decay = settings.weight_decay if decays else 0.0
            new = {"params": [], "lr": own_rate or settings.learning_rate, "weight_decay": decay}
            groups.setdefault((is_fusion, decays), new)["params"].append(parameter)
    return torch.optim.AdamW(groups.values(), betas=(0.9, 0.999))
