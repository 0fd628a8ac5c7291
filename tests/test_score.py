"""Lexicon and score: the authors' numbers to the last digit, ours by properties."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.datasets.demo import demo_lines
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import best_constant, score_corpus, score_sample, signature
from affectgpt_r1.emotion.significance import bootstrap
from affectgpt_r1.errors import LexiconError

BUILTIN = Lexicon.load("builtin")


@pytest.fixture(scope="module")
def mer2026(shared_dir: Path) -> Lexicon:
    return Lexicon.load("mer2026", shared_dir / "reference/emotion_wheel")


@pytest.fixture(scope="module")
def oracle(shared_dir: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads(
        (shared_dir / "reference/oracle/random_1000.json").read_text()
    )
    return loaded


def pairs_of(oracle: dict[str, object]) -> list[tuple[list[str], list[str]]]:
    rows: list[dict[str, str]] = oracle["rows"]  # type: ignore[assignment]
    return [
        (parse_labels(row["label"], "reference"), parse_labels(row["prediction"], "reference"))
        for row in rows
    ]


@pytest.mark.parametrize("level", [1, 2])
def test_the_corpus_score_is_the_authors(
    level: int, oracle: dict[str, object], mer2026: Lexicon
) -> None:
    score = score_corpus(pairs_of(oracle), mer2026, level)
    f, precision, recall = oracle["corpus"][f"level{level}"]  # type: ignore[index]
    assert score.f == pytest.approx(f, abs=1e-12)
    assert score.precision == pytest.approx(precision, abs=1e-12)
    assert score.recall == pytest.approx(recall, abs=1e-12)


def test_every_reward_is_the_authors(oracle: dict[str, object], mer2026: Lexicon) -> None:
    rows: list[dict[str, float]] = oracle["rows"]  # type: ignore[assignment]
    for (labels, words), row in zip(pairs_of(oracle), rows, strict=True):
        assert score_sample(labels, words, mer2026).f == pytest.approx(row["reward"], abs=1e-12)


def test_the_two_published_tables_differ_on_fear(shared_dir: Path) -> None:
    folder = shared_dir / "reference/emotion_wheel"
    assert Lexicon.load("mer2025", folder).classes("fear") == (
        "scared",
        "happy",
        "joyful",
        "genius",
        "joyful",
    )
    assert Lexicon.load("mer2026", folder).classes("fear") == (
        "scared",
        "fearful",
        "scared",
        "fear",
        "scared",
    )


def test_the_published_sizes_are_met(mer2026: Lexicon) -> None:
    assert len(mer2026.table) == 7356
    for level, sizes in ((1, (6, 7, 6, 6, 6)), (2, (36, 41, 36, 48, 36))):
        for wheel, size in enumerate(sizes):
            classes = {mer2026.classes(word, level)[wheel] for word in mer2026.words} - {None}
            assert len(classes) <= size


@pytest.mark.parametrize(
    ("word", "ceiling"), [("surprise", 0.8), ("disgust", 0.6), ("neutral", 0.0)]
)
def test_published_ceilings(word: str, ceiling: float, mer2026: Lexicon) -> None:
    assert score_sample([word], [word], mer2026).f == pytest.approx(ceiling)


def test_an_authors_lexicon_without_its_folder_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AFFECTGPT_R1_LEXICON", raising=False)
    with pytest.raises(LexiconError, match="--lexicon-folder"):
        Lexicon.load("mer2026")


def test_a_damaged_table_is_named(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_dir / "reference/emotion_wheel", tmp_path / "w")
    for path in (tmp_path / "w").rglob("*"):
        path.chmod(0o700)
    (tmp_path / "w/wheel3.xlsx").write_bytes(b"not a spreadsheet")
    with pytest.raises(LexiconError, match=r"wheel3\.xlsx"):
        Lexicon.load("mer2026", tmp_path / "w")
    with pytest.raises(LexiconError, match=r"wheel1\.xlsx.*does not exist"):
        Lexicon.load("mer2026", tmp_path)
    with pytest.raises(LexiconError, match="it is builtin"):
        Lexicon.load("mer2027")


def test_the_builtin_lexicon_knows_every_demo_label_but_neutral() -> None:
    labels = {word for line in demo_lines() for take in line.takes for word in take.labels}
    assert {word for word in labels if not BUILTIN.knows(word)} == {"neutral"}


@pytest.mark.parametrize(
    "word",
    [
        "humorous",
        "tension",
        "gratitude",
        "longing",
        "self-deprecating",
        "resigned",
        "schadenfreude",
        "happily",
        "angrily",
        "admiration",
        "amusement",
        "anger",
        "annoyance",
        "approval",
        "caring",
        "confusion",
        "curiosity",
        "desire",
        "disappointment",
        "disapproval",
        "disgust",
        "embarrassment",
        "excitement",
        "fear",
        "grief",
        "joy",
        "love",
        "nervousness",
        "optimism",
        "pride",
        "realization",
        "relief",
        "remorse",
        "sadness",
        "surprise",
    ],
)
def test_the_builtin_lexicon_knows_the_words_people_use(word: str) -> None:
    assert BUILTIN.knows(word)


def test_phrases_are_words() -> None:
    assert BUILTIN.classes("on edge") == BUILTIN.classes("anxious")


def test_a_word_on_a_wheel_keeps_its_own_sector() -> None:
    assert BUILTIN.classes("frustrated")[0] == "mad"
    assert BUILTIN.classes("hurt") == ("sad", "sad", "mad", "sad", "mad")


words = st.sampled_from([*BUILTIN.words, "qwertyuiop"])
answers = st.lists(words, max_size=5)


@given(answers, answers)
def test_a_score_is_a_share_and_symmetric(one: list[str], other: list[str]) -> None:
    score = score_sample(one, other, BUILTIN)
    assert 0 <= score.f <= 1
    if all(BUILTIN.knows(word) for word in (*one, *other)) and one and other:
        full = all(all(BUILTIN.classes(word)) for word in (*one, *other))
        if full:
            assert score.f == pytest.approx(score_sample(other, one, BUILTIN).f)


@given(st.lists(st.tuples(answers, answers), min_size=1, max_size=8), st.randoms())
def test_order_and_repeats_change_nothing(pairs: list[tuple[list[str], list[str]]], rnd) -> None:  # type: ignore[no-untyped-def]
    shuffled = [(rnd.sample(a, len(a)) + a, rnd.sample(b, len(b)) + b) for a, b in pairs]
    rnd.shuffle(shuffled)
    assert score_corpus(shuffled, BUILTIN).f == pytest.approx(score_corpus(pairs, BUILTIN).f)


def test_unknown_words_cost_nothing_and_lower_coverage() -> None:
    plain = score_corpus([(["happy"], ["joyful"])], BUILTIN)
    padded = score_corpus([(["happy"], ["joyful", "qwertyuiop"])], BUILTIN)
    assert plain.f == padded.f
    assert (plain.coverage, padded.coverage) == (1.0, 0.5)


def test_no_sample_and_no_answer_are_no_crash() -> None:
    assert score_corpus([], BUILTIN).f == 0.0
    empty = score_corpus([(["happy"], []), (["qwertyuiop"], ["happy"])], BUILTIN)
    assert (empty.f, empty.skipped, empty.coverage) == (0.0, 1, 1.0)


def test_the_best_constant_is_the_best_of_all_small_ones() -> None:
    labels = [["happy"], ["sad", "angry"], ["afraid"], ["happy", "proud"], ["sad"], ["qwertyuiop"]]
    _, best = best_constant(labels, BUILTIN, max_words=2)
    known = ["happy", "sad", "angry", "afraid", "proud"]
    for size in (1, 2):
        for answer in itertools.combinations(known, size):
            assert best.f >= score_corpus([(true, answer) for true in labels], BUILTIN).f - 1e-12
    longer, _ = best_constant(labels, BUILTIN)
    assert len(longer) <= 6
    assert best_constant([["qwertyuiop"]], BUILTIN)[0] == ()


def test_the_bootstrap_draws_groups_not_samples() -> None:
    labels = [["happy"], ["sad"]] * 20
    said = [["happy"], ["angry"]] * 20
    alone = bootstrap(labels, [said], list(range(40)), BUILTIN)
    grouped = bootstrap(labels, [said], [i % 2 for i in range(40)], BUILTIN)
    assert alone.low <= alone.value <= alone.high
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > alone.high - alone.low


def test_equal_systems_differ_by_exactly_nothing() -> None:
    labels = [["happy"], ["sad"], ["angry"]]
    said = [["happy"], ["angry"], ["afraid"]]
    same = bootstrap(labels, [said], "abc", BUILTIN, baseline=[said])
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = bootstrap(labels, [labels], "abc", BUILTIN, baseline=[said, said])
    assert 0 <= better.low < better.value <= better.high
    assert better.value == pytest.approx(
        score_corpus(list(zip(labels, labels, strict=True)), BUILTIN).f
        - score_corpus(list(zip(labels, said, strict=True)), BUILTIN).f
    )


def test_runs_are_averaged() -> None:
    labels = [["happy"], ["sad"]]
    one, other = [["happy"], ["sad"]], [["happy"], ["angry"]]
    both = bootstrap(labels, [one, other], "ab", BUILTIN).value
    single = [bootstrap(labels, [run], "ab", BUILTIN).value for run in (one, other)]
    assert both == pytest.approx(np.mean(single))


def test_the_signature_names_lexicon_level_and_release() -> None:
    assert signature(BUILTIN, 2).startswith(f"ew|lexicon:builtin#{BUILTIN.hash}|level:2|")


def test_two_thousand_samples_take_no_time() -> None:
    pairs = [(["happy", "sad"], ["joyful", "angry"])] * 2000
    start = time.perf_counter()
    score_corpus(pairs, BUILTIN)
    assert time.perf_counter() - start < 2  # 0.03 s alone; a bound for crowded machines
