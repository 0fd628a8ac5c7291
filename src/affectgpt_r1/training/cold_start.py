"""Phase 1, cold start: supervised tuning, loss on the target only (PAPER.md, MODEL.md).

The think block learns the clip's description, the answer block its labels. Each sample draws the
description or the label question, as the authors' data does.
"""

import random
from typing import Any

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

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean cross-entropy of the batch's target tokens.

        Prompts and targets are one row without padding, and only targets meet the head.
        """
        prompts, targets, features = [], [], []
        for clip, clip_features in inputs["examples"]:
            seed = seed_of(self.recipe.run.seed, self.state.global_step, clip.id)
            prompt, target = self._example(clip, clip_features, random.Random(seed))
            prompts.append(prompt)
            targets.append([target])
            features.append(clip_features)
        batch = self.processor.batch(prompts, features, self.args.device)
        logprobs, present = completion_logprobs(model, batch, targets)
        # Processes average their gradients: each divides by the mean number of tokens.
        tokens = self.accelerator.reduce(present.sum().float(), "mean")
        return -logprobs.sum() / tokens

    def _example(
        self, clip: Clip, features: Features, draw: random.Random
    ) -> tuple[TokenisedPrompt, list[int]]:
        recipe = self.recipe
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
