"""The reward terms that need no judge (PAPER.md, "Five rewards").

Each takes a parsed completion, or words that were read already; none parses text itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from affectgpt_r1.dialogue import Completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import sample_f, sample_jaccard

Agreement = Literal["jaccard", "f"]


def format_reward(completion: Completion) -> float:
    """1 where the completion is exactly its mode's blocks, each non-empty; else 0."""
    return float(completion.well_formed)


def accuracy_reward(
    words: Sequence[str], labels: Sequence[str], lexicon: Lexicon, level: int = 1
) -> float:
    """The emotion-wheel F of words against the labels: the metric itself.

    Of the answer's words it is the accuracy reward, of the thinking's the dual reward. No words
    score 0: they were judged, and name no emotion.
    """
    return sample_f(labels, words, lexicon, level)


def alignment_reward(
    words: Sequence[str],
    thought: Sequence[str],
    lexicon: Lexicon,
    level: int = 1,
    by: Agreement = "jaccard",
) -> float:
    """How far the answer agrees with the thinking, on the wheels; 0 where either names nothing."""
    if by == "f":
        return sample_f(thought, words, lexicon, level)
    return sample_jaccard(thought, words, lexicon, level)
