"""Asking a server for words: against a real one that delays, garbles, refuses and hangs up."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from affectgpt_r1.asking import Server
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.prose import ask_sentiments, ask_words
from test_cli import answer


class Local(ThreadingHTTPServer):
    """A server on localhost, in a thread of its own until it is closed."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


@dataclass(frozen=True)
class Reply:
    """What the judge does with one request; without content it gives the description back."""

    content: object = ...
    status: int = 200
    raw: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    hangs_up: bool = False
    drip_s: float = 0.0


FINE = Reply()


class Judge(Local):
    """An OpenAI-compatible server; `replies` are used up, the last one stays."""

    def __init__(self) -> None:
        self.replies = [FINE]
        self.models: list[str] = []
        self.texts: list[str] = []
        self.keys: list[str | None] = []
        self.peak = self.now = 0
        self.lock = threading.Lock()
        super().__init__(JudgeHandler)


class JudgeHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        judge = self.server
        assert isinstance(judge, Judge)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (message,) = body["messages"]
        text = message["content"].split("escription: ", 1)[1]
        with judge.lock:
            judge.models.append(body["model"])
            judge.texts.append(text)
            judge.keys.append(self.headers.get("Authorization"))
            judge.now += 1
            judge.peak = max(judge.peak, judge.now)
            reply = judge.replies.pop(0) if len(judge.replies) > 1 else judge.replies[0]
        time.sleep(reply.delay_s)
        with judge.lock:
            judge.now -= 1
        if reply.hangs_up:
            return
        content = text if reply.content is ... else reply.content
        raw = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        raw = raw if reply.raw is None else reply.raw
        self.send_response(reply.status if self.path == "/v1/chat/completions" else 404)
        for name, value in (("Content-Length", str(len(raw))), *reply.headers):
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):  # the other side may have had enough
            for byte in raw if reply.drip_s else ():
                self.wfile.write(bytes([byte]))
                time.sleep(reply.drip_s)
            self.wfile.write(b"" if reply.drip_s else raw)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    yield server
    server.close()


Ask = Callable[..., list[tuple[str, ...] | None]]


@pytest.fixture
def ask(judge: Judge, tmp_path: Path) -> Ask:
    def asked(*texts: str | None, model: str = "m", **settings: Any) -> Any:
        quick = {"retries": 2, "pause_s": 0.01, "timeout_s": 5.0, **settings}
        return ask_words(texts, Server(judge.url + "/v1", model, **quick), tmp_path / "cache")

    return asked


def kept(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_words_come_back_in_the_order_of_their_texts(
    judge: Judge, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    judge.replies = [Reply(delay_s=0.3), Reply(delay_s=0.1), FINE]
    assert ask("1. Happy\n2. sad; happy", None, "angry", "on edge and calm") == [
        ("happy", "sad"),
        None,
        ("angry",),
        ("on edge", "calm"),
    ]
    assert judge.models == ["m"] * 3  # None is no request
    assert caplog.records == []  # nothing failed


@pytest.mark.parametrize("text", ["{x} {0} {", "}{text}", "%s %(a)s \\1 {{}}", "\u2028 'q' \"é\""])
def test_a_text_is_sent_as_it_is(text: str, judge: Judge, ask: Ask) -> None:
    ask(text)
    assert judge.texts == [text]


def test_a_text_is_asked_once_and_then_not_even_a_server_is_needed(judge: Judge, ask: Ask) -> None:
    first = ask("happy, sad", "none")
    ask("none", model="another")
    assert judge.models == ["m", "m", "another"]
    judge.close()
    assert ask("none", "happy, sad", retries=0) == first[::-1] == [(), ("happy", "sad")]


def test_the_same_text_twice_in_one_call_is_asked_once(judge: Judge, ask: Ask) -> None:
    judge.replies = [Reply(delay_s=0.1)]
    assert ask("happy", "happy", "happy") == [("happy",)] * 3
    assert judge.texts == ["happy"]


def test_what_a_model_thinks_before_it_answers_is_not_read(
    judge: Judge, ask: Ask, tmp_path: Path
) -> None:
    judge.replies = [Reply("<think>happy, or sad?</think>\n\nhappy, relieved")]
    assert ask("She smiles.") == [("happy", "relieved")]
    server = Server(judge.url + "/v1", "m", concurrency=1, retries=0)
    judge.replies = [Reply("<think>negative?\n</think>\n\nPositive.")]
    assert ask_sentiments(["glad"], server, tmp_path / "cache") == ["positive"]


@pytest.mark.parametrize("content", ["none", "None.", " none\n"])
def test_none_is_an_answer_without_words(content: str, judge: Judge, ask: Ask) -> None:
    judge.replies = [Reply(content)]
    assert ask("The room is empty.") == [()]


def test_a_sentiment_is_one_of_three_words_or_not_known(
    judge: Judge, ask: Ask, tmp_path: Path
) -> None:
    ask("happy")  # another question, another answer
    server = Server(judge.url + "/v1", "m", concurrency=1, retries=0)
    judge.replies = [*map(Reply, ("Positive.", "negative", "mixed")), Reply(status=500)]
    said = ask_sentiments(["happy", "sad", "both", None, "odd"], server, tmp_path / "cache")
    assert said == ["positive", "negative", "neutral", None, None]
    assert judge.texts == ["happy", "happy", "sad", "both", "odd"]


@pytest.mark.parametrize(
    "fault", [Reply(status=429), Reply(status=500), Reply(status=503), Reply(hangs_up=True)]
)
def test_a_passing_fault_is_tried_again(
    fault: Reply, judge: Judge, ask: Ask, tmp_path: Path
) -> None:
    judge.replies = [fault, fault, FINE]
    assert ask("happy") == [("happy",)]
    assert len(judge.texts) == 3
    assert [path.suffix for path in kept(tmp_path)] == [".json"]


LASTING = {
    "500": Reply(status=500),
    "429": Reply(status=429),
    "401": Reply(status=401),
    "moved": Reply(status=302, headers=(("Location", "/v2"),)),
    "not JSON": Reply(raw=b'{"choices": [{"mess'),
    "empty": Reply(raw=b""),
    "not UTF-8": Reply(raw=b'{"choices": "\xff"}'),
    "nested too deep": Reply(raw=b"[" * 200_000),
    "not gzip": Reply(raw=b"no gzip", headers=(("Content-Encoding", "gzip"),)),
    "a list": Reply(raw=b"[]"),
    "no choices": Reply(raw=b'{"choices": []}'),
    "an error in 200": Reply(raw=b'{"error": {"message": "overloaded"}}'),
    "null content": Reply(None),
    "content in parts": Reply([{"type": "text", "text": "happy"}]),
    "nothing said": Reply(""),
    "half a character": Reply("happy \ud800"),
    "hangs up": Reply(hangs_up=True),
    "cut short": Reply(raw=b'{"choices"', headers=(("Content-Length", "999"),)),
    "too slow": Reply(delay_s=0.6),
    "a byte at a time": Reply(drip_s=0.05),
}


@pytest.mark.parametrize("fault", LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_none_and_counted(
    fault: Reply, judge: Judge, ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask("sad")
    judge.replies = [fault]
    start = time.monotonic()
    with caplog.at_level(logging.WARNING):
        found = ask("happy", "sad", None, retries=1, timeout_s=0.3)
    assert found == [None, ("sad",), None]
    assert "1 of 2 questions" in caplog.text
    assert time.monotonic() - start < 3
    assert len(kept(tmp_path)) == 1  # of "sad"; nothing of the failure, not even half a file
    judge.replies = [FINE]
    assert ask("happy") == [("happy",)]  # a failure is not remembered


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_requests_at_a_time_than_allowed(limit: int, judge: Judge, ask: Ask) -> None:
    judge.replies = [Reply(delay_s=0.1)]
    ask(*(f"calm {i}" for i in range(6)), concurrency=limit)
    assert len(judge.texts) == 6
    assert judge.peak == limit


@pytest.mark.parametrize(
    "spoilt",
    [b"", b'"hap', b"null", b"7", b'["happy"]', b'{"a": 1}', b"\xff"],
    ids=lambda spoilt: repr(spoilt),
)
def test_a_spoilt_cache_file_is_asked_again(
    spoilt: bytes, judge: Judge, ask: Ask, tmp_path: Path
) -> None:
    ask("happy")
    (path,) = kept(tmp_path)
    path.write_bytes(spoilt)
    assert ask("happy") == ask("happy") == [("happy",)]
    assert len(judge.texts) == 2
    assert kept(tmp_path) == [path]


def test_a_cache_that_cannot_be_written_costs_no_answer(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert ask("happy", "sad") == [("happy",), ("sad",)]


def test_the_key_is_sent_where_there_is_one(
    judge: Judge, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask("happy")
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    ask("sad")
    assert judge.keys == [None, "Bearer sesame"]


@pytest.mark.parametrize("url", ["127.0.0.1:1/v1", "http://host:port/v1", "ftp://host/v1"])
def test_an_address_that_is_none_is_the_users_fault(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="http"):
        ask_words(["happy"], Server(url, "m", retries=0), tmp_path)


def test_the_command_scores_what_could_be_read_and_counts_the_rest(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    path = tmp_path / "p.jsonl"
    rows: list[dict[str, object]] = [
        {"id": "a", "labels": ["happy"], "prediction": "joyful"},
        {"id": "b", "labels": ["sad"], "prediction": "gloomy"},
        {"id": "c", "labels": ["sad"], "prediction": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--extractor", "openai", "--server", judge.url + "/v1", "--server-model", "m")
    judge.replies = [FINE, Reply(status=400)]
    row = answer("score", path, *options)
    assert (row["n"], row["skipped"]) == (1, {"no prediction": 2})
    assert "|extractor:openai:m|" in str(row["signature"])
    judge.replies = [FINE]
    row = answer("score", path, *options)
    assert (row["n"], row["skipped"]) == (2, {"no prediction": 1})
    assert len(judge.texts) == 3
    rows = [{**row, "labels": 1, "sentiment": "negative"} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge.replies = [Reply("positive"), Reply(status=400)]
    judged = ("--metric", "sentiment", "--sentiments", "openai", *options[2:])
    row = answer("score", path, *judged)
    assert (row["waf"], row["n"], row["skipped"]) == (1.0, 1, {"no prediction": 2})
    assert str(row["signature"]).endswith("|sentiment:openai:m")
