"""Questions to a model behind an OpenAI-compatible server.

Bounded in parallel and in time, retried, and kept on disk: the same question is never asked twice.
An answer that cannot be had is None, counted aloud; it is never put in the place of another. What
is asked, and what an answer means, this module does not know.
"""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from affectgpt_r1.errors import InputError
from affectgpt_r1.files import digest_of, write_whole
from affectgpt_r1.progress import Progress

if TYPE_CHECKING:
    import httpx

#: What a server may answer and mean "try again".
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_log = logging.getLogger(__name__)

#: A text, or the parts of a message as OpenAI's chat API has them.
Content: TypeAlias = str | list[dict[str, object]]
#: A key that names each question, and what makes its message when it is asked.
Questions: TypeAlias = Mapping[str, Callable[[], Content]]
#: What is kept of an answer; raises ValueError where it is none.
Reading: TypeAlias = Callable[[str], str]


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
        budget_s: for all questions that are asked at once; what is open then stays unanswered.
    """

    url: str
    model: str
    concurrency: int = 8
    retries: int = 4
    timeout_s: float = 60.0
    pause_s: float = 1.0
    budget_s: float | None = None


def ask_all(
    questions: Questions,
    server: Server,
    cache: Path,
    *,
    read: Reading = str,
    progress: Progress | None = None,
) -> dict[str, str | None]:
    """The server's answers by the questions' keys.

    The key of the server itself is read from OPENAI_API_KEY, where it wants one.

    Args:
        questions: each is asked once.
        server: who is asked.
        cache: folder of the answers.
        read: what is kept of an answer; raises ValueError where it is none, and it is asked again.
        progress: told how many of how many are done.

    Returns:
        None where there is no answer.

    Raises:
        InputError: as `check_server`.
    """
    check_server(server)
    work = _ask_all(questions, server, cache, read, progress)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        answers = asyncio.run(work)
    else:  # a notebook's loop cannot be entered twice
        with ThreadPoolExecutor(1) as thread:
            answers = thread.submit(asyncio.run, work).result()
    if failed := sum(answer is None for answer in answers.values()):
        told = (failed, len(questions), server.url)
        _log.warning("%d of %d questions were not answered by the server at %s", *told)
    return answers


def spoken(reply: str) -> str:
    """A reply without the thinking that some servers leave in front of it.

    >>> spoken("<think>sad?</think>happy"), spoken("happy")
    ('happy', 'happy')
    """
    return reply.rpartition("</think>")[2]


def check_server(server: Server) -> None:
    """Refuse what cannot be asked, before any work.

    Raises:
        InputError: the `judge` extra is not installed, or the address or the key is none.
    """
    try:
        import httpx
    except ImportError:
        raise InputError("asking a server needs httpx: pip install 'affectgpt-r1[judge]'") from None

    scheme = ""
    with suppress(httpx.InvalidURL):
        scheme = httpx.URL(server.url).scheme
    if scheme not in ("http", "https"):
        raise InputError(f"{server.url!r} is no address of a server: write http://HOST:PORT/v1")
    if not os.environ.get("OPENAI_API_KEY", "").isascii():
        raise InputError("OPENAI_API_KEY holds characters that no key has: copy it anew")


async def _ask_all(
    questions: Questions, server: Server, cache: Path, read: Reading, progress: Progress | None
) -> dict[str, str | None]:
    import httpx

    secret = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    gate = asyncio.Semaphore(server.concurrency)
    answers: dict[str, str | None] = {}
    heard = asyncio.Event()  # that the server is there
    lost = 0

    async def one(key: str) -> None:
        """What was kept of a question, or else the server's answer."""
        nonlocal lost
        name = digest_of([server.model, key])  # a server that moved is the same
        path = cache / name[:2] / f"{name}.json"
        answer = _kept(path, read)
        if answer is None:
            async with gate:
                # A server that is not there is not waited for anew with every question.
                if heard.is_set() or lost < server.concurrency:
                    answer = await _ask(client, questions[key], server, path, read, heard)
                    lost += answer is None
        answers[key] = answer
        if progress:
            progress(len(answers), len(questions))

    async with httpx.AsyncClient(headers=headers, timeout=server.timeout_s) as client:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*map(one, questions)), server.budget_s)
    return {key: answers.get(key) for key in questions}


def _kept(path: Path, read: Reading) -> str | None:
    """The answer of an earlier run; None where there is none, or its file is spoilt."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return read(kept) if isinstance(kept, str) else None
    except (OSError, ValueError):
        return None


async def _ask(
    client: "httpx.AsyncClient",
    content: Callable[[], Content],
    server: Server,
    path: Path,
    read: Reading,
    heard: asyncio.Event,
) -> str | None:
    import httpx

    try:
        message = {"role": "user", "content": content()}
    except InputError as error:  # such as a clip that is not there any more
        _log.warning("not asked: %s", error)
        heard.set()  # nothing is known against the server
        return None
    body = {"model": server.model, "temperature": 0, "messages": [message]}
    for attempt in range(server.retries + 1):
        if attempt:
            await asyncio.sleep(server.pause_s * 2 ** (attempt - 1))
        try:
            async with asyncio.timeout(server.timeout_s):
                reply = await client.post(f"{server.url.rstrip('/')}/chat/completions", json=body)
            heard.set()
            if reply.status_code in _AGAIN:
                continue
            reply.raise_for_status()
            text = _text(reply.json()["choices"][0]["message"]["content"])
        except (httpx.TransportError, TimeoutError) as error:
            _log.debug("%s: %r", server.url, error)
            continue
        except (httpx.HTTPError, RecursionError, ValueError, LookupError, TypeError) as error:
            _log.warning("no answer from %s: %s", server.url, " ".join(str(error).split()))
            return None
        try:
            answer = read(text)
        except ValueError as error:
            _log.debug("%s: %s", server.url, error)
            if attempt:
                return None  # asked twice; it would say the same again
            continue
        try:
            write_whole(path, json.dumps(answer, ensure_ascii=False))
        except OSError as error:
            _log.warning("an answer is not kept (%s): it will be asked for again", error)
        return answer
    return None


def _text(content: object) -> str:
    if not isinstance(content, str) or not content.strip():
        raise ValueError("the answer holds no text")
    content.encode()  # half a surrogate pair is no text either
    return content
