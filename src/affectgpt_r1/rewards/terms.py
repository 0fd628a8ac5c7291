"""The reward terms that need no judge: format and accuracy (PAPER.md, "Five rewards").

Each takes a parsed completion; none parses text itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from affectgpt_r1.dialogue import Completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import sample_f


def format_reward(completion: Completion) -> float:
    """1 where the completion is exactly its mode's blocks, each non-empty; else 0."""
    return float(completion.well_formed)


def accuracy_reward(
    completion: Completion, labels: Sequence[str], lexicon: Lexicon, level: int = 1
) -> float:
    """The emotion-wheel F of the answer's words against the labels: the metric itself.

    No answer scores 0: it was judged, and names no emotion.
    """
    return sample_f(labels, completion.words, lexicon, level)
