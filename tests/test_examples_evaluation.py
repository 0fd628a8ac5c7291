"""The evaluation tasks for others' tools, without the tools: figures are ours, names exist."""

from __future__ import annotations

import importlib.util
import json
import math
import wave
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.dialogue import QUESTIONS, Mode, parse_completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import CorpusScore, Pair, hit_rate, score_corpus, score_sample
from affectgpt_r1.emotion.sentiment import sentiment_of, sentiment_scores
from affectgpt_r1.errors import InputError, MissingFileError
from affectgpt_r1.evaluation.answers import AnswerRow
from affectgpt_r1.evaluation.scoring import HEADLINES, Metric, Rule, keep, score_row
from affectgpt_r1.evaluation.unibench import SETS, bench
from emotion_tasks import (
    answer_row,
    bench_figures,
    bench_manifests,
    figures,
    labelled_clips,
    question,
    read_reply,
    sample_score,
    signature_of,
)

FOLDER = Path(__file__).resolve().parents[1] / "examples/lmms_eval"
BUILTIN = Lexicon.load("builtin")
KNOWN = ["happy", "sad", "angry", "worried", "surprised", "lonely", "disgusted"]
SIGNS = {"positive": 1.0, "negative": -1.0, "neutral": 0.0}
METRICS: tuple[Metric, ...] = get_args(Metric)

labels_of = {
    "ew": st.lists(st.sampled_from(KNOWN), min_size=1, max_size=3, unique=True),
    "hit": st.lists(st.sampled_from([*KNOWN, "neutral"]), min_size=1, max_size=1),
    "sentiment": st.lists(st.sampled_from(list(SIGNS)), min_size=1, max_size=1),
}
words_of = st.lists(st.sampled_from([*KNOWN, "qwertyuiop"]), max_size=4, unique=True)


def by_path(path: Path) -> ModuleType:
    """A module as lmms-eval loads it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


UTILS = by_path(FOLDER / "utils.py")


def asked(metric: Metric, samples: Sequence[Pair], figure: str = "score") -> Any:
    """A figure by lmms-eval's way: each reply processed, then all of them aggregated."""
    process = getattr(UTILS, f"process_{metric}")
    items = [
        process({"id": str(i), "labels": labels}, [f"<answer>{', '.join(words)}</answer>"])[figure]
        for i, (labels, words) in enumerate(samples)
    ]
    return UTILS.corpus(items)


def corpus(samples: Sequence[Pair]) -> CorpusScore:
    labels, words = zip(*samples, strict=True)
    return score_corpus(labels, words, BUILTIN)


def ours(metric: Metric, samples: Sequence[Pair]) -> float:
    if metric == "ew":
        return corpus(samples).f
    if metric == "hit":
        labels, words = zip(*samples, strict=True)
        return hit_rate(labels, words, BUILTIN).hit
    said = [sentiment_of(words, BUILTIN) for _, words in samples]
    return sentiment_scores([SIGNS[labels[0]] for labels, _ in samples], said).waf


@pytest.mark.parametrize("metric", METRICS)
@given(data=st.data())
def test_the_score_is_the_corpus_own(metric: Metric, data: st.DataObject) -> None:
    sample = st.tuples(labels_of[metric], words_of)
    samples = data.draw(st.lists(sample, min_size=1, max_size=8))
    found = asked(metric, samples)
    if all(labels == ["neutral"] for labels, _ in samples):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(ours(metric, samples), abs=1e-12)


def test_it_is_no_mean_of_the_samples() -> None:
    samples = [(["happy"], ["happy"]), (["sad", "angry"], ["sad"]), (["worried"], ["happy"])]
    own = [score_sample(labels, words) for labels, words in samples]
    assert asked("ew", samples) == pytest.approx(corpus(samples).f, abs=1e-12)
    assert abs(asked("ew", samples) - sum(own) / 3) > 1e-3


def test_what_stands_beside_the_score_is_ours() -> None:
    samples = [(["happy"], ["happy", "qwertyuiop"]), (["sad"], ["angry"]), (["sad"], [])]
    truth = corpus(samples)
    for figure in ("coverage", "words_per_answer", "n"):
        assert asked("ew", samples, figure) == pytest.approx(getattr(truth, figure), abs=1e-12)
    assert asked("ew", samples, "without_words") == 1
    assert asked("ew", samples, "low") <= truth.f <= asked("ew", samples, "high")
    assert math.isnan(asked("ew", [(["happy"], [])], "coverage"))


@pytest.mark.parametrize("metric", METRICS)
def test_the_signature_is_the_one_that_score_prints(metric: Metric) -> None:
    labels = ["positive"] if metric == "sentiment" else ["happy"]
    rule = Rule(metric)
    row = answer_row("a", labels, ["happy"], metric)
    printed = score_row(keep([row], rule, "test"), rule, BUILTIN)["signature"]
    assert signature_of([row], rule, BUILTIN) == printed
    assert asked(metric, [(labels, ["happy"])], "signature") == printed


def test_no_answer_is_left_out_and_an_empty_one_is_none_of_that() -> None:
    docs = [{"id": "a", "labels": ["happy"]}, {"id": "b", "labels": "sad"}]

    def score(second: Sequence[str | None], figure: str = "score") -> Any:
        replies: list[Sequence[str | None]] = [["<answer>happy</answer>"], second]
        items = [UTILS.process_ew(*row)[figure] for row in zip(docs, replies, strict=True)]
        return UTILS.corpus(items)

    assert score([None]) == score([]) == 1.0
    assert score([None], "n") == 1
    whole = score_corpus([["happy"], ["sad"]], [["happy"], []], BUILTIN).f
    assert score([""]) == score(["<answer></answer>"]) == pytest.approx(whole, abs=1e-12)
    assert (score([""], "n"), score([""], "without_words")) == (2, 1)
    assert math.isnan(UTILS.corpus([UTILS.process_ew(docs[0], [None])["score"]]))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("<answer>Happy, glad</answer>", ("happy", "glad")),
        ("<think>She is sad.</think>\n\n<answer>calm</answer>", ("calm",)),
        ("happy, glad, happy", ("happy", "glad")),
        ("- Happy\n- on edge", ("happy", "on edge")),
        ("The character's emotional state is happy, relieved.", ("happy", "relieved")),
        ("<answer>happy", ()),
        ("<think>happy</think>", ()),
        ("", ()),
    ],
)
def test_replies_are_read_with_and_without_tags(reply: str, words: tuple[str, ...]) -> None:
    assert read_reply(reply) == words


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_form_that_is_asked_for_is_well_formed(mode: Mode) -> None:
    text = question("Oh.", mode)
    assert "<Subtitle>Oh.</Subtitle>" in text
    assert QUESTIONS[mode] in text
    assert parse_completion(text[text.index("form: ") + 6 :], mode).well_formed
    assert "Subtitle" not in question("", mode)
    assert UTILS.doc_to_text({"subtitle": "Oh."}, {"mode": mode}) == text


def test_a_samples_score_is_the_reward_and_unknown_is_none() -> None:
    assert sample_score(answer_row("a", ["happy"], ["joyful"], "ew"), Rule(), BUILTIN) == 1.0
    surprise = answer_row("a", ["surprise"], ["surprise", "sad"], "ew")
    assert sample_score(surprise, Rule(), BUILTIN) == score_sample("surprise", "surprise, sad")
    hit = Rule("hit")
    assert sample_score(answer_row("a", ["sad"], ["sad"], "hit"), hit, BUILTIN) == 1.0
    assert sample_score(answer_row("a", ["neutral"], ["sad"], "hit"), hit, BUILTIN) is None
    sentiment = Rule("sentiment")
    for label, score in (("negative", 1.0), ("positive", 0.0), ("neutral", None)):
        row = answer_row("a", [label], ["sad"], "sentiment")
        assert sample_score(row, sentiment, BUILTIN) == score
    assert sample_score(answer_row("a", ["sad"], None, "ew"), Rule(), BUILTIN) is None


def test_a_sentiment_label_is_a_sign() -> None:
    with pytest.raises(InputError, match="one of positive, negative, neutral"):
        answer_row("a", ["happy"], ["sad"], "sentiment")


def bench_rows(keys: Sequence[str]) -> list[AnswerRow]:
    rows = []
    for key in keys:
        labels = ["positive"] if SETS[key].metric == "sentiment" else ["happy"]
        rows.append(answer_row("a", labels, ["joyful"], SETS[key].metric, dataset=key))
        other = ["negative"] if SETS[key].metric == "sentiment" else ["sad"]
        rows.append(answer_row("b", other, ["angry"], SETS[key].metric, dataset=key))
    return rows


def test_the_bench_has_a_mean_of_nine_sets_or_none() -> None:
    found = bench_figures(bench_rows(list(SETS)), Rule(), BUILTIN)
    table = bench([replace(r, checkpoint="a") for r in bench_rows(list(SETS))], BUILTIN, Rule())
    assert next(iter(found)) == "mean_of_nine"
    assert found["mean_of_nine"] == table.fixed_mean
    assert [found[key] for key in SETS] == [row.fixed for row in table.rows]
    assert found["meld_n"] == 2
    part = bench_figures(bench_rows(["meld", "chsims"]), Rule(), BUILTIN)
    assert math.isnan(part["mean_of_nine"])
    assert set(part) == {"mean_of_nine", "meld", "meld_n", "chsims", "chsims_n"}


def test_published_rows_give_what_score_gives(shared_dir: Path) -> None:
    path = shared_dir / "reference/unibench/meld.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    samples = [([row["label"]], list(read_reply(row["prediction"]))) for row in rows]
    answers = [answer_row(str(i), *sample, "hit") for i, sample in enumerate(samples)]
    found = figures(answers, Rule("hit"), BUILTIN)
    assert found["hit"] == pytest.approx(ours("hit", samples), abs=1e-12)


def test_manifests_must_be_there_and_labelled(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no manifest of MER-UniBench"):
        bench_manifests(tmp_path)
    (tmp_path / "meld.jsonl").write_text('{"id": "a", "subtitle": "Oh."}\n', encoding="utf-8")
    assert bench_manifests(tmp_path) == {"meld": tmp_path / "meld.jsonl"}
    with pytest.raises(InputError, match="'a' has no labels"):
        labelled_clips(tmp_path / "meld.jsonl")


def test_media_are_paths_and_decoded_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(np.zeros(16_000, dtype="<i2").tobytes())
    monkeypatch.setenv("AFFECTGPT_R1_MANIFESTS", str(tmp_path))
    video, sound = UTILS.doc_to_visual({"id": "a", "video": "a.mp4", "audio": "a.wav"})
    assert video == str(tmp_path / "a.mp4")
    assert (sound["type"], sound["path"]) == ("audio", str(tmp_path / "a.wav"))
    assert (sound["array"].shape, sound["sampling_rate"]) == ((16_000,), 16_000)
    assert UTILS.doc_to_visual({"id": "a", "video": None, "audio": None}) == []
    assert UTILS.doc_to_target({"labels": ["happy", "glad"]}) == "happy, glad"


class Named(str):
    """What follows `!function`."""


class Loader(yaml.SafeLoader):
    """YAML with lmms-eval's tag."""


Loader.add_constructor("!function", lambda _, node: Named(node.value))


def config(path: Path) -> dict[str, Any]:
    """A task's file with what it includes."""
    read: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    included = read.pop("include", None)
    return (config(path.parent / included) if included else {}) | read


def named(value: object) -> list[Named]:
    """Every function that a configuration names."""
    if isinstance(value, Named):
        return [value]
    if isinstance(value, Mapping):
        return named(list(value.values()))
    return [name for part in value for name in named(part)] if isinstance(value, list) else []


def test_every_function_that_a_file_names_exists() -> None:
    paths = [path for path in FOLDER.iterdir() if path.suffix == ".yaml" or not path.suffix]
    tasks = [path for path in paths if path.is_file()]
    assert len(tasks) == 4 + 1 + 1 + len(SETS)
    for path in tasks:
        for name in named(config(path)):
            module, function = name.split(".")
            assert (module, callable(getattr(UTILS, function, None))) == ("utils", True)


@pytest.mark.parametrize("task", ["ov_mer", *SETS])
def test_a_task_reports_its_metrics_figures(task: str) -> None:
    metric: Metric = SETS[task].metric if task in SETS else "ew"
    read = config(FOLDER / f"{f'mer_unibench_{task}' if task in SETS else task}.yaml")
    assert read["task"] == (f"mer_unibench_{task}" if task in SETS else task)
    assert read["dataset_kwargs"]["data_files"] == {read["test_split"]: f"{task}.jsonl"}
    assert read["process_results"] == f"utils.process_{metric}"
    reported = {row["metric"] for row in read["metric_list"]}
    assert reported == set(UTILS.FIGURES[metric])
    labels = ["positive"] if metric == "sentiment" else ["happy"]
    rows = [answer_row(sample, labels, ["happy"], metric) for sample in "ab"]
    known = figures(rows, Rule(metric), BUILTIN)
    assert next(iter(known)) == HEADLINES[metric]
    assert reported - {"score", "signature"} < set(known)


def test_the_group_means_the_nine_scores() -> None:
    group = config(FOLDER / "mer_unibench.yaml")
    assert group["task"] == [f"mer_unibench_{key}" for key in SETS]
    assert group["aggregate_metric_list"] == [{"metric": "score", "weight_by_size": False}]
