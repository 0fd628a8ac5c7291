"""Lexicon and score: the authors' numbers to the last digit, ours by properties."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import (
    Pair,
    best_constant,
    ov_mer_table,
    sample_f,
    score_corpus,
    score_sample,
    signature,
)
from affectgpt_r1.emotion.sentiment import sentiment_scores
from affectgpt_r1.emotion.significance import bootstrap, difference, ew_statistic, mean_of
from affectgpt_r1.errors import LexiconError
from affectgpt_r1_demo.clips import demo_lines

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


def texts_of(oracle: dict[str, object]) -> tuple[list[str], list[str]]:
    rows: list[dict[str, str]] = oracle["rows"]  # type: ignore[assignment]
    return [row["label"] for row in rows], [row["prediction"] for row in rows]


@pytest.mark.parametrize("level", [1, 2])
def test_the_corpus_score_is_the_authors(
    level: int, oracle: dict[str, object], mer2026: Lexicon
) -> None:
    score = score_corpus(*texts_of(oracle), mer2026, level, parser="reference")
    f, precision, recall = oracle["corpus"][f"level{level}"]  # type: ignore[index]
    assert score.f == pytest.approx(f, abs=1e-12)
    assert score.precision == pytest.approx(precision, abs=1e-12)
    assert score.recall == pytest.approx(recall, abs=1e-12)


def test_every_reward_is_the_authors(oracle: dict[str, object], mer2026: Lexicon) -> None:
    rows: list[dict[str, float]] = oracle["rows"]  # type: ignore[assignment]
    for label, prediction, row in zip(*texts_of(oracle), rows, strict=True):
        score = score_sample(label, prediction, mer2026, parser="reference")
        assert score == pytest.approx(row["reward"], abs=1e-12)


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
    assert len(mer2026.words) == 7356
    for level, sizes in ((1, (6, 7, 6, 6, 6)), (2, (36, 41, 36, 48, 36))):
        for wheel, size in enumerate(sizes):
            classes = {mer2026.classes(word, level)[wheel] for word in mer2026.words} - {None}
            assert len(classes) <= size


@pytest.mark.parametrize(
    ("word", "ceiling"), [("surprise", 0.8), ("disgust", 0.6), ("neutral", 0.0)]
)
def test_published_ceilings(word: str, ceiling: float, mer2026: Lexicon) -> None:
    assert score_sample([word], [word], mer2026) == pytest.approx(ceiling)


def test_an_authors_lexicon_without_its_folder_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AFFECTGPT_R1_LEXICON", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    with pytest.raises(LexiconError, match=r"lexicon download.*--lexicon-folder"):
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
    with pytest.raises(LexiconError, match="has no folder"):
        Lexicon.load("builtin", tmp_path)


@pytest.mark.parametrize(
    ("damaged", "by"),
    [
        ("synonym.xlsx", "wheel1.xlsx"),
        ("wheel2.xlsx", "wheel3.xlsx"),
        ("wheel3.xlsx", "synonym.xlsx"),
        ("mer2026/format.csv", "wheel1.xlsx"),
    ],
)
def test_a_table_in_the_place_of_another_is_no_lexicon(
    damaged: str, by: str, shared_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(shared_dir / "reference/emotion_wheel", tmp_path / "w")
    for path in (tmp_path / "w").rglob("*"):
        path.chmod(0o700)
    shutil.copy(tmp_path / "w" / by, tmp_path / "w" / damaged)
    with pytest.raises(LexiconError, match=damaged):
        Lexicon.load("mer2026", tmp_path / "w")


@pytest.mark.parametrize("content", ["", "name,other\nhappy,happily\n", "name,format\n"])
def test_a_table_of_forms_without_forms_is_no_lexicon(
    content: str, shared_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(shared_dir / "reference/emotion_wheel", tmp_path / "w")
    (tmp_path / "w/mer2026").chmod(0o700)
    (tmp_path / "w/mer2026/format.csv").chmod(0o600)
    (tmp_path / "w/mer2026/format.csv").write_text(content)
    with pytest.raises(LexiconError, match=r"format\.csv"):
        Lexicon.load("mer2026", tmp_path / "w")


def test_bytes_flipped_in_a_spreadsheet_are_told(shared_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_dir / "reference/emotion_wheel", tmp_path / "w")
    for path in (tmp_path / "w").rglob("*"):
        path.chmod(0o700)
    whole = (tmp_path / "w/synonym.xlsx").read_bytes()
    draw = random.Random(0)
    told = 0
    for _ in range(12):
        spoilt = bytearray(whole)
        for _ in range(40):
            spoilt[draw.randrange(len(spoilt))] ^= 0xFF
        (tmp_path / "w/synonym.xlsx").write_bytes(spoilt)
        try:
            Lexicon.load("mer2026", tmp_path / "w")
        except LexiconError as error:
            told += "synonym.xlsx" in str(error)
    assert told


def test_the_builtin_lexicon_knows_every_demo_label_but_neutral() -> None:
    labels = {word for line in demo_lines() for take in line.takes for word in take.labels}
    assert {word for word in labels if not BUILTIN.counts(word)} == {"neutral"}
    assert all(map(BUILTIN.knows, labels))


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


def test_the_alphabetically_first_near_word_gives_the_class() -> None:
    frustrated = BUILTIN.explain("frustrated")["wheels"][0]
    assert (frustrated["by"], frustrated["level1"]) == ("disappointed", "sad")
    assert ("frustrated", "mad") in frustrated["lost"]
    for word in ("relaxed", "schadenfreude", "on edge"):
        explained = BUILTIN.explain(word)
        for i, wheel in enumerate(explained["wheels"]):
            near = [w for w in explained["nearest"] if w in BUILTIN.tables.wheels[i][0]]
            assert wheel["by"] == min(near, default=None)
            assert wheel["level1"] == BUILTIN.classes(word)[i]


def test_every_word_of_the_builtin_lexicon_can_be_read_and_leans() -> None:
    assert len(BUILTIN.tables.nearest) >= 1500
    for word in BUILTIN.words:
        assert parse_labels(word) == [word]
        assert BUILTIN.polarity(word) in (-1, 0, 1)


words = st.sampled_from([*BUILTIN.words, "qwertyuiop"])
answers = st.lists(words, max_size=5)


@given(answers, answers)
def test_swapping_labels_and_answer_swaps_precision_and_recall(
    one: list[str], other: list[str]
) -> None:
    forth, back = score_corpus([one], [other], BUILTIN), score_corpus([other], [one], BUILTIN)
    assert 0 <= forth.f <= 1
    if all(all(BUILTIN.classes(word)) for word in (*one, *other)) and one and other:
        assert (forth.precision, forth.recall) == pytest.approx((back.recall, back.precision))
        assert score_sample(one, other) == pytest.approx(score_sample(other, one))


@given(st.lists(st.tuples(answers, answers), min_size=1, max_size=8), st.randoms())
def test_order_repeats_and_case_change_nothing(
    pairs: list[tuple[list[str], list[str]]], rnd: random.Random
) -> None:
    mixed = [(rnd.sample(a, len(a)) + a, rnd.sample(b, len(b)) + b) for a, b in pairs]
    rnd.shuffle(mixed)
    labels, said = [", ".join(a).upper() for a, _ in mixed], [str(b).title() for _, b in mixed]
    plain = score_corpus([a for a, _ in pairs], [b for _, b in pairs], BUILTIN)
    assert score_corpus(labels, said, BUILTIN).f == pytest.approx(plain.f)


@given(answers, answers, words)
def test_a_word_of_classes_already_named_changes_nothing(
    labels: list[str], said: list[str], word: str
) -> None:
    named = [{BUILTIN.classes(w)[i] for w in said} for i in range(5)]
    if all(name is None or name in named[i] for i, name in enumerate(BUILTIN.classes(word))):
        assert score_sample(labels, [*said, word]) == score_sample(labels, said)


@given(answers, answers, words)
def test_a_word_of_wrong_classes_never_raises_the_score(
    labels: list[str], said: list[str], word: str
) -> None:
    true = [{BUILTIN.classes(w)[i] for w in labels} for i in range(5)]
    if not any(name and name in true[i] for i, name in enumerate(BUILTIN.classes(word))):
        assert score_sample(labels, [*said, word]) <= score_sample(labels, said) + 1e-12


@given(st.lists(st.tuples(answers, answers), max_size=8))
def test_reward_and_metric_are_one_function(pairs: list[tuple[list[str], list[str]]]) -> None:
    for labels, said in pairs:
        by_corpus = bootstrap(ew_statistic([(labels, said)], BUILTIN), ["a"], resamples=1).value
        assert sample_f(labels, said, BUILTIN) == pytest.approx(by_corpus)


def test_unknown_words_cost_nothing_and_lower_coverage() -> None:
    plain = score_corpus(["happy"], ["joyful"], BUILTIN)
    padded = score_corpus(["happy"], ["joyful, qwertyuiop"], BUILTIN)
    assert plain.f == padded.f
    assert (plain.coverage, padded.coverage) == (1.0, 0.5)


def test_no_sample_no_answer_and_an_unknown_answer_are_three_things() -> None:
    assert score_corpus([], [], BUILTIN).f == 0.0
    score = score_corpus(["happy", "happy", "qwertyuiop"], ["", None, "happy"], BUILTIN)
    assert (score.f, score.n, score.coverage) == (0.0, 1, 1.0)
    assert score.skipped == {"no label has a class": 1, "no prediction": 1}
    with pytest.raises(ValueError, match="zip"):
        score_corpus(["happy"], [], BUILTIN)


def test_what_a_table_lacks_is_no_answer_and_no_sign() -> None:
    nan = float("nan")
    score = score_corpus(["happy", "sad"], ["happy", nan], BUILTIN)  # type: ignore[list-item]
    assert (score.f, score.n, score.skipped) == (1.0, 1, {"no prediction": 1})
    told = sentiment_scores([nan, 1.0, 1.0, 0.0], ["negative", "positive", None, "positive"])
    assert (told.n, told.accuracy) == (1, 1.0)
    assert told.skipped == {"the label is 0": 1, "no label or sentiment": 2}


def test_the_table_of_ov_mer_has_its_twelve_values(mer2026: Lexicon) -> None:
    table = ov_mer_table(["happily", "worry"], ["happy", "anxious"], mer2026)
    assert len(table) == 12
    # First base forms happiness, worried and happiness, anxiety; of these the first wheel words
    # joy, anxious and joy, fear.
    assert table["M1"].f == table["M2"].recall == 0.5
    assert table["M3-W1-L1"].f == score_corpus(["happy"], ["happy"], mer2026).wheels[0].f == 1.0
    assert ov_mer_table([], [])["M1"].f == 0.0


def test_the_best_constant_is_the_best_of_all_small_ones() -> None:
    labels = [["happy"], ["sad", "angry"], ["afraid"], ["happy", "proud"], ["sad"], ["qwertyuiop"]]
    _, best = best_constant(labels, BUILTIN, max_words=2)
    known = ["happy", "sad", "angry", "afraid", "proud"]
    for size in (1, 2):
        for answer in itertools.combinations(known, size):
            assert best >= score_corpus(labels, [answer] * len(labels), BUILTIN).f - 1e-12
    longer, f = best_constant(labels, BUILTIN)
    assert len(longer) <= 4
    assert f == pytest.approx(score_corpus(labels, [longer] * len(labels), BUILTIN).f)
    assert best_constant([["qwertyuiop"]], BUILTIN)[0] == ()


def system(labels: list[list[str]], said: list[list[str]]) -> list[Pair]:
    return list(zip(labels, said, strict=True))


def test_the_bootstrap_draws_groups_not_samples() -> None:
    pairs = system([["happy"], ["sad"]] * 20, [["happy"], ["angry"]] * 20)
    alone = bootstrap(ew_statistic(pairs, BUILTIN), list(range(40)))
    grouped = bootstrap(ew_statistic(pairs, BUILTIN), [i % 2 for i in range(40)])
    assert alone.low <= alone.value <= alone.high
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > alone.high - alone.low


def test_equal_systems_differ_by_exactly_nothing() -> None:
    labels = [["happy"], ["sad"], ["angry"]]
    worse = ew_statistic(system(labels, [["happy"], ["angry"], ["afraid"]]), BUILTIN)
    best = ew_statistic(system(labels, labels), BUILTIN)
    same = bootstrap(difference(worse, worse), "abc")
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    better = bootstrap(difference(best, mean_of([worse, worse])), "abc")
    assert 0 <= better.low < better.value <= better.high
    assert better.value == pytest.approx(1 - bootstrap(worse, "abc").value)


def test_a_clear_difference_has_a_small_p() -> None:
    labels = [["happy"], ["sad"]] * 30
    one = ew_statistic(system(labels, labels), BUILTIN)
    other = ew_statistic(system(labels, [["angry"]] * 60), BUILTIN)
    assert bootstrap(difference(one, other), range(60)).p < 0.01
    assert bootstrap(difference(other, one), range(60)).p < 0.01


def test_the_signature_names_lexicon_level_and_release() -> None:
    assert signature(BUILTIN, 2).startswith(f"ew|lexicon:builtin#{BUILTIN.hash}|level:2|")


def test_two_thousand_samples_take_no_time() -> None:
    start = time.perf_counter()
    score_corpus([["happy", "sad"]] * 2000, [["joyful", "angry"]] * 2000, BUILTIN)
    assert time.perf_counter() - start < 2  # 0.03 s alone; a bound for crowded machines
