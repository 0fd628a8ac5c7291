"""The prompt to the letter, and the one parser of completions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectgpt_r1.dialogue import (
    QUESTIONS,
    Modality,
    Mode,
    Problem,
    Text,
    parse_completion,
    prompt_pieces,
    target_text,
)

# MODEL.md, "LLM and prompt", with the placeholders' names in place of tokens.
PUBLISHED = (
    "###Human: The audio and video merged info is: <Multi>{multi}</Multi>. The audio content is as "
    "follows: <Audio>{audio}</Audio>. Meanwhile, we uniformly sample raw frames from the video and "
    "extract faces from these frames: <Video>{visual}</Video>. The subtitle of this video is: "
    "<Subtitle>{subtitle}</Subtitle>. Now, please answer my question based on all the provided "
    f"information. {QUESTIONS['answer']} ###Assistant: "
)


def rendered(**settings: object) -> str:
    pieces = prompt_pieces("{subtitle}", **settings)  # type: ignore[arg-type]
    return "".join(piece.text if isinstance(piece, Text) else f"{{{piece}}}" for piece in pieces)


def test_the_prompt_is_the_published_one_to_the_letter() -> None:
    assert rendered() == PUBLISHED


def test_frames_have_their_own_sentence() -> None:
    assert "sample raw frames from the video: <Video>{visual}</Video>." in rendered(view="frame")


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"has_audio": False}, [Modality.VISUAL]),
        ({"has_visual": False}, [Modality.AUDIO]),
        ({"has_audio": False, "has_visual": False}, []),
        ({}, [Modality.MULTI, Modality.AUDIO, Modality.VISUAL]),
    ],
)
def test_a_missing_modality_drops_its_sentence(
    settings: dict[str, bool], left: list[Modality]
) -> None:
    pieces = prompt_pieces("Oh.", **settings)  # type: ignore[arg-type]
    assert [piece for piece in pieces if isinstance(piece, Modality)] == left


def test_an_empty_subtitle_keeps_its_empty_tag() -> None:
    text = "".join(piece.text for piece in prompt_pieces("") if isinstance(piece, Text))
    assert "<Subtitle></Subtitle>" in text


@pytest.mark.parametrize("mode", ["answer", "think"])
def test_what_cold_start_teaches_is_well_formed(mode: Mode) -> None:
    reply = target_text(("happy", "on edge"), "The brows are raised.", mode)
    completion = parse_completion(reply + "###", mode)
    assert completion.well_formed
    assert completion.words == ("happy", "on edge")
    assert completion.think == (None if mode == "answer" else "The brows are raised.")


@pytest.mark.parametrize(
    ("mode", "reply", "problem"),
    [
        ("answer", "", Problem.EMPTY),
        ("answer", "happy", Problem.NO_ANSWER),
        ("answer", "<answer></answer>", Problem.EMPTY_ANSWER),
        ("answer", "<answer> , </answer>", Problem.EMPTY_ANSWER),
        ("answer", "<think>x</think><answer>happy</answer>", Problem.UNWANTED_THINK),
        ("think", "<answer>happy</answer>", Problem.NO_THINK),
        ("think", "<think> </think><answer>happy</answer>", Problem.EMPTY_THINK),
        ("answer", "<answer>happy</answer><answer>sad</answer>", Problem.REPEATED_BLOCK),
        ("answer", "Well: <answer>happy</answer>", Problem.TEXT_OUTSIDE),
        ("answer", "<answer>happy", Problem.UNCLOSED),
        ("answer", "<answer><answer>happy</answer>", Problem.UNCLOSED),
        ("think", "<answer>happy</answer><think>x</think>", Problem.TEXT_OUTSIDE),
        ("answer", "The character's emotional state is happy, relieved.", Problem.SENTENCE),
    ],
)
def test_each_fault_has_its_name(mode: Mode, reply: str, problem: Problem) -> None:
    completion = parse_completion(reply, mode)
    assert problem in completion.problems
    assert not completion.well_formed


def test_affectgpts_own_sentence_has_words() -> None:
    reply = "The character's emotional state is happy, relieved.###"
    assert parse_completion(reply).words == ("happy", "relieved")


def test_text_after_the_stop_string_is_cut() -> None:
    assert parse_completion("<answer>happy</answer>###<answer>sad</answer>").words == ("happy",)


@pytest.mark.parametrize("rest", ["", "#", " Human: and now?", "Human: and", " Assistant: sad"])
def test_another_turn_is_cut(rest: str) -> None:
    said = parse_completion(f"<think>She smiles</think><answer>happy</answer>###{rest}", "think")
    assert (said.think, said.words, said.problems) == ("She smiles", ("happy",), frozenset())


def test_a_heading_is_no_other_turn() -> None:
    said = "<think>### Face\nShe smiles.\n#### Voice\nWarm.</think><answer>happy</answer>"
    assert parse_completion(said, "think").words == ("happy",)
    assert not parse_completion(said, "think").problems


def test_words_are_in_order_and_each_once() -> None:
    assert parse_completion("<answer>Sad, happy, sad</answer>").words == ("sad", "happy")


@given(st.text(st.sampled_from("<>/abthinkanswer, #."), max_size=60) | st.text(max_size=60))
def test_the_parser_never_raises(text: str) -> None:
    for mode in ("answer", "think"):
        completion = parse_completion(text, mode)
        assert completion.well_formed == (not completion.problems)
        assert not (completion.well_formed and not completion.words)


@given(
    st.lists(
        st.sampled_from(["happy", "on edge", "sad", "self-deprecating"]), min_size=1, unique=True
    ),
    st.text(st.characters(exclude_characters="<>#", exclude_categories=["Cs"]), min_size=1).filter(
        str.strip
    ),
)
def test_a_target_reads_back_as_itself(words: list[str], thought: str) -> None:
    completion = parse_completion(target_text(tuple(words), thought, "think"), "think")
    assert completion.well_formed
    assert completion.words == tuple(words)
    assert completion.think == thought.strip()
