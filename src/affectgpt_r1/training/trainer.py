"""What both phases share: a transformers Trainer that loses nothing when it is killed.

The loop, accelerate, accumulation, schedules and trackers are transformers'; saving, finding and
reading checkpoints are ours (`checkpoints`): whole or absent, and nothing pickled but tensors that
are read with `weights_only`.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

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
        self.recipe, self.run_folder = recipe, Path(run.output)
        self._staging: Path | None = None
        self._figures: dict[str, list[float]] = defaultdict(list)
        arguments = TrainingArguments(
            output_dir=str(self.run_folder),
            seed=run.seed,
            per_device_train_batch_size=optimizer.batch_size,
            gradient_accumulation_steps=optimizer.gradient_accumulation_steps,
            num_train_epochs=optimizer.epochs,
            max_steps=optimizer.max_steps or -1,
            learning_rate=optimizer.learning_rate,
            lr_scheduler_type=_schedule(optimizer),
            warmup_steps=optimizer.warmup_steps,
            max_grad_norm=optimizer.max_grad_norm,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps",
            save_steps=run.save_steps,
            bf16=run.bf16,
            activation_checkpointing=run.gradient_checkpointing,
            report_to=list(run.report_to) or "none",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
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
            callbacks=[_Progress(progress, self.run_folder)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False

    def record(self, metrics: Mapping[str, float]) -> None:
        """Add figures of the current batch; their means are logged with the update."""
        for name, value in metrics.items():
            self._figures[name].append(value)

    def check_finite(self, name: str, value: Tensor) -> None:
        """Stop a run whose loss is no number.

        Raises:
            TrainingError: `value` holds a NaN or an infinity.
        """
        if not bool(torch.isfinite(value.detach()).all()):
            raise TrainingError(
                f"{name} is not finite at step {self.state.global_step + 1}: lower the learning "
                f"rate; the last checkpoint in {self.run_folder} is untouched"
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log one update's figures, the batch means among them."""
        for name, values in sorted(self._figures.items()):
            logs[name] = math.fsum(values) / len(values)
        self._figures.clear()
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: prompts and completions differ from step to step."""
        return 0

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging or self.run_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        final = checkpoint_path(self.run_folder, self.state.global_step)
        self._staging = final.with_name(final.name + ".tmp")
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                written = self._staging / f"checkpoint-{self.state.global_step}"
                seal(written, final)
                rotate(self.run_folder, self.recipe.run.keep_checkpoints)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.run_folder / "model")
        self.affect_model.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.affect_model.load_trained(folder)
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            drop_after(self.run_folder / name, step_of(folder))

    def finish(self) -> Path:
        """Write the final model into the run folder, whole or not at all; returns its folder."""
        final = self.run_folder / "model"
        unfinished = self.run_folder / "model.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._save(str(unfinished))
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        return final


def adamw(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW as published: betas 0.9 and 0.999, no decay on biases and one-dimensional weights."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("fusion."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": (settings.fusion_learning_rate if is_fusion else None)
                or settings.learning_rate,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (is_fusion, decays), parameters in groups.items()
        ],
        betas=(0.9, 0.999),
    )


def _schedule(settings: OptimizerSettings) -> str:
    if settings.schedule == "constant" and settings.warmup_steps:
        return "constant_with_warmup"
    return settings.schedule


class _Progress(TrainerCallback):
    """Writes metrics.jsonl and tells the caller of each update."""

    def __init__(self, progress: Progress, folder: Path) -> None:
        self.progress, self.folder = progress, folder
        self.began_s = time.monotonic()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began_s = time.monotonic()

    def on_save(self, *_: Any, **__: Any) -> None:
        self.began_s = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or "train_runtime" in logs:
            return
        row = {"step": state.global_step, "step_time_s": time.monotonic() - self.began_s, **logs}
        append_json(self.folder / "metrics.jsonl", row)
        self.progress(state.global_step, state.max_steps, row)
        self.began_s = time.monotonic()
