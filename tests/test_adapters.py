"""The reward inside other trainers: their signatures, and TRL's own training loop."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoTokenizer
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from affectgpt_r1.errors import InputError
from affectgpt_r1.model.profiles import NANO_FOLDER, nano_language_model
from affectgpt_r1.rewards import RewardRule
from affectgpt_r1.rewards.adapters import EmotionReward, PerceptionReward, emotion_reward
from affectgpt_r1.rewards.perception import Group

HAPPY, SAD = "<answer>happy</answer>", "<answer>sad</answer>"
PROMPT = "How does she feel?"


def test_plain_and_conversational_completions_are_one() -> None:
    plain = emotion_reward([HAPPY, "no idea"], labels=[["joyful"], ["joyful"]])
    chat = emotion_reward(
        [[{"role": "assistant", "content": HAPPY}], [{"role": "assistant", "content": "no idea"}]],
        labels=[["joyful"], ["joyful"]],
    )
    parts = emotion_reward(
        [[{"role": "assistant", "content": [{"type": "text", "text": HAPPY}]}], []],
        labels=[["joyful"], ["joyful"]],
    )
    assert plain == chat == parts == [2.0, 0.0]


@pytest.mark.parametrize("labels", [["joyful", "glad"], "joyful, glad", "['joyful', 'glad']"])
def test_labels_come_as_lists_or_texts_in_any_column(labels: Any) -> None:
    assert EmotionReward(column="solution")([HAPPY], solution=[labels]) == [2.0]


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match=r"'labels' is not there .* \(here: solution\)"):
        emotion_reward([HAPPY], solution=["happy"])
    with pytest.raises(InputError, match="has 1 rows for 2 completions"):
        emotion_reward([HAPPY, HAPPY], labels=["happy"])


def test_unknown_labels_are_no_zero() -> None:
    assert emotion_reward([HAPPY, HAPPY], labels=["qwertyuiop", "happy"]) == [None, 2.0]


def test_it_survives_pickling_and_ms_swift_makes_it() -> None:
    made = EmotionReward(args=object())
    kept = pickle.dumps(EmotionReward(RewardRule(length_penalty="p2")))
    again = pickle.loads(kept)  # noqa: S301 - our own bytes
    assert made([HAPPY], solution=None, labels=["happy"]) == [2.0]
    assert again(["<answer>happy, glad</answer>"], labels=["happy"]) == [1.5]


def test_every_term_is_told() -> None:
    told: dict[str, float] = {}
    emotion_reward([HAPPY, "no"], labels=["happy", "qwertyuiop"], log_metric=told.__setitem__)
    assert told == {
        "emotion_reward/format": 0.5,
        "emotion_reward/accuracy": 1.0,
        "emotion_reward/penalty": 1.0,
        "emotion_reward/not_judged": 0.5,
    }


def test_terms_without_labels_need_none() -> None:
    form = EmotionReward(RewardRule(accuracy=0.0), name="format")
    assert form.__name__ == "format"
    assert form([HAPPY, "no"], labels=["qwertyuiop", "qwertyuiop"]) == [1.0, 0.0]


def test_a_thinking_that_was_parsed_away_is_read() -> None:
    message = {"role": "assistant", "reasoning_content": "She is sad.", "content": SAD}
    rule = RewardRule(dual=1.0, mode="think")
    whole = EmotionReward(rule)([f"<think>She is sad.</think>{SAD}"], labels=["sad"])
    assert EmotionReward(rule)([[message]], labels=["sad"]) == whole == [3.0]


def test_trl_trains_with_it(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    model = taught(nano_language_model(seed=0), tokenizer)
    before = model.lm_head.weight.detach().clone()
    rows = [{"prompt": PROMPT, "emotions": ["happy", "glad"], "video": "a.mp4"}] * 4
    groups: list[Group] = []

    def judge(asked: Sequence[Group]) -> list[list[float | None]]:
        groups.extend(asked)
        if len(groups) == 2:  # a server that is away for one step
            return [[None] * len(answers) for _, answers in asked]
        return [[float("happy" in words) for words in answers] for _, answers in asked]

    trainer: Any = GRPOTrainer(
        model=model,
        reward_funcs=[EmotionReward(column="emotions"), PerceptionReward(judge)],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=16,
            max_steps=5,
            learning_rate=1e-3,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = [row for row in trainer.state.log_history if "rewards/emotion_reward/mean" in row]
    assert len(logged) == 5
    assert any(row["reward_std"] > 0.1 for row in logged)
    assert all("emotion_reward/accuracy" in row for row in logged)
    assert [(str(clip.video), len(answers)) for clip, answers in groups] == [("a.mp4", 8)] * 5
    perceived = [row["rewards/perception/mean"] for row in logged]
    assert [value is None or math.isnan(value) for value in perceived] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert not torch.equal(trainer.model.lm_head.weight, before)


def taught(model: Any, tokenizer: Any) -> Any:
    """A model that gives either of two answers: there is something to learn from."""
    rows = [
        [*tokenizer(PROMPT + answer).input_ids, tokenizer.eos_token_id] for answer in (HAPPY, SAD)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(80):
        loss = sum(model(input_ids=ids, labels=ids).loss for ids in map(batch_of, rows))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def batch_of(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids])


def test_the_perception_reward_groups_by_clip() -> None:
    asked: list[Any] = []

    def judge(groups: Sequence[Group]) -> list[list[float | None]]:
        asked.extend(groups)
        return [[float("happy" in words) for words in answers] for _, answers in groups]

    given = PerceptionReward(judge)
    videos, said = ["a.mp4", "b.mp4", "a.mp4", "b.mp4"], [HAPPY, SAD, SAD, HAPPY]
    assert given(said, video=videos, subtitle=["Oh.", "", "Oh.", ""]) == [1, 0, 0, 1]
    assert [(clip.video, clip.subtitle, answers) for clip, answers in asked] == [
        (Path("a.mp4"), "Oh.", [("happy",), ("sad",)]),
        (Path("b.mp4"), "", [("sad",), ("happy",)]),
    ]
    with pytest.raises(InputError, match="'video' is not there"):
        given(said, clip=videos)
    with pytest.raises(InputError, match="PerceptionReward"):
        EmotionReward(RewardRule(perception=0.2))
