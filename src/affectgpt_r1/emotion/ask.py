"""Emotion words or sentiments out of prose, by a model behind an OpenAI-compatible server.

Bounded in parallel, retried, and kept on disk: the same text is never asked about twice. An answer
that cannot be had is None, left out of the score and counted; it is never an empty list.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole

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
#: What a server may answer and mean "try again".
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server.

    Attributes:
        url: up to and including `/v1`.
        model: its name there.
        concurrency: requests at a time.
        retries: of one request, with growing pauses.
        timeout_s: of one request.
        pause_s: before the first retry; doubled each time.
    """

    url: str
    model: str
    concurrency: int = 8
    retries: int = 4
    timeout_s: float = 60.0
    pause_s: float = 1.0


def ask_words(
    texts: Sequence[str | None], server: Server, cache: Path, progress: Progress | None = None
) -> list[tuple[str, ...] | None]:
    """The emotion words of texts, as the server's model reads them.

    The key is read from OPENAI_API_KEY, where the server wants one.

    Args:
        texts: prose; None stays None.
        server: who is asked.
        cache: folder of the answers.
        progress: told how many of how many texts are done.

    Returns:
        For each text its words; empty where the model finds none; None where it could not be
        asked.

    Raises:
        InputError: the `judge` extra is not installed.
    """
    replies = _ask_all(_WORDS, texts, server, cache, progress)
    return [None if reply is None else _words(reply) for reply in replies]


def ask_sentiments(
    texts: Sequence[str | None], server: Server, cache: Path, progress: Progress | None = None
) -> list[str | None]:
    """The sentiment of texts, as the server's model judges; arguments as in `ask_words`.

    Returns:
        For each text positive, negative or neutral: any other reply is neutral, as published
        (METRIC.md, "Sentiment"). None where it could not be asked.
    """
    replies = _ask_all(_SENTIMENT, texts, server, cache, progress)
    return [None if reply is None else _sentiment(reply) for reply in replies]


def _words(reply: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(parse_labels(reply)))
    return () if words == ("none",) else words


def _sentiment(reply: str) -> str:
    said = parse_labels(reply)
    return said[0] if said in (["positive"], ["negative"]) else "neutral"


def _ask_all(
    question: str,
    texts: Sequence[str | None],
    server: Server,
    cache: Path,
    progress: Progress | None,
) -> list[str | None]:
    """The server's replies, so many at a time; None where there is none, counted aloud."""
    import asyncio

    try:
        import httpx
    except ImportError:
        raise InputError("asking a server needs httpx: pip install 'affectgpt-r1[judge]'") from None

    try:
        known = httpx.URL(server.url).scheme in ("http", "https")
    except httpx.InvalidURL:
        known = False
    if not known:
        raise InputError(f"{server.url!r} is no address of a server: write http://HOST:PORT/v1")

    async def ask_all() -> list[str | None]:
        key = os.environ.get("OPENAI_API_KEY")
        if key and not key.isascii():
            raise InputError("OPENAI_API_KEY holds characters that no key has: copy it anew")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        gate = asyncio.Semaphore(server.concurrency)
        done = answered = failed = 0
        async with httpx.AsyncClient(headers=headers, timeout=server.timeout_s) as client:

            async def one(text: str) -> str | None:
                """What was kept of a text, or else the server's answer."""
                nonlocal done, answered, failed
                place = _place(cache, server, question + text)
                reply = _kept(place)
                if reply is None:
                    async with gate:
                        # A server that is not there is not waited for anew with every text.
                        if answered or failed < server.concurrency:
                            reply = await _ask(client, question + text, server, place)
                    answered, failed = answered + (reply is not None), failed + (reply is None)
                done += 1
                if progress:
                    progress(done, len(distinct))
                return reply

            return list(await asyncio.gather(*map(one, distinct)))

    distinct = list(dict.fromkeys(text for text in texts if text is not None))
    replies = dict(zip(distinct, asyncio.run(ask_all()), strict=True))
    failed = sum(text is not None and replies[text] is None for text in texts)
    if failed:
        told = (failed, len(texts), server.url)
        _log.warning("%d of %d texts could not be read by the server at %s", *told)
    return [None if text is None else replies[text] for text in texts]


def _place(cache: Path, server: Server, prompt: str) -> Path:
    asked = json.dumps([server.url, server.model, prompt])
    key = hashlib.sha256(asked.encode()).hexdigest()
    return cache / key[:2] / f"{key}.json"


def _kept(path: Path) -> str | None:
    """The answer of an earlier run; None where there is none, or its file is spoilt."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, str) else None


async def _ask(client: Any, prompt: str, server: Server, path: Path) -> str | None:
    import asyncio

    import httpx

    message = {"role": "user", "content": prompt}
    body = {"model": server.model, "temperature": 0, "messages": [message]}
    for attempt in range(server.retries + 1):
        if attempt:
            await asyncio.sleep(server.pause_s * 2 ** (attempt - 1))
        try:
            async with asyncio.timeout(server.timeout_s):
                answer = await client.post(f"{server.url.rstrip('/')}/chat/completions", json=body)
            if answer.status_code in _AGAIN:
                continue
            answer.raise_for_status()
            content = _text(answer.json()["choices"][0]["message"]["content"])
        except (httpx.TransportError, TimeoutError) as error:
            _log.debug("%s: %r", server.url, error)
            continue
        except (httpx.HTTPError, RecursionError, ValueError, LookupError, TypeError) as error:
            _log.warning("no answer from %s: %s", server.url, " ".join(str(error).split()))
            return None
        try:
            write_whole(path, json.dumps(content, ensure_ascii=False))
        except OSError as error:
            _log.warning("an answer is not kept (%s): it will be asked for again", error)
        return content
    return None


def _text(content: object) -> str:
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the answer holds no text")
    content.encode()  # half a surrogate pair is no text either
    return content
