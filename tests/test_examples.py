"""The examples for other trainers, held to the tools' signatures; no tool is needed for these.

`make compat` runs the same examples inside the tools.
"""

from __future__ import annotations

import asyncio
import doctest
import importlib.util
import json
import logging
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from pydantic import BaseModel

from affectgpt_r1.errors import InputError, ProblemsError
from affectgpt_r1.rewards import RewardBreakdown, RewardRule, term_means
from affectgpt_r1.rewards.adapters import EmotionReward
from rows import ROWS, UNKNOWN, Row, expected

EXAMPLES = Path(__file__).parents[1] / "examples"
HAPPY = "<answer>happy</answer>"
CHAT = "<|im_start|>user\nHow does she feel?<|im_end|>\n<|im_start|>assistant\n"
SAME_LABELS = (["joyful", "glad"], ("joyful", "glad"), "joyful, glad", '["joyful", "glad"]')


def loaded(name: str) -> ModuleType:
    """An example as the tools load it: by its path, unknown to `sys.modules`."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def terms_of(row: RewardBreakdown) -> dict[str, float]:
    """The terms for tools that know no None."""
    return {name: value or 0.0 for name, value in asdict(row).items() if name != "total"}


def verl(completion: str, labels: Any, **settings: Any) -> dict[str, float]:
    """As verl's reward managers call it."""
    given = loaded("verl_reward").compute_score(
        data_source="clips",
        solution_str=completion,
        ground_truth=labels,
        extra_info={"num_turns": 2},
        **settings,
    )
    assert isinstance(given, dict)
    return given


def test_verl_gets_the_same_keys_and_floats_on_every_call() -> None:
    rules: list[dict[str, Any]] = [{}, {"mode": "think", "dual": 1.0}]
    given = [verl(*row, **rule) for row in ROWS for rule in rules]
    assert len({tuple(row) for row in given}) == 1
    assert next(iter(given[0])) == "score"
    assert {type(value) for row in given for value in row.values()} == {float}


@pytest.mark.parametrize(
    "rule",
    [{}, {"length_penalty": "none", "format": 0.2}, {"mode": "think", "dual": 1.0, "gate": True}],
)
def test_verl_gets_the_breakdown_of_the_rule_in_reward_kwargs(rule: dict[str, Any]) -> None:
    for at, (row, expects) in enumerate(zip(ROWS, expected(**rule), strict=True)):
        judged = float(at != UNKNOWN)
        assert verl(*row, **rule) == {
            "score": expects.total,
            **terms_of(expects),
            "judged": judged,
        }


@pytest.mark.parametrize("labels", [*SAME_LABELS, np.array(["joyful", "glad"], dtype=object)])
def test_verl_may_give_labels_in_any_form(labels: Any) -> None:
    assert verl(HAPPY, labels)["score"] == 2.0


def test_a_mistyped_setting_for_verl_is_named() -> None:
    with pytest.raises(InputError, match="unknown key 'length_penalti', 'length_penalty' is"):
        verl(HAPPY, "happy", length_penalti="p2")
    with pytest.raises(InputError, match="length_penalty: input should be"):
        verl(HAPPY, "happy", length_penalty="p4")


def test_verls_function_may_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded("verl_reward")
    # Ray pickles it by value, for no import finds it: what it refers to has to be pickled too.
    for name in module.compute_score.__code__.co_names:
        if name in vars(module):
            pickle.dumps(vars(module)[name])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    kept = pickle.dumps(partial(module.compute_score, format=0.2))
    assert pickle.loads(kept)("", HAPPY, "happy")["score"] == 1.2  # noqa: S301 - our own bytes


def openrlhf(query: str, prompt: str, labels: Any) -> dict[str, Any]:
    """As OpenRLHF calls it: lists of one."""
    given = loaded("openrlhf_reward").reward_func([query], [prompt], [labels])
    assert isinstance(given, dict)
    return given


def test_openrlhf_gets_scalars_that_are_the_breakdowns() -> None:
    for at, (row, expects) in enumerate(zip(ROWS, expected(), strict=True)):
        given = openrlhf(f"{CHAT}{row.completion}<|im_end|>", CHAT, row.labels)
        assert given == {
            "rewards": expects.total,
            "scores": expects.accuracy or 0.0,
            "extra_logs": {**terms_of(expects), "judged": float(at != UNKNOWN)},
        }
        numbers = [given["rewards"], given["scores"], *given["extra_logs"].values()]
        assert {type(number) for number in numbers} == {float}


@pytest.mark.parametrize("labels", SAME_LABELS)
def test_openrlhf_may_give_labels_in_any_form(labels: Any) -> None:
    assert openrlhf(CHAT + HAPPY, CHAT, labels)["rewards"] == 2.0


def test_openrlhfs_function_may_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded("openrlhf_reward")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    again = pickle.loads(pickle.dumps(module.reward_func))  # noqa: S301 - our own bytes
    assert again([CHAT + HAPPY], [CHAT], ["happy"])["rewards"] == 2.0


@pytest.mark.parametrize(
    ("query", "prompt", "labels", "message"),
    [
        (CHAT + HAPPY, CHAT, "", "data.label_key"),
        (HAPPY, CHAT, "happy", "is not in the query"),
    ],
)
def test_what_openrlhf_would_swallow_is_logged_and_raised(
    query: str, prompt: str, labels: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=message):
        openrlhf(query, prompt, labels)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert message in str(record.exc_info[1])


@pytest.mark.parametrize(
    "end", ["", "<|im_end|>", "</s>", "<|eot_id|>\n<|endoftext|>", "<｜end▁of▁sentence｜>"]
)
@pytest.mark.parametrize("reply", [HAPPY, "", "<think>a < b</think><answer>sad</answer>", CHAT])
def test_the_completion_is_cut_out_of_openrlhfs_query(reply: str, end: str) -> None:
    module = loaded("openrlhf_reward")
    bare = reply.removesuffix("\n") if reply == CHAT else reply
    turns = f"{CHAT}Sad.<|im_end|>\n{CHAT}"  # the same question twice
    pictures = f"<|image_pad|>{CHAT}"
    for asked, query in (
        (CHAT, CHAT),
        ("", ""),
        (turns, turns),
        (turns + CHAT, f"<|im_start|>{turns + CHAT}"),  # a token of the tokenizer's before it
        (f"a long story {CHAT}", f"story {CHAT}"),
        (pictures, f"<|image_pad|><|image_pad|>{pictures}"),
    ):
        assert module.completion_of(query + reply + end, asked).strip() == bare.strip()
    assert doctest.testmod(module).failed == 0


def swift(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, dict[str, Any]]:
    """The plug-in and the registry it wrote to."""
    orms: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "swift", ModuleType("swift"))
    monkeypatch.setitem(sys.modules, "swift.rewards", stand_in("swift.rewards", orms=orms))
    return loaded("ms_swift_plugin"), orms


def stand_in(name: str, **holds: Any) -> ModuleType:
    """A module in a tool's place."""
    module = ModuleType(name)
    vars(module).update(holds)
    return module


def test_ms_swift_makes_each_reward_and_logs_it_by_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, orms = swift(monkeypatch)
    made = {name: reward(args=object()) for name, reward in orms.items()}
    assert list(made) == ["emotion", "emotion_accuracy", "emotion_format"]
    assert len({type(reward).__name__ for reward in made.values()}) == 3
    texts, labels = [row.completion for row in ROWS], [row.labels for row in ROWS]
    total, accuracy, form = (reward(texts, labels=labels) for reward in made.values())
    for at, row in enumerate(expected()):
        assert form[at] == row.format
        if at == UNKNOWN:
            assert total[at] is None
            assert accuracy[at] is None
        else:
            assert total[at] == row.total == form[at] + accuracy[at]


def test_ms_swifts_rewards_may_be_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    module, orms = swift(monkeypatch)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for reward in orms.values():
        again = pickle.loads(pickle.dumps(reward(args=None)))  # noqa: S301 - our own bytes
        assert again([HAPPY], labels=["happy"]) == reward()([HAPPY], labels=["happy"])


Data = TypeVar("Data")
State = TypeVar("State")
Config = TypeVar("Config")


class StandInTask(Generic[Data, State, Config]):
    """What verifiers gives its tasks."""

    def __init__(self, data: Data, config: Config) -> None:
        self.data, self.config = data, config


class StandInTaskset(Generic[Data, Config]):
    """What verifiers gives its tasksets."""

    def __init__(self, config: Config) -> None:
        self.config = config


def marked(kind: str) -> Callable[[Any], Any]:
    """A decorator of verifiers' kind: it marks a method."""

    def mark(method: Any) -> Any:
        setattr(method, kind, True)
        return method

    return mark


@pytest.fixture
def taskset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    """Tasks of the rows given, as verifiers makes them."""
    tool = stand_in(
        "verifiers.v1",
        TaskData=BaseModel,
        TaskConfig=BaseModel,
        TasksetConfig=BaseModel,
        Task=StandInTask,
        Taskset=StandInTaskset,
        State=object,
        Trace=object,
        Messages=list[dict[str, Any]],
        reward=marked("reward"),
        metric=marked("metric"),
    )
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setitem(sys.modules, "verifiers", stand_in("verifiers", v1=tool))
    monkeypatch.setitem(sys.modules, "verifiers.v1", tool)

    def made(rows: list[Any], **task: Any) -> list[Any]:
        monkeypatch.delitem(sys.modules, "verifiers_taskset", raising=False)
        module = importlib.import_module("verifiers_taskset")  # as verifiers finds it
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        exported = getattr(module, *module.__all__)
        config = module.EmotionTasksetConfig(rows=path, task=task)
        return list(exported(config).load())

    return made


def trace(text: str, thought: str | None = None) -> Any:
    """A trace with one reply."""

    class Message(BaseModel):
        role: str = "assistant"
        content: str | None = text
        reasoning_content: str | None = thought

    return SimpleNamespace(assistant_messages=[Message()])


def asked(row: Row) -> dict[str, Any]:
    """A row of the file."""
    return {"prompt": "How does she feel?", "labels": row.labels}


def test_verifiers_rewards_the_total_alone_and_measures_every_term(
    taskset: Callable[..., list[Any]],
) -> None:
    tasks = taskset([asked(row) for row in ROWS])
    for row, task, expects in zip(ROWS, tasks, expected(), strict=True):
        names = [name for name in dir(task) if hasattr(getattr(task, name), "reward")]
        assert names == ["emotion"]
        assert asyncio.run(task.emotion(trace(row.completion))) == expects.total
        assert asyncio.run(task.terms(trace(row.completion))) == term_means([expects])
    assert "accuracy" not in asyncio.run(tasks[UNKNOWN].terms(trace(HAPPY)))


def test_verifiers_settings_may_be_texts_and_keep_the_other_defaults(
    taskset: Callable[..., list[Any]],
) -> None:
    (task,) = taskset([asked(ROWS[1])], mode="think", terms={"format": "0.2", "dual": "1"})
    rule = RewardRule(mode="think", format=0.2, dual=1.0, length_penalty="p3")
    thought = "She is happy."
    whole = EmotionReward(rule).breakdown(f"<think>{thought}</think>{HAPPY}", ROWS[1].labels)
    assert whole.format == whole.dual == 1.0
    assert asyncio.run(task.emotion(trace(HAPPY, thought))) == whole.total


def test_verifiers_is_told_every_wrong_line(taskset: Callable[..., list[Any]]) -> None:
    with pytest.raises(ProblemsError, match=r"(?s)line 1: .*labels.*line 3: .*prompt"):
        taskset([{"prompt": "Well?"}, asked(ROWS[0]), {"labels": "sad"}])
    with pytest.raises(ProblemsError, match="no prompt"):
        taskset([])
