"""The reward as other trainers call it: TRL and ms-swift (docs/rewards.md has the commands).

One callable over the core: nothing is rewarded here that `rewards.reward` does not reward. Imports
none of the trainers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import fsum
from pathlib import Path
from typing import Any

from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.labels import read_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.rewards.compose import TERMS, RewardBreakdown, RewardRule, reward


class EmotionReward:
    """A reward function of TRL's and ms-swift's shape; may be pickled.

    Args:
        rule: terms, penalty and mode.
        lexicon, folder: as in `Lexicon.load`.
        column: the data set's column that holds the labels, as lists or as texts.
        args: ms-swift's own; not read.

    >>> EmotionReward()(["<answer>happy</answer>"], labels=["joyful, glad"])
    [2.0]
    """

    def __init__(
        self,
        rule: RewardRule | None = None,
        *,
        lexicon: str = "builtin",
        folder: Path | str | None = None,
        column: str = "labels",
        args: Any = None,
    ) -> None:
        self.rule, self.column = rule or RewardRule(), column
        self.lexicon = Lexicon.load(lexicon, folder=folder)
        self.__name__ = "emotion_reward"  # TRL logs a function by its name

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One reward a completion; None where no label is known, so that nothing can be said.

        Args:
            completions: texts, or conversations whose last message is the reply.
            **columns: the data set's columns, a value a completion; of TRL's own arguments
                `log_metric` is told the mean of every term.

        Raises:
            InputError: the labels' column is not there, or of another length.
        """
        labels = columns.get(self.column)
        if labels is None or len(labels) != len(completions):
            given = "is not there" if labels is None else f"has {len(labels)} rows"
            raise InputError(
                f"column {self.column!r} {given} for {len(completions)} completions: name the "
                f"labels' column (here: {', '.join(sorted(columns)) or 'none'})"
            )
        found = [
            reward(
                parse_completion(_text(completion), self.rule.mode),
                read_words(row),
                self.lexicon,
                self.rule,
            )
            for completion, row in zip(completions, labels, strict=True)
        ]
        if tell := columns.get("log_metric"):
            _log(found, tell)
        return [None if row.accuracy is None else row.total for row in found]


def emotion_reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """`EmotionReward()` as a function, for command lines that take a dotted path."""
    return _default()(completions, **columns)


@cache
def _default() -> EmotionReward:
    return EmotionReward()


def _text(completion: Any) -> str:
    """A completion's text; of a conversation the last message's, its text parts joined."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def _log(found: Sequence[RewardBreakdown], tell: Callable[[str, float], None]) -> None:
    for name in (*TERMS, "penalty"):
        values = [value for row in found if (value := getattr(row, name)) is not None]
        if values:
            tell(f"emotion/{name}", fsum(values) / len(values))
    tell("emotion/not_judged", sum(row.accuracy is None for row in found) / max(len(found), 1))
