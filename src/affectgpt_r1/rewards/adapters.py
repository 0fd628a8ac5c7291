"""The reward as other trainers call it: TRL and ms-swift (docs/rewards.md has the commands).

One callable over the core: nothing is rewarded here that `rewards.reward` does not reward. Imports
none of the trainers.
"""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import Mode, parse_completion
from affectgpt_r1.emotion.labels import read_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import Answer
from affectgpt_r1.errors import InputError
from affectgpt_r1.rewards.compose import RewardBreakdown, RewardRule, reward, term_means
from affectgpt_r1.rewards.perception import Judge


class EmotionReward:
    """A reward function of TRL's and ms-swift's shape; may be pickled.

    Args:
        rule: terms, penalty and mode; None: accuracy with p3 and format, as the recipe `reward`.
        lexicon, folder: as in `Lexicon.load`.
        column: the data set's column that holds the labels, as lists or as texts.
        name: under which it is logged; two in one run need two.
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
        name: str = "emotion_reward",
        args: Any = None,
    ) -> None:
        self.rule, self.column = rule or RewardRule(length_penalty="p3"), column
        if self.rule.perception:
            raise InputError("perception compares answers: use `PerceptionReward` beside this")
        self.lexicon = Lexicon.load(lexicon, folder=folder)
        self.__name__ = name  # TRL logs a function by its name

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One reward a completion; None where accuracy or dual counts and no label is known.

        Args:
            completions: texts, or conversations whose last message is the reply.
            **columns: the data set's columns, a value a completion; of TRL's own arguments
                `log_metric` is told the mean of every term.

        Raises:
            InputError: the labels' column is not there, or of another length.
        """
        labels = _column(columns, self.column, completions)
        found = [self.breakdown(*row) for row in zip(completions, labels, strict=True)]
        if tell := columns.get("log_metric"):
            for term, mean in term_means(found).items():
                tell(f"{self.__name__}/{term}", mean)
            unknown = sum(row.accuracy is None for row in found)
            tell(f"{self.__name__}/not_judged", unknown / max(len(found), 1))
        needs_labels = self.rule.accuracy or self.rule.dual
        return [None if row.accuracy is None and needs_labels else row.total for row in found]

    def breakdown(self, completion: Any, labels: Answer) -> RewardBreakdown:
        """One completion's reward, term by term: for tools that ask a completion at a time.

        Args:
            completion: a text, or a conversation whose last message is the reply.
            labels: a list of words, or a text that names them.
        """
        read = parse_completion(_text(completion), self.rule.mode)
        return reward(read, read_words(labels), self.lexicon, self.rule)


class PerceptionReward:
    """The perception reward in TRL's shape: which completions of a group fit their clip best.

    A group is what shares its clip in one call, so a process must be given whole groups (TRL:
    `per_device_train_batch_size` a multiple of `num_generations`).

    Args:
        judge: as `perception.PairwiseJudge`.
        column: the data set's column with the clips' files; `subtitle` is read where it is there.
        mode: of the completions.
        name: under which it is logged.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        column: str = "video",
        mode: Mode = "answer",
        name: str = "perception",
    ) -> None:
        self.judge, self.column, self.mode = judge, column, mode
        self.__name__ = name

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """One value a completion; None for all of a group that could not be judged.

        Raises:
            InputError: the clips' column is not there, or of another length.
        """
        videos = _column(columns, self.column, completions)
        subtitles = columns.get("subtitle") or [""] * len(videos)
        groups: dict[Clip, list[int]] = {}
        for i, (video, subtitle) in enumerate(zip(videos, subtitles, strict=True)):
            clip = Clip(id=str(video), video=Path(video), subtitle=subtitle or "")
            groups.setdefault(clip, []).append(i)
        words = [parse_completion(_text(c), self.mode).words for c in completions]
        judged = self.judge([(clip, [words[i] for i in at]) for clip, at in groups.items()])
        places = [i for at in groups.values() for i in at]
        values = dict(zip(places, chain.from_iterable(judged), strict=True))
        return [values[i] for i in range(len(completions))]


def emotion_reward(completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """`EmotionReward()` as a function, for command lines that take a dotted path."""
    return EmotionReward()(completions, **columns)


def _column(columns: dict[str, Any], name: str, completions: Sequence[Any]) -> Sequence[Any]:
    """A column of as many rows as there are completions."""
    rows = columns.get(name)
    if rows is not None and len(rows) == len(completions):
        return list(rows)
    given = "is not there" if rows is None else f"has {len(rows)} rows"
    raise InputError(
        f"column {name!r} {given} for {len(completions)} completions: name another one "
        f"(here: {', '.join(sorted(columns)) or 'none'})"
    )


def _text(completion: Any) -> str:
    """A completion's text; of a conversation the last message's, with what it thought before."""
    if isinstance(completion, str):
        return completion
    message = completion[-1] if completion else {}
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    # TRL takes the thinking out of a reply where a model's template says how.
    thought = message.get("reasoning_content") or message.get("thinking")
    return f"<think>{thought}</think>{content}" if thought else content
