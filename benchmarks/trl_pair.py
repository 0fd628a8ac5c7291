"""One policy in two trainers: TRL's GRPOTrainer and ours, on the same language model and adapter.

Used by `grpo_step.py` at the small size and by the tests at the nano size. TRL reads no clips, so
prompts are text here: our model runs its fusion all the same, and its tokens stand nowhere.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import datasets
import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import DataSettings, GrpoRecipe, OptimizerSettings, RunSettings
from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.model.configuration import AffectGPTConfig
from affectgpt_r1.model.modeling import LORA_TARGETS, AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.sampling import Sample
from affectgpt_r1.perception.features import Features
from affectgpt_r1.rewards import RewardBreakdown, RewardRule, reward
from affectgpt_r1.training.grpo import GrpoTrainer, Rollout

LOSSES = ("grpo", "dapo", "dr_grpo")
RANK, ALPHA, WIDTH = 16, 32, 8


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts, completions and advantages that both losses are given.

    Attributes:
        prompts: B lists of ids.
        completions: B lists of G lists of ids.
        advantages: (B, G).
        drift: standard deviation of what the old log-probabilities lie off the present ones.
    """

    prompts: list[list[int]]
    completions: list[list[list[int]]]
    advantages: Tensor
    drift: float = 0.3

    @classmethod
    def random(cls, prompts: list[list[int]], group: int, longest: int, vocabulary: int) -> Case:
        """Completions of random tokens and lengths up to `longest`."""
        draw = random.Random(0)
        completions = [
            [
                [draw.randrange(10, vocabulary) for _ in range(draw.randint(1, longest))]
                for _ in range(group)
            ]
            for _ in prompts
        ]
        generator = torch.Generator().manual_seed(0)
        return cls(prompts, completions, torch.randn(len(prompts), group, generator=generator))

    def off(self, like: Tensor) -> Tensor:
        """What the old log-probabilities lie off: the same numbers for both."""
        generator = torch.Generator().manual_seed(1)
        return self.drift * torch.randn(like.shape, generator=generator)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A loss with its gradient by name of the adapter's tensors."""

    loss: float
    gradient: dict[str, Tensor] = field(default_factory=dict)

    def difference(self, other: Outcome) -> tuple[float, float]:
        """Relative difference of the losses, and of the gradients as one vector."""
        assert self.gradient.keys() == other.gradient.keys()
        names = sorted(self.gradient)
        one, two = (
            torch.cat([o.gradient[n].flatten().double() for n in names]) for o in (self, other)
        )
        return (
            abs(self.loss - other.loss) / max(abs(other.loss), 1e-12),
            float((one - two).norm() / two.norm()),
        )


def adapter(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's tensors, named alike in both trainers."""
    return {
        name[name.index("layers.") :].replace(".default", ""): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }


def fill_adapter(model: nn.Module, scale: float = 0.02) -> None:
    """Give the adapter weights that depend on its tensors' names alone."""
    with torch.no_grad():
        for name, parameter in adapter(model).items():
            generator = torch.Generator().manual_seed(crc32(name.encode()))
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def emotion(text: str, labels: tuple[str, ...], lexicon: Lexicon, place: int) -> float:
    """The emotion-wheel reward, plus a little for the place in the group.

    An untaught model's answers are all worth 0, and ours spends nothing on groups that do not vary.
    """
    completion = parse_completion(text, "answer")
    return reward(completion, labels, lexicon, RewardRule()).total + 0.001 * place


class Endless(AffectGPTProcessor):
    """Knows no end: every completion has all its tokens, so that none of ours comes cheaper."""

    @property
    def end_id(self) -> int:
        """No token."""
        return -1

    def text(self, ids: Any) -> str:
        """Without the stop string."""
        return super().text(ids).replace("###", "")


class OurTrainer(GrpoTrainer):
    """Ours, under the reward that both are given."""

    def rewards(self, clip: Clip, completions: Any, perception: Any) -> list[RewardBreakdown]:
        """As TRL is given."""
        labels = clip.labels or ()
        return [
            RewardBreakdown(0.0, None, 1.0, emotion(c.text, labels, self.lexicon, i))
            for i, c in enumerate(completions)
        ]


def policy(language_model: Any) -> AffectGPTForConditionalGeneration:
    """Our model around the language model, with an adapter that changes nothing yet."""
    model = AffectGPTForConditionalGeneration.create(
        AffectGPTConfig(
            text_config=deepcopy(language_model.config),
            language_model="given",  # so that checkpoints leave its weights out
            visual_width=WIDTH,
            audio_width=WIDTH,
            lora_rank=RANK,
            lora_alpha=ALPHA,
            lora_dropout=0.0,
        ),
        language_model,
        seed=0,
    )
    nn.Module.to(model, language_model.dtype)
    return model


def features(visual: Any, audio: Any) -> Features:
    """A clip's features, eight steps of each."""
    return Features(visual, audio, True, True, frozenset(), key="0" * 64)


def our_trainer(
    language_model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    clips: list[Clip] | None = None,
    batch_size: int = 4,
    group: int = 8,
    longest: int = 16,
    steps: int = 1,
    loss_type: str = "dapo",
    beta: float = 0.0,
    bf16: bool = False,
    checkpointing: bool = False,
    parts: int = 1,
) -> GrpoTrainer:
    """Our trainer over the language model."""
    model = policy(language_model)
    made = clips or [Clip(id="none", labels=("happy",))]
    rng = np.random.default_rng(0)
    found = [features(*rng.normal(size=(2, 8, WIDTH)).astype(np.float32)) for _ in made]
    recipe = GrpoRecipe.model_validate(
        {
            "profile": "nano",
            "model": "given",
            "data": DataSettings(train="given"),
            "run": RunSettings(
                output=str(folder),
                save_steps=10**6,
                bf16=bf16,
                gradient_checkpointing=checkpointing,
            ),
            "optimizer": OptimizerSettings(
                learning_rate=1e-6,
                batch_size=batch_size // parts,
                gradient_accumulation_steps=parts,
                max_steps=steps,
                max_grad_norm=1.0,
            ),
            "rollout": {"num_generations": group, "max_completion_length": longest},
            "loss_type": loss_type,
            "beta": beta,
        }
    )
    trainer = OurTrainer(
        model,
        Endless(tokenizer),
        list(zip(made, found, strict=True)),
        recipe=recipe,
        lexicon=Lexicon.load("builtin"),
        progress=lambda *_: None,
    )
    fill_adapter(model)  # afterwards, as for TRL: the reference is the language model by itself
    return trainer


def trl_trainer(
    language_model: Any,
    tokenizer: Any,
    folder: Path,
    *,
    prompts: list[str],
    group: int = 8,
    longest: int = 16,
    steps: int = 1,
    loss_type: str = "dapo",
    beta: float = 0.0,
    bf16: bool = False,
    **settings: Any,
) -> Any:
    """TRL's trainer as it comes, but for what the benchmark fixes (float32, batch, lengths)."""
    lexicon = Lexicon.load("builtin")

    def wheel(completions: list[str], labels: list[list[str]], **_: Any) -> list[float | None]:
        return [
            emotion(text, tuple(row), lexicon, i % group)
            for i, (text, row) in enumerate(zip(completions, labels, strict=True))
        ]

    trainer: Any = GRPOTrainer(
        model=language_model,
        reward_funcs=wheel,
        args=GRPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(prompts) * group,
            num_generations=group,
            max_completion_length=longest,
            max_steps=steps,
            loss_type=loss_type,
            beta=beta,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": text, "labels": ["happy"]} for text in prompts]
        ),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(LORA_TARGETS)
        ),
    )
    fill_adapter(trainer.model)
    trainer.current_gradient_accumulation_steps = 1  # the training loop sets it
    return trainer


def text_batch(prompts: list[list[int]]) -> dict[str, Tensor]:
    """Prompts without a clip as our model is given them."""
    shape = (len(prompts), max(map(len, prompts)))
    batch = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
        "modality": torch.zeros(shape, dtype=torch.long),
        "visual": torch.zeros(len(prompts), 8, WIDTH),
        "audio": torch.zeros(len(prompts), 8, WIDTH),
    }
    for row, ids in enumerate(prompts):
        batch["input_ids"][row, -len(ids) :] = torch.tensor(ids)
        batch["attention_mask"][row, -len(ids) :] = 1
    return batch


def our_part(trainer: GrpoTrainer, case: Case) -> dict[str, list[Rollout]]:
    """The case as a part of our trainer's update, whose prompts are its own."""
    silence = features(*np.zeros((2, 8, WIDTH), dtype=np.float32))
    rollouts = [
        Rollout(
            Clip(id=str(b), labels=("happy",)),
            silence,
            [Sample(tuple(ids), (0.0,) * len(ids), True) for ids in group],
            (),
            (),
            advantages,
        )
        for b, (group, advantages) in enumerate(
            zip(case.completions, case.advantages.tolist(), strict=True)
        )
    ]
    device = trainer.args.device
    batch = {name: tensor.to(device) for name, tensor in text_batch(case.prompts).items()}
    trainer._prompts = lambda examples: batch  # type: ignore[method-assign]
    lengths = [len(ids) for group in case.completions for ids in group]
    trainer.counts = float(len(lengths)), float(sum(lengths))
    trainer.current_gradient_accumulation_steps = 1
    return {"rollouts": rollouts}


def our_outcome(trainer: GrpoTrainer, case: Case) -> Outcome:
    """Loss and gradient of our trainer."""
    part = our_part(trainer, case)
    model = trainer.affect_model
    model.train()
    if case.drift:
        with torch.no_grad():
            now, present = trainer._score(model, part["rollouts"])
        old = now + case.off(now.cpu()).to(now)
        for rollout, row, own in zip(part["rollouts"], old, present, strict=True):
            rollout.old = row[own]
    model.zero_grad()
    loss = trainer.compute_loss(model, part)
    loss.backward()
    return Outcome(float(loss.detach()), gradient(model))


def trl_inputs(case: Case, pad: int, device: Any = "cpu") -> dict[str, Tensor]:
    """The case as TRL's loss is given it: a row a completion."""
    prompts = [
        ids for ids, group in zip(case.prompts, case.completions, strict=True) for _ in group
    ]
    completions = [ids for group in case.completions for ids in group]
    width, longest = max(map(len, prompts)), max(map(len, completions))
    inputs = {
        "prompt_ids": torch.full((len(prompts), width), pad),
        "prompt_mask": torch.zeros(len(prompts), width, dtype=torch.long),
        "completion_ids": torch.full((len(prompts), longest), pad),
        "completion_mask": torch.zeros(len(prompts), longest, dtype=torch.long),
    }
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        inputs["prompt_ids"][row, -len(prompt) :] = torch.tensor(prompt)
        inputs["prompt_mask"][row, -len(prompt) :] = 1
        inputs["completion_ids"][row, : len(completion)] = torch.tensor(completion)
        inputs["completion_mask"][row, : len(completion)] = 1
    inputs["advantages"] = case.advantages.flatten()
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def trl_logprobs(trainer: Any, inputs: dict[str, Tensor]) -> Tensor:
    """TRL's own log-probabilities (B * G, T), without gradient."""
    with torch.no_grad():
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            inputs["completion_ids"].shape[1],
        )
    return torch.as_tensor(logprobs)


def trl_outcome(trainer: Any, case: Case, pad: int) -> Outcome:
    """Loss and gradient of TRL's own GRPO loss."""
    inputs = trl_inputs(case, pad, trainer.args.device)
    trainer.model.train()
    if case.drift:
        present = trl_logprobs(trainer, inputs)
        shape = (*case.advantages.shape, present.shape[-1])
        off = case.off(present.view(shape)).view(present.shape)
        inputs["old_per_token_logps"] = present + off.to(present.device)
    if trainer.beta:
        with trainer.model.disable_adapter():
            inputs["ref_per_token_logps"] = trl_logprobs(trainer, inputs)
    trainer.model.zero_grad()
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return Outcome(float(loss.detach()), gradient(trainer.model))


def gradient(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's gradient by its tensors' names."""
    return {
        name: parameter.grad.detach().cpu().clone()
        for name, parameter in adapter(model).items()
        if parameter.grad is not None
    }
