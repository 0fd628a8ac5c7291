"""The perception judge that needs no server: how likely a frozen model holds each answer.

It is a model of this project that sees the clip, such as the one that GRPO starts from.
"""

from collections.abc import Mapping, Sequence
from math import exp

import torch

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import target_text
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.evaluation.predict import Predictor
from affectgpt_r1.model.shared_prefix import completion_logprobs
from affectgpt_r1.perception.features import Features
from affectgpt_r1.rewards.perception import By, Group, group_values, shown_words


class LikelihoodJudge:
    """Ranks a group's answers by their mean log-probability a token, given the clip.

    As with the pairwise judge only words that the lexicon knows count, sorted, and an answer
    without any loses. The mean a token, since a sum would favour the answer with fewer words.

    Args:
        predictor: the frozen model.
        features: of every clip that may be judged, by id, as its encoders make them.
        lexicon: what is a word.
        by: what an answer gets.
    """

    def __init__(
        self, predictor: Predictor, features: Mapping[str, Features], lexicon: Lexicon, by: By
    ) -> None:
        self.model, self.processor = predictor.model.eval(), predictor.processor
        self.features, self.lexicon, self.by = features, lexicon, by

    def __call__(self, groups: Sequence[Group]) -> list[list[float | None]]:
        """Judge all groups; nothing is left unjudged."""
        return [self._values(clip, answers) for clip, answers in groups]

    @torch.no_grad()
    def _values(self, clip: Clip, answers: Sequence[Sequence[str]]) -> list[float | None]:
        shown = [shown_words(words, self.lexicon) for words in answers]
        distinct = sorted({words for words in shown if words})
        strengths: dict[tuple[str, ...], float] = {}
        if distinct:
            features, view = self.features[clip.id], self.model.config.view
            prompt = self.processor.ask(clip.subtitle, features, view=view)
            batch = self.processor.batch([prompt], [features], self.model.device)
            ids = [self.processor.target(target_text(words, None, "answer")) for words in distinct]
            logprobs, present = completion_logprobs(self.model, batch, [ids])  # (1, n, T)
            means = (logprobs.sum(-1) / present.sum(-1))[0].tolist()
            strengths = {words: exp(mean) for words, mean in zip(distinct, means, strict=True)}
        return [*group_values([strengths.get(words) for words in shown], self.by)]
