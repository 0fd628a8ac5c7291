"""Phase 2: GRPO with the emotion-wheel score as reward (PAPER.md, "Two phases").

For each clip: the prompt is computed once, G completions are sampled from its cache, each is
rewarded by the metric's own function, and one update follows. Names follow TRL's GRPOConfig. With
one update a batch the old log-probabilities are the detached new ones, so the ratio is 1 and its
clipping never bites: neither is configured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import GrpoRecipe
from affectgpt_r1.dialogue import Completion, parse_completion, prompt_pieces
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.sampling import Sample, SamplingSettings, sample, seed_of
from affectgpt_r1.perception.features import Features
from affectgpt_r1.rewards import RewardBreakdown, RewardRule, reward
from affectgpt_r1.training.advantages import group_advantages
from affectgpt_r1.training.run_folder import append_json
from affectgpt_r1.training.shared_prefix import completion_logprobs
from affectgpt_r1.training.trainer import Examples, Progress, RunTrainer


@dataclass(frozen=True, slots=True)
class Rollout:
    """One clip's group: what was sampled, read and rewarded.

    Attributes:
        clip: whose prompt it was.
        samples, completions, rewards: G of each.
    """

    clip: Clip
    samples: tuple[Sample, ...]
    completions: tuple[Completion, ...]
    rewards: tuple[RewardBreakdown, ...]


class GrpoTrainer(RunTrainer):
    """Samples, rewards and updates.

    Args:
        model, processor, examples: as in `RunTrainer`; every clip has labels.
        recipe: rollouts, rewards, loss, optimizer, run.
        lexicon: the reward's words to classes.
        progress: told of each update.
    """

    def __init__(
        self,
        model: AffectGPTForConditionalGeneration,
        processor: AffectGPTProcessor,
        examples: Examples,
        *,
        recipe: GrpoRecipe,
        lexicon: Lexicon,
        progress: Progress,
    ) -> None:
        self.recipe, self.lexicon = recipe, lexicon
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # else sampler and loss would be two different policies
        super().__init__(
            model,
            processor,
            examples,
            optimizer=recipe.optimizer,
            run=recipe.run,
            progress=progress,
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Roll out the batch's clips and return the policy-gradient loss."""
        examples: list[tuple[Clip, Features]] = inputs["examples"]
        batch = self._prepare_inputs(self._prompts(examples))
        rollouts = self._rollouts([clip for clip, _ in examples], batch)
        totals = np.array([[r.total for r in rollout.rewards] for rollout in rollouts])
        advantages, varied = group_advantages(totals, self.recipe.scale_rewards)
        self._report(rollouts, totals, varied)
        kept = np.flatnonzero(varied) if self.recipe.beta == 0 else np.arange(len(rollouts))
        if not len(kept):
            # Nothing to learn from this batch; every parameter still takes part, with weight 0.
            return sum((p.sum() for p in self.affect_model.trained_state().values()), 0.0) * 0.0
        part = {name: tensor[torch.from_numpy(kept)] for name, tensor in batch.items()}
        skipped = [len(s.ids) for i in np.flatnonzero(~varied) for s in rollouts[i].samples]
        skipped = skipped if self.recipe.beta == 0 else []
        loss = self._loss([rollouts[i] for i in kept], part, advantages[kept], skipped)
        self.check_finite("the loss", loss)
        return loss

    def _prompts(self, examples: Sequence[tuple[Clip, Features]]) -> dict[str, Tensor]:
        prompts = [
            self.processor.prompt(
                prompt_pieces(
                    clip.subtitle,
                    mode=self.recipe.mode,
                    view="face" if self.affect_model.config.view == "face" else "frame",
                    has_audio=features.has_audio,
                    has_visual=features.has_visual,
                )
            )
            for clip, features in examples
        ]
        return self.processor.batch(prompts, [features for _, features in examples])

    def _rollouts(self, clips: Sequence[Clip], batch: dict[str, Tensor]) -> list[Rollout]:
        settings, rule = self.recipe.rollout, self.recipe.rewards
        self.affect_model.eval()
        groups = sample(
            self.affect_model,
            self.processor,
            batch,
            seeds=[
                [
                    seed_of(self.recipe.run.seed, self.state.global_step, clip.id, g)
                    for g in range(settings.num_generations)
                ]
                for clip in clips
            ],
            settings=SamplingSettings(
                settings.max_completion_length, settings.temperature, settings.top_p, settings.top_k
            ),
        )
        self.affect_model.train()
        reward_rule = RewardRule(rule.accuracy, rule.format, rule.length_penalty, rule.level)
        rollouts = []
        for clip, samples in zip(clips, groups, strict=True):
            completions = tuple(
                parse_completion(self.processor.text(s.ids), self.recipe.mode) for s in samples
            )
            rewards = tuple(
                reward(completion, clip.labels or (), self.lexicon, reward_rule)
                for completion in completions
            )
            rollouts.append(Rollout(clip, tuple(samples), completions, rewards))
        return rollouts

    def _loss(
        self,
        rollouts: Sequence[Rollout],
        batch: dict[str, Tensor],
        advantages: NDArray[np.float64],
        skipped: Sequence[int],
    ) -> Tensor:
        recipe, model = self.recipe, self.affect_model
        ids = [[s.ids for s in rollout.samples] for rollout in rollouts]
        temperature = recipe.rollout.temperature
        logprobs, present = completion_logprobs(model, batch, ids, temperature=temperature)
        if recipe.mask_truncated_completions:
            finished = [[s.finished for s in rollout.samples] for rollout in rollouts]
            present = present & torch.tensor(finished, device=present.device)[..., None]
        self._report_drift(rollouts, logprobs.detach())
        weights = torch.from_numpy(advantages).to(logprobs)[..., None]  # (B, G, 1)
        per_token = -torch.exp(logprobs - logprobs.detach()) * weights  # (B, G, T)
        if recipe.beta:
            with torch.no_grad(), model.adapter_off():
                reference, _ = completion_logprobs(model, batch, ids, temperature=temperature)
            gap = reference - logprobs
            divergence = torch.exp(gap) - gap - 1
            per_token = per_token + recipe.beta * divergence
            self.record({"kl": float((divergence * present).sum() / present.sum().clamp(min=1))})
        return average(
            per_token, present, recipe.loss_type, recipe.rollout.max_completion_length, skipped
        )

    def _report_drift(self, rollouts: Sequence[Rollout], logprobs: Tensor) -> None:
        """How far the sampler's log-probabilities lie from the loss's: they are one policy."""
        scored = logprobs.tolist()
        drift = max(
            abs(value - scored[b][g][t])
            for b, rollout in enumerate(rollouts)
            for g, s in enumerate(rollout.samples)
            for t, value in enumerate(s.logprobs)
        )
        self.record({"sampler_drift": drift})

    def _report(
        self, rollouts: Sequence[Rollout], totals: NDArray[np.float64], varied: NDArray[np.bool_]
    ) -> None:
        """Log what reward hacking looks like, and keep the rollouts themselves."""
        completions = [c for rollout in rollouts for c in rollout.completions]
        rewards = [r for rollout in rollouts for r in rollout.rewards]
        words = [word for c in completions for word in c.words]
        samples = [s for rollout in rollouts for s in rollout.samples]
        judged = [r.accuracy for r in rewards if r.accuracy is not None]
        figures = {
            "reward": float(totals.mean()),
            "reward_std": float(totals.std(axis=1, ddof=1).mean()),
            "format": float(np.mean([r.format for r in rewards])),
            "penalty": float(np.mean([r.penalty for r in rewards])),
            "not_judged": float(len(rewards) - len(judged)),
            "words_per_answer": len(words) / len(completions),
            "distinct_answers": len({c.words for c in completions}) / len(completions),
            "frac_reward_zero_std": float(1 - varied.mean()),
            "truncated": float(np.mean([not s.finished for s in samples])),
            "completion_tokens": float(np.mean([len(s.ids) for s in samples])),
        }
        if judged:
            figures["accuracy"] = float(np.mean(judged))
        if words:
            figures["coverage"] = sum(map(self.lexicon.knows, words)) / len(words)
        self.record(figures)
        if self.is_world_process_zero():
            for rollout in rollouts:
                append_json(
                    self.run_folder / "rollouts.jsonl",
                    {
                        "step": self.state.global_step + 1,
                        "id": rollout.clip.id,
                        "labels": list(rollout.clip.labels or ()),
                        "completions": [c.text for c in rollout.completions],
                        "rewards": [asdict(r) for r in rollout.rewards],
                    },
                )


def average(
    per_token: Tensor,
    present: Tensor,
    loss_type: str,
    max_completion_length: int,
    skipped: Sequence[int] = (),
) -> Tensor:
    """Average a token loss as TRL's loss types do.

    Args:
        per_token: (B, G, T).
        present: (B, G, T) bool.
        loss_type: grpo: over a completion's tokens, then over completions; dapo: over all tokens;
            dr_grpo: over completions times `max_completion_length`.
        max_completion_length: dr_grpo's constant.
        skipped: lengths of the completions that were left out because their advantages are 0:
            their loss is 0, but they count in the averages.
    """
    kept = present.to(per_token.dtype)
    completions = per_token.shape[0] * per_token.shape[1] + len(skipped)
    if loss_type == "grpo":
        lengths = kept.sum(-1).clamp(min=1)
        return ((per_token * kept).sum(-1) / lengths).sum() / completions
    if loss_type == "dapo":
        return (per_token * kept).sum() / (kept.sum() + sum(skipped)).clamp(min=1)
    return (per_token * kept).sum() / (completions * max_completion_length)
