"""Answers that are prose: their words, or their sentiment, by rules or by a model behind a server.

What the server does not tell is None, never an empty list.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

from affectgpt_r1.asking import Server, ask_all, spoken
from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import Answer
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.answers import AnswerRow
from affectgpt_r1.evaluation.scoring import Rule
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


def read_predictions(
    rows: Sequence[AnswerRow], rule: Rule, lexicon: Lexicon, progress: Progress | None = None
) -> list[AnswerRow]:
    """Rows with the words, and for the sentiment metric the sentiments, that a rule finds.

    Raises:
        InputError: the server or its model is not named.
    """
    if rule.metric != "sentiment" and rule.sentiments != "given":
        raise InputError(f"--sentiments {rule.sentiments} is for --metric sentiment alone")
    asks = "openai" in (rule.extractor, rule.sentiments)
    if not asks and (rule.server or rule.model):
        raise InputError("--server and --server-model are for openai: name what it shall do")
    if asks and not (rule.server and rule.model):
        raise InputError("openai needs --server URL and --server-model NAME")
    if (rule.extractor, rule.sentiments) == ("none", "given"):
        return list(rows)
    cache = user_cache_path("affectgpt-r1") / "asked"
    at = Server(rule.server or "", rule.model or ""), cache, progress
    texts = [row.text for row in rows]
    found: Sequence[Answer] = [row.prediction for row in rows]
    if rule.extractor == "lexical":
        found = [None if text is None else extract_words(text, lexicon) for text in texts]
    elif rule.extractor == "openai":
        found = ask_words(texts, *at)
    sentiments: Sequence[str | None] = [row.sentiment for row in rows]
    if rule.sentiments == "openai":
        sentiments = ask_sentiments(texts, *at)
        found = [None if s is None else words for s, words in zip(sentiments, found, strict=True)]
    elif rule.sentiments == "lexicon":
        sentiments = [None] * len(rows)
    return [
        replace(row, prediction=words, sentiment=sentiment, prose=None)
        for row, words, sentiment in zip(rows, found, sentiments, strict=True)
    ]


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
    return [None if reply is None else _words_in(reply) for reply in replies]


def ask_sentiments(
    texts: Sequence[str | None], server: Server, cache: Path, progress: Progress | None = None
) -> list[str | None]:
    """The sentiment of texts, as the server's model judges; arguments as in `ask_words`.

    Returns:
        For each text positive, negative or neutral: any other reply is neutral, as published
        (METRIC.md, "Sentiment"). None where it could not be asked.
    """
    replies = _ask(_SENTIMENT, texts, server, cache, progress)
    return [None if reply is None else _sentiment_in(reply) for reply in replies]


def _ask(
    task: str, texts: Sequence[str | None], server: Server, cache: Path, progress: Progress | None
) -> list[str | None]:
    prompts = [None if text is None else task + text for text in texts]
    questions = {prompt: partial(str, prompt) for prompt in prompts if prompt is not None}
    replies = ask_all(questions, server, cache, progress=progress)
    return [None if prompt is None else replies[prompt] for prompt in prompts]


def _words_in(reply: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(parse_labels(spoken(reply))))
    return () if words == ("none",) else words


def _sentiment_in(reply: str) -> str:
    said = parse_labels(spoken(reply))
    return said[0] if said in (["positive"], ["negative"]) else "neutral"
