"""Phase 2: GRPO with the emotion-wheel score as reward (PAPER.md, "Two phases").

For each clip: the prompt is computed once, G completions are sampled from its cache, each is
rewarded by the metric's own function, and one or more updates follow. Names and meanings are those
of TRL's GRPOConfig. The old log-probabilities are the detached ones of the first update: no pass of
their own.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import GrpoRecipe
from affectgpt_r1.dialogue import Completion, parse_completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import append_row
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.sampling import Sample, SamplingSettings, sample, seed_of
from affectgpt_r1.model.sharding import is_sharded
from affectgpt_r1.model.shared_prefix import completion_logprobs
from affectgpt_r1.perception.features import Features
from affectgpt_r1.rewards import RewardBreakdown, RewardRule, reward, term_means
from affectgpt_r1.rewards.perception import Judge
from affectgpt_r1.training.trainer import Examples, RunTrainer

#: Below this spread a group counts as equal; TRL's epsilon in the division is the same.
EPSILON = 1e-4


@dataclass(slots=True)
class Rollout:
    """One clip's group: what was sampled, read and rewarded, kept for all updates made on it.

    Attributes:
        clip, features: whose prompt it was.
        samples, completions, rewards: G of each.
        advantages: G of them.
        old: (n,) log-probabilities of all its tokens at the first update; None before it.
        reference: the same of the model that the run began with, where a KL term asks for them.
    """

    clip: Clip
    features: Features
    samples: Sequence[Sample]
    completions: Sequence[Completion]
    rewards: Sequence[RewardBreakdown] = ()
    advantages: Sequence[float] = ()
    old: Tensor | None = None
    reference: Tensor | None = None


class GrpoTrainer(RunTrainer):
    """Samples, rewards and updates.

    Args:
        *given, **settings: as in `RunTrainer`; every clip has labels.
        lexicon: the reward's words to classes.
        judge: for the perception reward.
    """

    recipe: GrpoRecipe

    def __init__(
        self, *given: Any, lexicon: Lexicon, judge: Judge | None = None, **settings: Any
    ) -> None:
        super().__init__(*given, **settings)
        self.lexicon, self.judge = lexicon, judge
        self.rule = RewardRule.of(self.recipe.rewards, self.recipe.mode)
        self.parts: list[dict[str, Any]] = []
        self.counts = (1.0, 1.0)  # completions and tokens of the update, over all its parts
        # Taken now: a run that goes on loads its checkpoint later, and refers to the same model.
        trained = self.affect_model.trained_state().values() if self.recipe.beta else ()
        self.began_with = [(parameter, parameter.detach().clone()) for parameter in trained]
        for module in self.affect_model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # else sampler and loss would be two different policies

    def rewards(
        self, clip: Clip, completions: Sequence[Completion], perception: Sequence[float | None]
    ) -> list[RewardBreakdown]:
        """Reward one clip's completions, given the judge's values; override for other rewards."""
        labels = clip.labels or ()
        judged = zip(completions, perception, strict=True)
        return [reward(c, labels, self.lexicon, self.rule, value) for c, value in judged]

    def get_batch_samples(self, *given: Any, **settings: Any) -> tuple[list[Any], None]:
        """One update's micro-batches: rolled out together, and again at each `num_iterations`."""
        batches, _ = super().get_batch_samples(*given, **settings)
        if self.state.global_step % self.recipe.num_iterations == 0:
            self.parts = self.roll_out([one for batch in batches for one in batch["examples"]])
        self.update = self.parts
        return self.update, None

    def roll_out(self, examples: Examples) -> list[dict[str, Any]]:
        """Sample, reward and normalise the clips of an update, and set them out as its parts."""
        began_s = time.monotonic()
        rollouts = self._rollouts(examples, 0)
        seen, scale = [*rollouts], self.recipe.scale_rewards
        advantages, varied = group_advantages(totals_of(rollouts), scale)
        self._report(rollouts, varied)
        for again in range(1, self.recipe.rollout.max_resamples + 1):
            equal = np.flatnonzero(~varied)
            if not len(equal):
                break
            where = self.state.global_step, self.args.process_index, again
            draw = random.Random(seed_of(self.recipe.run.seed, *where))
            others = draw.sample(self.examples, min(len(equal), len(self.examples)))
            self.update.append({"examples": others})  # kept if a figure is no number
            redrawn = self._rollouts(others, again)
            seen += redrawn
            for place, rollout in zip(equal, redrawn, strict=False):
                rollouts[place] = rollout
            advantages, varied = group_advantages(totals_of(rollouts), scale)
        self.record({"rollout_time_s": time.monotonic() - began_s})
        self.record({"resampled": float(len(seen) - len(rollouts))})
        samples, masked = samples_of(rollouts), self.recipe.mask_truncated_completions
        tokens = sum(len(s.ids) for s in samples if s.finished or not masked)
        drawn = sum(p for s in samples_of(seen) for p in s.logprobs)  # no number where one is none
        sums = [float(len(samples)), float(tokens), drawn]
        totals = self.accelerator.reduce(torch.tensor(sums, device=self.args.device), "mean")
        self.check_finite(log_probability=totals)
        self._keep(rollouts)
        self.counts = float(totals[0]), max(float(totals[1]), 1.0)
        for rollout, row in zip(rollouts, advantages.tolist(), strict=True):
            rollout.advantages = row
        # Groups without variance teach nothing, unless a KL term holds them too; but the parts of a
        # sharded model must run in step.
        kept = varied | bool(self.recipe.beta or is_sharded(self.affect_model))
        size = self.args.train_batch_size
        parts = [slice(i, i + size) for i in range(0, len(rollouts), size)]
        return [{"rollouts": list(compress(rollouts[part], kept[part]))} for part in parts]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """One part's share of the update's loss."""
        if "examples" in inputs:  # an update that ended in its rollouts, replayed
            parts = self.roll_out(inputs["examples"])
            return torch.stack([self.compute_loss(model, part) for part in parts]).sum()
        rollouts: list[Rollout] = inputs["rollouts"]
        if not rollouts:
            return model(run=_nothing)
        recipe = self.recipe
        if recipe.beta and rollouts[0].reference is None:
            with torch.no_grad(), self._at_start():
                scored = self._score(model, rollouts)
            for rollout, row, own in zip(rollouts, *scored, strict=True):
                rollout.reference = row[own]
        logprobs, present = self._score(model, rollouts)
        if rollouts[0].old is None:
            for rollout, row, own in zip(rollouts, logprobs.detach(), present, strict=True):
                rollout.old = row[own]
            # How far the sampler's lie from the loss's: they are one policy.
            sampled = [p for s in samples_of(rollouts) for p in s.logprobs]
            drift = torch.tensor(sampled, dtype=torch.float64) - logprobs.detach()[present].cpu()
            self.record({"sampler_drift": float(drift.abs().max())})
        counted = present
        if recipe.mask_truncated_completions:
            finished = [[s.finished for s in rollout.samples] for rollout in rollouts]
            counted = present & torch.tensor(finished, device=present.device)[..., None]
        ratio = torch.exp(logprobs - _padded([r.old for r in rollouts], present))  # (B, G, T)
        high = recipe.epsilon if recipe.epsilon_high is None else recipe.epsilon_high
        clipped = ratio.clamp(1 - recipe.epsilon, 1 + high)
        weights = logprobs.new_tensor([r.advantages for r in rollouts])[..., None]  # (B, G, 1)
        per_token = -torch.minimum(ratio * weights, clipped * weights)
        if recipe.num_iterations > 1:
            lost = (ratio * weights > clipped * weights) & counted
            self.record({"clip_ratio": float(lost.sum() / counted.sum().clamp(min=1))})
        if recipe.beta:
            gap = _padded([r.reference for r in rollouts], present) - logprobs
            divergence = torch.exp(gap) - gap - 1
            # Times the ratio, as in TRL since 1.16: else its gradient is not the divergence's.
            per_token = per_token + recipe.beta * ratio * divergence
            mean = (divergence.detach() * counted).sum() / counted.sum().clamp(min=1)
            self.record({"kl": float(mean)})
        loss = average(per_token, counted, recipe, *self.counts)
        return loss * self.current_gradient_accumulation_steps  # the Trainer divides by it

    @contextmanager
    def _at_start(self) -> Iterator[None]:
        """Inside the block the model is the one that the run began with: a KL term's reference."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        model: Any = self.affect_model
        if is_sharded(model):
            model.reshard()  # after a forward pass the outer part is whole, and would be read so
        for parameter, other in self.began_with:
            now = parameter.detach().clone()
            parameter.data.copy_(other)  # not as an operation on what a gradient may wait for
            other.copy_(now)

    def _score(self, model: Any, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        batch = self._prompts([(rollout.clip, rollout.features) for rollout in rollouts])
        ids = [[s.ids for s in rollout.samples] for rollout in rollouts]
        return completion_logprobs(model, batch, ids, temperature=self.recipe.rollout.temperature)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.recipe.num_iterations == 1:
            return super()._get_train_sampler(train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        size, count = size * self.args.world_size, len(self.examples)
        if count < size:
            raise InputError(
                f"{count} clips are fewer than the {size} of one update, which num_iterations="
                f"{self.recipe.num_iterations} asks for whole: lower optimizer.batch_size"
            )
        return _Repeats(count, size, self.recipe.num_iterations, self.recipe.run.seed)

    def _prompts(self, examples: Sequence[tuple[Clip, Features]]) -> dict[str, Tensor]:
        view, mode = self.affect_model.config.view, self.recipe.mode
        ask = partial(self.processor.ask, view=view, mode=mode)
        prompts = [ask(clip.subtitle, features) for clip, features in examples]
        found = [features for _, features in examples]
        return self.processor.batch(prompts, found, self.args.device)

    def _rollouts(self, examples: Sequence[tuple[Clip, Features]], attempt: int) -> list[Rollout]:
        settings, when = self.recipe.rollout, (self.recipe.run.seed, self.state.global_step)
        draws = range(settings.num_generations)
        again = (attempt,) if attempt else ()
        self.affect_model.eval()
        seeds = [[seed_of(*when, clip.id, g, *again) for g in draws] for clip, _ in examples]
        drawn_as = settings.temperature, settings.top_p, settings.top_k
        how = SamplingSettings(settings.max_completion_length, *drawn_as)
        # Unwrapped: DDP would have all processes draw equally often.
        model, prompts = self.affect_model, self._prompts(examples)
        groups = sample(model, self.processor, prompts, seeds=seeds, settings=how)
        self.affect_model.train()
        began_s = time.monotonic()
        rollouts = []
        for example, samples in zip(examples, groups, strict=True):
            texts = [self.processor.text(s.ids) for s in samples]
            said = [parse_completion(text, self.recipe.mode) for text in texts]
            rollouts.append(Rollout(*example, samples, said))
        asked = [(r.clip, [c.words for c in r.completions]) for r in rollouts]
        none: list[list[float | None]] = [[None] * len(draws) for _ in rollouts]
        judged = self.judge(asked) if self.judge else none
        for rollout, values in zip(rollouts, judged, strict=True):
            rollout.rewards = self.rewards(rollout.clip, rollout.completions, values)
        self.record({"reward_time_s": time.monotonic() - began_s})
        return rollouts

    def _report(self, rollouts: Sequence[Rollout], varied: NDArray[np.bool_]) -> None:
        """Log what reward hacking looks like."""
        completions = [c for rollout in rollouts for c in rollout.completions]
        rewards = [r for rollout in rollouts for r in rollout.rewards]
        totals = totals_of(rollouts)
        words = [word for c in completions for word in c.words]
        samples = samples_of(rollouts)
        figures = {
            "reward": float(totals.mean()),
            "reward_std": float(totals.std(axis=1, ddof=1).mean()),
            "not_judged": float(sum(r.accuracy is None for r in rewards)),
            "words_per_answer": len(words) / len(completions),
            "distinct_answers": len({c.words for c in completions}) / len(completions),
            "frac_reward_zero_std": float(1 - varied.mean()),
            "truncated": float(np.mean([not s.finished for s in samples])),
            "completion_tokens": float(np.mean([len(s.ids) for s in samples])),
        }
        if self.judge is not None:
            figures["perception_not_judged"] = float(sum(r.perception is None for r in rewards))
        figures |= term_means(rewards)
        if words:
            figures["coverage"] = sum(map(self.lexicon.knows, words)) / len(words)
        self.record(figures)

    def _keep(self, rollouts: Sequence[Rollout]) -> None:
        rows = [
            {
                "step": self.state.global_step + 1,
                "id": rollout.clip.id,
                "labels": list(rollout.clip.labels or ()),
                "completions": [c.text for c in rollout.completions],
                "rewards": [asdict(r) for r in rollout.rewards],
            }
            for rollout in rollouts
        ]
        for row in gather_object(rows):
            if self.is_world_process_zero():
                append_row(self.run_folder / "rollouts.jsonl", row)


def _nothing(model: AffectGPTForConditionalGeneration) -> Tensor:
    """The loss of a part without anything to learn: each parameter takes part with weight 0."""
    return torch.stack([p.sum() for p in model.trained_state().values()]).sum() * 0.0


def _padded(values: Sequence[Any], present: Tensor) -> Tensor:
    """Rollouts' tokens at their places: (B, G, T)."""
    flat = torch.cat([*values]).to(present.device)
    return flat.new_zeros(present.shape).masked_scatter(present, flat)


def group_advantages(
    rewards: NDArray[np.float64], scale: Literal["group", "batch", "none"] = "group"
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centre each group's rewards and scale them.

    Args:
        rewards: (B, G).
        scale: divide by the group's or the batch's standard deviation (ddof 1), or not.

    Returns:
        advantages (B, G), and which groups vary at all (B,).

    >>> group_advantages(np.array([[0.0, 1.0], [0.5, 0.5]]))[1].tolist()
    [True, False]
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    varied = rewards.std(axis=1, ddof=1) > EPSILON
    if scale == "group":
        centred = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + EPSILON)
    elif scale == "batch":
        centred = centred / (rewards.std(ddof=1) + EPSILON)
    return centred * varied[:, None], varied


def samples_of(rollouts: Sequence[Rollout]) -> list[Sample]:
    """The samples of all groups."""
    return [sampled for rollout in rollouts for sampled in rollout.samples]


def totals_of(rollouts: Sequence[Rollout]) -> NDArray[np.float64]:
    """The total rewards of B groups: (B, G)."""
    return np.array([[r.total for r in rollout.rewards] for rollout in rollouts])


def average(
    per_token: Tensor, present: Tensor, recipe: GrpoRecipe, completions: float, tokens: float
) -> Tensor:
    """A part's share of an update's loss, averaged as TRL's loss types do.

    Args:
        per_token: (B, G, T).
        present: (B, G, T) bool.
        recipe: its loss type: grpo: over a completion's tokens, then over completions; dapo: over
            all tokens; dr_grpo: over completions times the longest that they may be.
        completions, tokens: of the whole update, with those left out because their advantages,
            and so their losses, are 0.
    """
    kept = per_token * present
    if recipe.loss_type == "grpo":
        return (kept.sum(-1) / present.sum(-1).clamp(min=1)).sum() / completions
    if recipe.loss_type == "dapo":
        return kept.sum() / tokens
    return kept.sum() / (completions * recipe.rollout.max_completion_length)


class _Repeats(torch.utils.data.Sampler[int]):
    """Shuffled indices in which every update's worth stands several times in a row.

    An epoch's last clips, where they are too few for an update, wait for another epoch.
    """

    def __init__(self, size: int, update: int, times: int, seed: int) -> None:
        self.size, self.update, self.times, self.seed, self.epoch = size, update, times, seed, 0

    def __len__(self) -> int:
        return self.size // self.update * self.update * self.times

    def __iter__(self) -> Iterator[int]:
        order = random.Random(seed_of(self.seed, self.epoch)).sample(range(self.size), self.size)
        for start in range(0, self.size - self.update + 1, self.update):
            for _ in range(self.times):
                yield from order[start : start + self.update]

    def set_epoch(self, epoch: int) -> None:
        """Shuffle otherwise in each epoch."""
        self.epoch = epoch
