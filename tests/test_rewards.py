"""Rewards: the metric's own function, and penalties by their formulas."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.config import RewardRecipe, load_recipe
from affectgpt_r1.dialogue import parse_completion, target_text
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import score_sample
from affectgpt_r1.errors import InputError, ProblemsError
from affectgpt_r1.evaluation.rewarding import reward_rows
from affectgpt_r1.rewards import RewardRule, reward
from affectgpt_r1.rewards.compose import length_factor
from affectgpt_r1.training.grpo import group_advantages


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


THINK = "We can infer that she is {}.".format
CASES = [
    # thinking, answer, labels -> alignment by Jaccard, by F, dual
    (THINK("joyful"), "happy", ["happy"], 1.0, 1.0, 1.0),
    (THINK("sad"), "happy", ["happy"], 0.0, 0.0, 0.0),
    (THINK("sad"), "happy", ["sad"], 0.0, 0.0, 1.0),
    (THINK("happy and sad"), "happy", ["happy"], 0.5, 2 / 3, 2 / 3),
    (THINK("not happy but sad"), "sad", ["happy"], 1.0, 1.0, 0.0),
    ("Her brow moves.", "happy", ["happy"], 0.0, 0.0, 0.0),
    (THINK("happy"), "qwertyuiop", ["happy"], 0.0, 0.0, 1.0),
]


@pytest.mark.parametrize(("think", "answer", "labels", "jaccard", "f", "dual"), CASES)
def test_alignment_and_dual_are_those_worked_out_by_hand(
    think: str, answer: str, labels: list[str], jaccard: float, f: float, dual: float
) -> None:
    lexicon = Lexicon.load("builtin")
    completion = parse_completion(f"<think>{think}</think><answer>{answer}</answer>", "think")
    for by, expected in (("jaccard", jaccard), ("f", f)):
        rule = RewardRule(alignment=0.4, dual=0.6, alignment_by=by, mode="think")
        found = reward(completion, labels, lexicon, rule)
        assert found.alignment == pytest.approx(expected)
        assert found.dual == pytest.approx(dual)
        assert found.total == pytest.approx(
            1.0 + (found.accuracy or 0.0) + 0.4 * expected + 0.6 * dual
        )


SAID = "<answer>{}</answer>".format
THOUGHT = "<think>We can infer that she is happy and sad.</think>"
LOG = math.log
#: Happy, sad and angry share no class on any wheel: F is 2 x common / (said + true) on each.
#: Weights: accuracy 1, format 0.2, perception 0.5; with thinking alignment 0.4, dual 0.6.
BY_HAND: list[tuple[str, str, list[str], dict[str, Any], float | None, list[float | None], float]]
BY_HAND = [
    # mode, completion, labels, rule, perception -> format, accuracy, factor, alignment, dual,
    # factor on dual; total
    ("answer", SAID("happy"), ["happy"], {}, None, [1, 1, 1, None, None, 1], 1.2),
    ("answer", SAID("happy, sad"), ["happy"], {}, None, [1, 2 / 3, 1, None, None, 1], 0.2 + 2 / 3),
    *(
        ("answer", SAID("happy, sad"), ["happy"], {"length_penalty": penalty}, None,
         [1, 2 / 3, factor, None, None, 1], 0.2 + 2 / 3 * factor)
        for penalty, factor in (("p1", 1 / 2), ("p2", 1 / 2), ("p3", LOG(2) / LOG(3)))
    ),
    *(
        ("answer", SAID("happy, sad, angry"), ["happy", "sad"], {"length_penalty": penalty}, 1.0,
         [1, 0.8, factor, None, None, 1], 0.2 + 0.8 * factor + 0.5)
        for penalty, factor in (("p1", 1 / 2), ("p2", 2 / 3), ("p3", LOG(2) / LOG(3)))
    ),
    *(
        ("answer", SAID("happy"), ["happy", "sad"], {"length_penalty": penalty}, 0.0,
         [1, 2 / 3, 1, None, None, 1], 0.2 + 2 / 3)
        for penalty in ("p1", "p2", "p3")
    ),
    ("answer", "happy", ["happy"], {}, None, [0, 0, 1, None, None, 1], 0.0),
    ("answer", "So: " + SAID("happy"), ["happy"], {}, None, [0, 1, 1, None, None, 1], 1.0),
    ("answer", "So: " + SAID("happy"), ["happy"], {"gate": True}, 1.0,
     [0, 1, 1, None, None, 1], 0.0),
    ("answer", THOUGHT + SAID("sad"), ["sad"], {}, None, [0, 1, 1, None, None, 1], 1.0),
    ("answer", SAID("happy"), ["qwertyuiop"], {}, 1.0, [1, None, 1, None, None, 1], 0.7),
    ("think", THOUGHT + SAID("happy"), ["happy"], {"length_penalty": "p2"}, None,
     [1, 1, 1, 1 / 2, 2 / 3, 1 / 2], 0.2 + 1 + 0.4 / 2 + 0.6 * 2 / 3 / 2),
    ("think", THOUGHT + SAID("happy"), ["happy"], {"alignment_by": "f"}, None,
     [1, 1, 1, 2 / 3, 2 / 3, 1], 0.2 + 1 + 0.4 * 2 / 3 + 0.6 * 2 / 3),
    ("think", THOUGHT + SAID("angry, sad"), ["angry"],
     {"length_penalty": "p1", "penalised": ("dual",)}, None,
     [1, 2 / 3, 1, 1 / 3, 0, 1 / 2], 0.2 + 2 / 3 + 0.4 / 3),
    ("think", SAID("happy"), ["happy"], {}, 1.0, [0, 1, 1, 0, 0, 1], 1.5),
    ("think", THOUGHT + SAID("happy"), ["qwertyuiop"], {"length_penalty": "p1"}, None,
     [1, None, 1, 1 / 2, None, 1 / 2], 0.2 + 0.4 / 2),
]  # fmt: skip


@pytest.mark.parametrize(("mode", "text", "labels", "changes", "judged", "terms", "total"), BY_HAND)
def test_every_term_penalty_and_mode_is_as_worked_out_by_hand(
    mode: Any,
    text: str,
    labels: list[str],
    changes: dict[str, Any],
    judged: float | None,
    terms: list[float | None],
    total: float,
) -> None:
    weights: dict[str, Any] = {"alignment": 0.4, "dual": 0.6} if mode == "think" else {}
    rule = RewardRule(mode=mode, format=0.2, perception=0.5, **weights, **changes)
    found = reward(parse_completion(text, mode), labels, Lexicon.load(), rule, judged)
    assert [
        found.format,
        found.accuracy,
        found.penalty,
        found.alignment,
        found.dual,
        found.dual_penalty,
    ] == [value if value is None else pytest.approx(value) for value in terms]
    assert found.perception == judged
    assert found.total == pytest.approx(total)


replies = st.lists(
    st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "happy", "sad", ", ", "not "]),
    max_size=12,
).map("".join)


@given(replies, st.sampled_from(["none", "p1", "p2", "p3"]), st.booleans(), st.none() | st.just(1))
def test_the_breakdown_sums_to_the_total(
    text: str, penalty: Any, gate: bool, judged: float | None
) -> None:
    rule = RewardRule(
        accuracy=0.9,
        format=0.2,
        length_penalty=penalty,
        alignment=0.4,
        dual=0.6,
        perception=0.5,
        gate=gate,
        mode="think",
    )
    for labels in (["happy", "angry"], ["qwertyuiop"]):
        found = reward(parse_completion(text, "think"), labels, Lexicon.load(), rule, judged)
        total = (
            0.2 * found.format
            + 0.9 * (found.accuracy or 0.0) * found.penalty
            + 0.4 * (found.alignment or 0.0)
            + 0.6 * (found.dual or 0.0) * found.dual_penalty
            + 0.5 * (found.perception or 0.0)
        )
        assert found.total == pytest.approx(0.0 if gate and not found.format else total)


def test_the_penalty_is_on_the_terms_that_are_named() -> None:
    lexicon = Lexicon.load("builtin")
    completion = parse_completion(
        f"<think>{THINK('happy, sad and angry')}</think><answer>happy, joyful</answer>", "think"
    )
    for penalised, factors in (
        (("accuracy", "dual"), (1 / 2, 1 / 3)),
        (("dual",), (1.0, 1 / 3)),
        ((), (1.0, 1.0)),
    ):
        rule = RewardRule(dual=1.0, length_penalty="p2", penalised=penalised, mode="think")
        found = reward(completion, ["happy"], lexicon, rule)
        assert (found.penalty, found.dual_penalty) == pytest.approx(factors)


def test_mixed_is_the_mean_of_the_two_rings_in_every_term() -> None:
    lexicon, text = Lexicon.load(), THOUGHT + SAID("joyful, sad")
    asked: dict[str, Any] = {"alignment": 0.4, "dual": 0.6, "mode": "think"}
    inner, middle, mixed = (
        reward(parse_completion(text, "think"), ["proud", "lonely"], lexicon, rule)
        for rule in (RewardRule(level=level, **asked) for level in (1, 2, "mixed"))
    )
    for term in ("accuracy", "alignment", "dual", "total"):
        one, other = getattr(inner, term), getattr(middle, term)
        assert one != other
        assert getattr(mixed, term) == pytest.approx((one + other) / 2)


def test_a_gate_leaves_nothing_to_what_is_out_of_format() -> None:
    lexicon = Lexicon.load("builtin")
    said = parse_completion("So: <answer>happy</answer>")
    assert reward(said, ["happy"], lexicon, RewardRule()).total == 1.0
    assert reward(said, ["happy"], lexicon, RewardRule(gate=True)).total == 0.0


@pytest.mark.parametrize("term", ["alignment", "dual"])
def test_terms_of_the_thinking_refuse_the_mode_without_it(term: str) -> None:
    with pytest.raises(InputError, match=rf"rewards\.{term} .* mode=think"):
        RewardRule(**{term: 0.5})


@settings(deadline=None)
@given(st.text(max_size=80), st.booleans(), st.sampled_from(["none", "p1", "p2", "p3"]))
def test_no_text_breaks_a_reward_or_leaves_its_bounds(
    text: str, wrapped: bool, penalty: str
) -> None:
    lexicon = Lexicon.load("builtin")
    raw = f"<think>{text}</think><answer>happy, {text}</answer>" if wrapped else text
    rule = RewardRule(alignment=0.4, dual=0.6, length_penalty=penalty, mode="think")
    found = reward(parse_completion(raw, "think"), ["happy", "sad"], lexicon, rule)
    assert 0.0 <= found.total <= 3.0 + 1e-12


def test_scores_and_rewards_load_without_torch() -> None:
    code = (
        "import sys, affectgpt_r1.rewards, affectgpt_r1.emotion.score;"
        "print([m for m in ('torch', 'transformers', 'av', 'cv2', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_is_rewarded_row_by_row(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "completion": "<answer>happy, glad</answer>", "labels": ["joyful"]},
        {"completion": "happy", "labels": "qwertyuiop"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = reward_rows(path, load_recipe("reward", RewardRecipe))
    assert first["id"] == "a"
    assert first["problems"] == []
    assert first["total"] == pytest.approx(1 + math.log(2) / math.log(3))
    assert (second["id"], second["accuracy"], second["total"]) == (2, None, 0.0)
    assert second["problems"] == ["no answer block", "text outside the blocks"]


def test_wrong_rows_are_told_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        '{"labels": []}',
        "nonsense",
        '{"completion": 1, "labels": []}',
        "[]",
        '{"completion": "a", "labels": [1]}',
        '{"completion": "\\ud83d", "labels": []}',
        '{"completion": "a", "labels": [], "id": NaN}',
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(ProblemsError) as caught:
        list(reward_rows(path, RewardRecipe()))
    assert len(caught.value.problems) == len(lines)
    assert caught.value.problems[1] == "line 2: not JSON"


@pytest.mark.parametrize(
    "wrong",
    [
        {"length_penalty": "P1"},
        {"length_penalty": None},
        {"level": 0},
        {"penalised": ("acuracy",)},
        {"alignment_by": "F"},
        {"mode": "thinking"},
        {"accuracy": -1.0},
        {"format": "much"},
    ],
)
def test_a_rule_with_a_value_of_no_meaning_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"^{next(iter(wrong))}.*: input should be "):
        RewardRule(**wrong)
