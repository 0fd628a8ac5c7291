"""Phase 1, cold start: supervised tuning, loss on the target only (PAPER.md, MODEL.md).

The think block learns the clip's description, the answer block its labels. Each sample draws the
description or the label question, as the authors' data does.
"""

import random
from typing import Any

import torch

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import ColdStartRecipe
from affectgpt_r1.dialogue import Mode, Part, target_text
from affectgpt_r1.model.processing import TokenisedPrompt
from affectgpt_r1.model.sampling import seed_of
from affectgpt_r1.model.shared_prefix import completion_logprobs
from affectgpt_r1.perception.features import Features
from affectgpt_r1.training.trainer import RunTrainer


class ColdStartTrainer(RunTrainer):
    """Trains on prompt and target; the recipe says in which modes.

    Args:
        model, processor, examples: as in `RunTrainer`; every clip has labels.
        recipe: modes, dropout, optimizer, run.
        progress, held_out: as there.
    """

    recipe: ColdStartRecipe
    tokens: Any = 1.0  # targets' of the update, over all its parts

    def get_batch_samples(self, *given: Any, **settings: Any) -> tuple[list[Any], None]:
        """One update's micro-batches; their target tokens are counted."""
        batches, _ = super().get_batch_samples(*given, **settings)
        targets = [self._example(*one)[1] for batch in batches for one in batch["examples"]]
        count = torch.tensor(float(sum(map(len, targets))), device=self.args.device)
        # Processes average their gradients: each divides by the mean number of tokens.
        self.tokens = self.accelerator.reduce(count, "mean")
        return batches, None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """A part's share of the mean cross-entropy of the update's target tokens.

        Prompts and targets are one row without padding, and only targets meet the head.
        """
        features = [found for _, found in inputs["examples"]]
        prompts, targets = zip(*(self._example(*one) for one in inputs["examples"]), strict=True)
        batch = self.processor.batch(prompts, features, self.args.device)
        logprobs, _ = completion_logprobs(model, batch, [[target] for target in targets])
        share = -logprobs.sum() / self.tokens
        return share * self.current_gradient_accumulation_steps  # the Trainer divides by it

    def _example(self, clip: Clip, features: Features) -> tuple[TokenisedPrompt, list[int]]:
        recipe = self.recipe
        draw = random.Random(seed_of(recipe.run.seed, self.state.global_step, clip.id))
        think = draw.random() < recipe.think_share and clip.description is not None
        mode: Mode = "think" if think else "answer"
        lost = draw.choice(tuple(Part))
        without = (lost,) if draw.random() < recipe.modality_dropout else ()
        labels = list(clip.labels or ())
        if recipe.shuffle_labels:
            draw.shuffle(labels)
        view = self.affect_model.config.view
        prompt = self.processor.ask(
            clip.subtitle, features, view=view, mode=mode, without=without, training=True
        )
        target = target_text(tuple(labels), clip.description, mode)
        return prompt, self.processor.target(target)
