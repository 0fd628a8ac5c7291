"""Rewards: the metric's own function, and penalties by their formulas."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.dialogue import parse_completion, target_text
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import score_sample
from affectgpt_r1.rewards import RewardRule, reward
from affectgpt_r1.rewards.length import length_factor
from affectgpt_r1.training.advantages import group_advantages


def test_reward_and_metric_are_one_function_on_10000_pairs() -> None:
    lexicon = Lexicon.load("builtin")
    words = [*lexicon.words, "unheard-of", "neutral"]
    draw = random.Random(0)
    rule = RewardRule(accuracy=1.0, format=0.0)
    for _ in range(10_000):
        labels = draw.sample(words, draw.randrange(1, 5))
        said = tuple(draw.sample(words, draw.randrange(1, 6)))
        breakdown = reward(
            parse_completion(target_text(said, None, "answer")), labels, lexicon, rule
        )
        if any(map(lexicon.counts, labels)):
            assert breakdown.accuracy == score_sample(labels, said, lexicon) == breakdown.total
        else:
            assert breakdown.accuracy is None


def test_an_unknown_truth_is_not_zero() -> None:
    breakdown = reward(
        parse_completion("<answer>happy</answer>"),
        ["qwertyuiop"],
        Lexicon.load("builtin"),
        RewardRule(),
    )
    assert breakdown.accuracy is None
    assert breakdown.total == 1.0  # the format alone


def test_a_malformed_reply_keeps_what_it_says() -> None:
    lexicon = Lexicon.load("builtin")
    breakdown = reward(
        parse_completion("So: <answer>happy</answer>"), ["happy"], lexicon, RewardRule()
    )
    assert breakdown.format == 0.0
    assert breakdown.total == breakdown.accuracy == score_sample(["happy"], ["happy"], lexicon)


def test_an_empty_answer_scores_nothing() -> None:
    for text in ("", "<answer></answer>", "<answer>,</answer>"):
        breakdown = reward(parse_completion(text), ["happy"], Lexicon.load("builtin"), RewardRule())
        assert (breakdown.format, breakdown.accuracy, breakdown.total) == (0.0, 0.0, 0.0)


def test_the_penalty_counts_words_not_classes() -> None:
    lexicon = Lexicon.load("builtin")
    rule = RewardRule(format=0.0, length_penalty="p2")
    short = reward(parse_completion("<answer>happy</answer>"), ["happy"], lexicon, rule)
    padded = reward(
        parse_completion("<answer>happy, joyful, cheerful</answer>"), ["happy"], lexicon, rule
    )
    assert padded.penalty == pytest.approx(1 / 3)
    assert padded.total < short.total


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        ("none", 1.0),
        ("p1", 1 / 3),
        ("p2", 3 / 5),
        ("p3", math.log(3) / math.log(5)),
    ],
)
def test_penalties_follow_their_formulas(penalty: str, expected: float) -> None:
    assert length_factor(5, 3, penalty) == pytest.approx(expected)  # type: ignore[arg-type]


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["p1", "p2", "p3"]))
def test_penalties_are_shares_and_fall_with_length(
    predicted: int, labelled: int, penalty: str
) -> None:
    factor = length_factor(predicted, labelled, penalty)  # type: ignore[arg-type]
    assert 0 <= factor <= 1
    assert (factor == 1) == (predicted <= labelled)
    assert length_factor(predicted + 1, labelled, penalty) <= factor  # type: ignore[arg-type]


rewards_array = st.lists(
    st.lists(st.floats(0, 2, allow_subnormal=False), min_size=4, max_size=4), min_size=1, max_size=4
).map(np.array)


@given(rewards_array, st.sampled_from(["group", "batch", "none"]))
def test_advantages_of_a_group_sum_to_zero(rewards: np.ndarray, scale: str) -> None:
    advantages, varied = group_advantages(rewards, scale)  # type: ignore[arg-type]
    assert np.isfinite(advantages).all()
    assert np.abs(advantages.sum(axis=1)).max() < 1e-6
    assert (advantages[~varied] == 0).all()


def test_advantages_are_those_of_trl() -> None:
    rewards = np.array([[0.0, 1.0, 0.5, 0.5]])
    advantages, _ = group_advantages(rewards)
    spread = rewards.std(ddof=1)
    assert np.allclose(advantages, (rewards - 0.5) / (spread + 1e-4))


def test_scores_and_rewards_load_without_torch() -> None:
    code = (
        "import sys, affectgpt_r1.rewards, affectgpt_r1.emotion.score;"
        "print([m for m in ('torch', 'transformers', 'av', 'cv2', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
