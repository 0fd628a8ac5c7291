"""Emotion words or sentiments out of prose, by a model behind an OpenAI-compatible server.

An answer that cannot be had is None, left out of the score and counted; it is never an empty list.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from affectgpt_r1.asking import Server, ask_all
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.progress import Progress

_WORDS = (
    "Below is a description of a person in a video. List the words for the person's emotional "
    "states that the description supports, separated by commas. Leave out emotions that it denies "
    "or that other people have. If it supports none, answer: none. Give the list and nothing "
    "else.\n\nDescription: "
)
_SENTIMENT = (
    "Below are emotion words, or a description, of a person in a video. Is the person's sentiment "
    "positive, negative or neutral? Answer with one of these three words and nothing else.\n\n"
    "Words or description: "
)


def ask_words(
    texts: Sequence[str | None], server: Server, cache: Path, progress: Progress | None = None
) -> list[tuple[str, ...] | None]:
    """The emotion words of texts, as the server's model reads them.

    Args:
        texts: prose; None stays None.
        server, cache, progress: as in `ask_all`.

    Returns:
        For each text its words; empty where the model finds none; None where it could not be
        asked.

    Raises:
        InputError: as `ask_all`.
    """
    replies = _ask(_WORDS, texts, server, cache, progress)
    return [None if reply is None else _words(reply) for reply in replies]


def ask_sentiments(
    texts: Sequence[str | None], server: Server, cache: Path, progress: Progress | None = None
) -> list[str | None]:
    """The sentiment of texts, as the server's model judges; arguments as in `ask_words`.

    Returns:
        For each text positive, negative or neutral: any other reply is neutral, as published
        (METRIC.md, "Sentiment"). None where it could not be asked.
    """
    replies = _ask(_SENTIMENT, texts, server, cache, progress)
    return [None if reply is None else _sentiment(reply) for reply in replies]


def _ask(
    instruction: str,
    texts: Sequence[str | None],
    server: Server,
    cache: Path,
    progress: Progress | None,
) -> list[str | None]:
    prompts = [None if text is None else instruction + text for text in texts]
    questions = {prompt: partial(str, prompt) for prompt in prompts if prompt is not None}
    replies = ask_all(questions, server, cache, progress=progress)
    return [None if prompt is None else replies[prompt] for prompt in prompts]


def _words(reply: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(parse_labels(reply)))
    return () if words == ("none",) else words


def _sentiment(reply: str) -> str:
    said = parse_labels(reply)
    return said[0] if said in (["positive"], ["negative"]) else "neutral"
