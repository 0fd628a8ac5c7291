"""The emotion reward in verifiers 0.4.0: a taskset over a file of prompts and labels.

    PYTHONPATH=examples vf-eval verifiers_taskset --env.taskset.rows rows.jsonl \
      --env.agent.harness.id null --env.agent.runtime.type subprocess --no-push \
      --model MODEL --client.base-url URL --env.taskset.task.terms.format 0.2

Each line: `{"prompt": "How does she feel? ...", "labels": ["sad"], "id": "a"}`; a prompt may be a
list of chat messages, the labels a text, and `id` may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import verifiers.v1 as vf
from pydantic import ConfigDict

from affectgpt_r1.config import LengthPenalty, RewardSettings
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.files import read_rows
from affectgpt_r1.rewards import RewardBreakdown, RewardRule, term_means
from affectgpt_r1.rewards.adapters import EmotionReward

__all__ = ["EmotionTaskset"]


class EmotionData(vf.TaskData):
    """A row: its prompt and its true words."""

    prompt: str | vf.Messages
    labels: list[str] | str


class EmotionTerms(RewardSettings):
    """The weights and the penalty; numbers may come as the texts of a command line."""

    model_config = ConfigDict(strict=False)

    length_penalty: LengthPenalty = "p3"


class EmotionConfig(vf.TaskConfig):
    """What is rewarded, under `--env.taskset.task`: `.mode`, `.terms.format`, ..."""

    mode: Mode = "answer"
    terms: EmotionTerms = EmotionTerms()


class EmotionTask(vf.Task[EmotionData, vf.State, EmotionConfig]):
    """The reward of one row's completions."""

    @vf.reward
    async def emotion(self, trace: vf.Trace) -> float:
        """The total: the one thing that is rewarded."""
        return self._breakdown(trace).total

    @vf.metric
    async def terms(self, trace: vf.Trace) -> dict[str, float]:
        """Every term that was judged, logged alone; no accuracy where no lexicon knows a label.

        The total is then that of the other terms; a group shares its labels, so its advantages
        are right all the same.
        """
        return term_means([self._breakdown(trace)])

    def _breakdown(self, trace: vf.Trace) -> RewardBreakdown:
        reward = EmotionReward(RewardRule.of(self.config.terms, self.config.mode))
        # Not `last_reply`: it is without the thinking that a server took out of the text.
        last = [message.model_dump() for message in trace.assistant_messages[-1:]]
        return reward.breakdown(last, self.data.labels)


class EmotionTasksetConfig(vf.TasksetConfig):
    """Where the rows are."""

    rows: Path = Path("rows.jsonl")
    task: EmotionConfig = EmotionConfig()


class EmotionTaskset(vf.Taskset[EmotionTask, EmotionTasksetConfig]):
    """A task a line."""

    def load(self) -> Iterator[EmotionTask]:
        """Read the whole file first: all its wrong lines are told at once."""
        rows, nothing = self.config.rows, "no prompt is in it"
        for data in read_rows(rows, lambda _, row: EmotionData.model_validate(row), nothing):
            yield EmotionTask(data, self.config.task)
