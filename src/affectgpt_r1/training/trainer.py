"""What both phases share: a transformers Trainer that loses nothing when it is killed.

The loop, accelerate, accumulation, schedules and trackers are transformers'; saving, finding and
reading checkpoints are ours (`checkpoints`): whole or absent, and nothing pickled but tensors that
are read with `weights_only`.
"""

import logging
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import ColdStartRecipe, GrpoRecipe, OptimizerSettings
from affectgpt_r1.errors import InputError, TrainingError
from affectgpt_r1.files import append_row, make_folder
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.sharding import is_sharded, shard, spread_like, whole
from affectgpt_r1.perception.features import Features
from affectgpt_r1.training.checkpoints import checkpoint_path, note_f, rotate, seal, step_of
from affectgpt_r1.training.monitor import alarms
from affectgpt_r1.training.run_folder import drop_after

logger = logging.getLogger(__name__)

#: Settings that transformers calls by the same names.
_OF_RUN = {"seed", "save_steps", "bf16"}
_OF_OPTIMIZER = {"gradient_accumulation_steps", "learning_rate", "warmup_steps", "max_grad_norm"}
#: Figures that count: their sum over all processes is logged, of others the mean.
_COUNTS = {"not_judged", "perception_not_judged", "resampled"}

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
        held_out: the F of the model as it is, on clips held out: the best checkpoint is kept.

    Attributes:
        ended: whether the run was ended, with a checkpoint, because a process of it was asked to.
    """

    asked = ended = False

    current_gradient_accumulation_steps = 1  # until the training loop sets it

    def __init__(
        self,
        model: AffectGPTForConditionalGeneration,
        processor: AffectGPTProcessor,
        examples: Examples,
        *,
        recipe: ColdStartRecipe | GrpoRecipe,
        progress: Progress,
        held_out: Callable[[], float] | None = None,
    ) -> None:
        run, optimizer = recipe.run, recipe.optimizer
        self.affect_model, self.processor, self.examples = model, processor, examples
        self.recipe, self.run_folder, self.progress = recipe, Path(run.output), progress
        self._figures: dict[str, list[float]] = defaultdict(list)
        self._began_s = time.monotonic()
        self.held_out, self.update = held_out, list[Any]()
        self.rows: list[dict[str, Any]] = []  # of metrics.jsonl
        arguments = TrainingArguments(
            **run.model_dump(include=_OF_RUN),
            **optimizer.model_dump(include=_OF_OPTIMIZER),
            output_dir=str(self.run_folder),
            per_device_train_batch_size=optimizer.batch_size,
            num_train_epochs=optimizer.epochs,
            max_steps=optimizer.max_steps or -1,
            lr_scheduler_type=optimizer.schedule.replace("constant", "constant_with_warmup"),
            logging_steps=1,
            logging_nan_inf_filter=False,
            activation_checkpointing=run.gradient_checkpointing,
            report_to=list(run.report_to) or "none",
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,  # there are no tensors in a batch yet
            use_cpu=not torch.cuda.is_available(),
            # A sharded model keeps parts of gradients: whole ones would wait for the last batch.
            accelerator_config={"gradient_accumulation_kwargs": {"sync_each_batch": run.shard}},
        )
        # Without a launcher transformers would copy the model to each GPU, but not our batches.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        if run.shard:
            if not torch.distributed.is_initialized():  # one process of torchrun's will do
                raise InputError("run.shard=true needs several processes: begin with torchrun")
            nn.Module.to(model, arguments.device)
            shard(model, model.language_model.model.layers)
        elif run.bf16:
            model.round_frozen()
        make_folder(self.run_folder)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=examples,
            # Batches are built in the step itself, from seeds of run, step and clip.
            data_collator=lambda examples: {"examples": examples},
            optimizers=(adamw(model, optimizer), None),
        )
        # A model whose parts are where they belong: it is wrapped no further.
        self.is_distributed_loading_by_transformers = is_sharded(model)
        self.remove_callback(PrinterCallback)

    def ask_to_end(self, *_: object) -> None:
        """Ask the run to end, with a checkpoint, after an update; handles a signal."""
        self.asked = True

    def record(self, metrics: Mapping[str, float]) -> None:
        """Add figures of the current batch: means, of counts sums, are logged with the update."""
        for name, value in metrics.items():
            self._figures[name].append(value)

    def check_finite(self, **values: Tensor) -> None:
        """Stop a run whose figures are no numbers; all processes find the same.

        Raises:
            TrainingError: one is a NaN or an infinity.
        """
        step = self.state.global_step + 1
        for name, value in values.items():
            if not bool(torch.isfinite(torch.as_tensor(value)).all()):
                raise TrainingError(f"the {name} is not finite at step {step}")

    def save_fault(self) -> Path:
        """Keep an update that went wrong, and the weights before it; all processes must call.

        Returns:
            The folder, for `replay`.
        """
        step = self.state.global_step
        folder = self.run_folder / "failed" / f"step-{step + 1:06d}"
        self.save_model(folder)
        self.accelerator.wait_for_everyone()
        place = folder / f"update-{self.args.process_index}.pt"
        torch.save({"step": step, "update": self.update}, place)
        return folder

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log one update's figures, the batch means among them; tell and keep them."""
        parts: list[tuple[bool, dict[str, list[float]]]]
        parts = gather_object([(self.asked, dict(self._figures))])
        for name in sorted({name for _, part in parts for name in part}):
            values = [value for _, part in parts for value in part.get(name, ())]
            logs[name] = math.fsum(values) / (1 if name in _COUNTS else len(values))
        self._figures.clear()
        super().log(logs, start_time)
        if "train_runtime" in logs:  # of the whole run
            return
        step, step_time_s = self.state.global_step, time.monotonic() - self._began_s
        # Between the updates of a rollout a checkpoint holds no completions to go on with.
        last = step % getattr(self.recipe, "num_iterations", 1) == 0
        if last and any(asked for asked, _ in parts):
            self.ended = self.control.should_save = self.control.should_training_stop = True
        if self.is_world_process_zero():
            row: dict[str, Any] = {"step": step, "step_time_s": step_time_s, **logs}
            self.rows = [*self.rows[-1999:], row]  # alarms are of the last 2,000 updates
            found = alarms(self.rows)
            before = self.rows[-2].get("alarms", ()) if len(self.rows) > 1 else ()
            for name in found.keys() - set(before):
                logger.warning("step %d: %s", step, found[name])
            if found:
                row["alarms"] = sorted(found)
            append_row(self.run_folder / "metrics.jsonl", row)
            self.progress(step, self.state.max_steps, row)

    def _run_epoch(self, *given: Any, **settings: Any) -> None:
        if self.state.global_step < self.state.max_steps:  # else it would make one update too many
            super()._run_epoch(*given, **settings)

    def get_batch_samples(self, *given: Any, **settings: Any) -> tuple[list[Any], Any]:
        """An update's batches; its time is counted from here."""
        self._began_s = time.monotonic()
        self.update, counted = super().get_batch_samples(*given, **settings)
        return self.update, counted

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = whole(super()._get_grad_norm(model, grad_norm))
        self.check_finite(loss=self.accelerator.reduce(self._tr_loss, "mean"), gradient=norm)
        return norm

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        final = checkpoint_path(self.run_folder, self.state.global_step)
        with self._unfinished(final) as folder:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_rng_state(str(folder))
            f = self.held_out() if self.held_out else None
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                if f is not None:
                    note_f(folder, f)
        if self.args.should_save:
            rotate(self.run_folder, self.recipe.run.keep_checkpoints)

    @contextmanager
    def _unfinished(self, final: Path) -> Iterator[Path]:
        """A folder with the model, where all may write; at the block's end it is `final`, whole."""
        folder, first = final.with_suffix(".tmp"), self.args.should_save
        try:
            if first:
                shutil.rmtree(folder, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self.save_model(folder)
            yield folder
            self.accelerator.wait_for_everyone()
            if first:
                seal(folder, final)
            self.accelerator.wait_for_everyone()
        finally:
            if first:
                shutil.rmtree(folder, ignore_errors=True)

    def save_model(self, output_dir: Any = None, _internal_call: bool = False) -> None:
        """Write the model folder, by the first process; all must call."""
        first = self.args.should_save
        self.affect_model.save_pretrained(output_dir, is_main_process=first)
        if first:
            self.processor.save_pretrained(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer, scheduler = cast(Any, (self.optimizer, self.lr_scheduler))
        state = tree_map_only(Tensor, whole, optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, f"{output_dir}/{OPTIMIZER_NAME}")
            torch.save(scheduler.state_dict(), f"{output_dir}/{SCHEDULER_NAME}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        assert self.optimizer
        for parameter, state in self.optimizer.state.items():
            state.update(tree_map_only(Tensor, partial(spread_like, like=parameter), state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.affect_model.load_trained(folder)
        self.forget_after(step_of(folder))

    def forget_after(self, step: int) -> None:
        """Drop what the run folder says of later updates than a step: they are made again."""
        if self.args.should_save:  # others may not hold the folder
            self.rows = drop_after(self.run_folder / "metrics.jsonl", step)
            drop_after(self.run_folder / "rollouts.jsonl", step)

    def finish(self) -> Path:
        """Write the final model into the run folder, whole or not at all; returns its folder."""
        final = self.run_folder / "model"
        with self._unfinished(final):
            pass  # nothing but the model
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
