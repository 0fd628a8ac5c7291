"""The server as others meet it: a process of its own, asked by many, and by the malicious."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import time
import wave
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
import psutil
import pytest

from affectgpt_r1.clips import Clip, write_manifest
from forked import begin
from test_cli import complaint
from test_media import write_video

WORDS = ("happy", "sad", "angry", "afraid")
STRESS = "AFFECTGPT_R1_STRESS" in os.environ


@dataclass
class Place:
    """Clips, and a model that was taught on them."""

    clips: list[Path]
    model: Path


@dataclass
class Server:
    """A running server.

    Attributes:
        url: where.
        said: file of what it wrote for people.
        temporary: the folder in which its temporary files lie.
    """

    url: str
    process: ForkServerProcess
    said: Path
    temporary: Path

    def ask(self, clip: Path, **fields: str) -> httpx.Response:
        with clip.open("rb") as file:
            return httpx.post(
                f"{self.url}/v1/predict", files={"file": file}, data=fields, timeout=60
            )

    def lives(self) -> bool:
        return bool(httpx.get(f"{self.url}/healthz").json()["status"] == "ok")

    def left(self) -> list[Path]:
        """Temporary files of requests; multiprocessing keeps its own sockets there."""
        return [p for p in self.temporary.rglob("*") if p.is_file()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("served")
    films = [write_video(folder / f"film{i}.mp4", 20 + i) for i in range(6)]
    clips = [
        Clip(f"film{i}", video=film, subtitle=f"line {i}", labels=(WORDS[i % 4],))
        for i, film in enumerate(films)
    ]
    write_manifest(folder / "clips.jsonl", clips)
    given = {
        "data.train": folder / "clips.jsonl",
        "data.cache": folder / "features",
        "data.allow_shared": "true",
        "run.output": folder / "run",
        "optimizer.max_steps": 60,
        "optimizer.batch_size": 6,
    }
    child = begin(
        [
            *("train", "cold-start", "nano-cold-start"),
            *(f"--set={name}={value}" for name, value in given.items()),
        ]
    )
    child.join(300)
    assert child.exitcode == 0
    return Place(films, folder / "run")


@contextmanager
def serving(
    place: Place, folder: Path, *options: str, token: str = "", ends: int = -signal.SIGTERM
) -> Iterator[Server]:
    """A server of its own; it is asked to end, and must, with that status."""
    said, temporary = folder / "said", folder / "temporary"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary), "AFFECTGPT_R1_TOKEN": token}
    if not token:
        del environment["AFFECTGPT_R1_TOKEN"]
    words = ["serve", f"--model={place.model}", "--port=0", "--per-minute=100000", *options]
    process = begin(words, said, environment)
    url = ""
    for _ in range(600):
        time.sleep(0.1)
        lines = said.read_text().splitlines() if said.exists() else []
        url = next((line for line in lines if line.startswith("http://")), "")
        if url or process.exitcode is not None:
            break
    assert url, said.read_text()
    try:
        yield Server(url, process, said, temporary)
    finally:
        process.terminate()
        process.join(60)
        ended = process.exitcode
        process.kill()
    assert ended == ends, said.read_text()
    assert "Traceback" not in said.read_text()


@pytest.fixture(scope="module")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--folder", str(place.model.parent), "--max-mib=2", "--max-duration-s=20")
    with serving(place, folder, *options) as found:
        yield found


def said_by_the_command(place: Place, folder: Path) -> dict[str, dict[str, object]]:
    out = folder / "said.jsonl"
    films = [str(path) for path in place.clips]
    cache = place.model.parent / "features"
    child = begin(["predict", *films, f"--model={place.model}", f"--cache={cache}", f"--out={out}"])
    child.join(120)
    return {(row := json.loads(line))["id"]: row for line in out.read_text().splitlines()}


def test_those_who_ask_at_once_are_answered_as_the_command_answers(
    server: Server, place: Place, tmp_path: Path
) -> None:
    expected = said_by_the_command(place, tmp_path)
    with ThreadPoolExecutor(12) as many:
        replies = list(many.map(server.ask, place.clips * 2))
    assert [reply.status_code for reply in replies] == [200] * 12
    for reply in replies:
        row = reply.json()
        alike = {name: row[name] for name in expected[row["id"]]}
        assert alike == expected[row["id"]]
        assert set(row["classes"]) == set(row["words"])
        assert row["duration_s"] > 0
        assert row["timing_s"].keys() == {"reading", "answering"}
    assert server.left() == []


def test_a_file_of_the_folder_is_answered_by_its_name_and_none_outside(
    server: Server, place: Place, tmp_path: Path
) -> None:
    outside = place.model.parent.parent / "outside.mp4"
    outside.write_bytes(place.clips[0].read_bytes())
    (place.model.parent / "link.mp4").symlink_to(outside)

    def ask(name: str) -> httpx.Response:
        return httpx.post(f"{server.url}/v1/predict", data={"name": name}, timeout=60)

    assert ask("film1.mp4").json()["words"] == server.ask(place.clips[1]).json()["words"]
    strange = ["../outside.mp4", "link.mp4", str(outside), "", ".", "run", "no.mp4", "a\0b"]
    for name in [*strange, "%2e%2e/outside.mp4", "x" * 999, "/proc/self/mem"]:
        reply = ask(name)
        assert reply.status_code in (404, 422), name
        assert str(place.model.parent) not in reply.text
    unread = ask("clips.jsonl")
    assert unread.status_code == 422
    assert unread.json()["detail"].startswith("the clip cannot be read")


def test_hostile_uploads_are_refused_and_the_server_lives(
    server: Server, place: Place, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile"
    hostile.write_bytes(b"")
    assert server.ask(hostile).status_code == 422
    hostile.write_bytes(os.urandom(50_000))
    assert server.ask(hostile).status_code == 422
    hostile.write_text("#EXTM3U\nfile:///etc/passwd\n")
    assert server.ask(hostile).status_code == 422
    with zipfile.ZipFile(hostile, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bomb:
        bomb.writestr("a", bytes(200 << 20))
    assert hostile.stat().st_size < 2 << 20
    assert server.ask(hostile).status_code == 422
    whole = place.clips[0].read_bytes()
    hostile.write_bytes(whole[: len(whole) // 3])
    assert server.ask(hostile).status_code in (200, 422)
    with wave.open(str(hostile), "wb") as silence:
        silence.setnchannels(1)
        silence.setsampwidth(1)
        silence.setframerate(100)
        silence.writeframes(bytes([128]) * 360_000)  # an hour
    reply = server.ask(hostile)
    assert reply.status_code == 422
    assert "lasts 3600 s, over 20" in reply.json()["detail"]
    name = "../../../../tmp/evil\x1b[31m.mp4"
    files = {"file": (name, whole)}
    reply = httpx.post(f"{server.url}/v1/predict", files=files, timeout=60)
    assert reply.json()["id"] == "evil\x1b[31m"
    for fields in ({}, {"name": "a", "file": "b"}, {"mode": "rage"}, {"subtitle": "x" * 3000}):
        assert httpx.post(f"{server.url}/v1/predict", data=fields).status_code == 422
    assert httpx.get(f"{server.url}/v1/predict").status_code == 405
    assert httpx.get(f"{server.url}/healthz", headers={"Host": "evil.example"}).status_code == 400
    assert server.lives()
    assert server.left() == []


def spoken(server: Server, request: bytes, timeout_s: float = 20) -> bytes:
    """What the server says to raw bytes, until it closes or is silent."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout_s) as line:
        line.sendall(request)
        return line.recv(4096)


def test_what_claims_or_is_more_than_the_limit_is_refused_unread(server: Server) -> None:
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
    head += b"boundary=x\r\n"
    assert b" 413 " in spoken(server, head + b"Content-Length: 2147483648\r\n\r\n")

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        for _ in range(64):
            yield bytes(1 << 17)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    try:
        reply = httpx.post(f"{server.url}/v1/predict", content=endless(), headers=kind, timeout=60)
        assert reply.status_code == 413
    except (httpx.WriteError, httpx.ReadError):
        pass  # it hung up on who went on sending
    assert server.lives()
    assert server.left() == []


def test_a_score_over_http_is_the_commands(server: Server, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        '{"id": "a", "words": ["joyful"], "labels": ["happy"]}\n'
        '{"id": "b", "completion": "<answer>calm</answer>", "labels": ["sad", "hurt"]}\n'
    )
    body = rows.read_bytes()
    reply = httpx.post(f"{server.url}/v1/score", content=body).json()
    from affectgpt_r1.emotion.lexicon import Lexicon
    from affectgpt_r1.evaluation.answers import read_answers
    from affectgpt_r1.evaluation.scoring import Rule, keep, score_row

    expected = score_row(keep(read_answers(rows), Rule(), ""), Rule(), Lexicon.load())
    assert reply == json.loads(json.dumps(expected))
    both = httpx.post(f"{server.url}/v1/score?level=2", content=body).json()
    assert "level:2" in both["signature"]
    for wrong in (b"", b"\xff", b"[]", b'{"id": "a"}', body + body, b"{" * 10_000):
        refused = httpx.post(f"{server.url}/v1/score", content=wrong)
        assert refused.status_code == 422
        assert str(server.temporary) not in refused.text


def test_the_rest_of_what_a_server_tells(server: Server) -> None:
    assert "affectgpt-r1|profile:nano" in httpx.get(f"{server.url}/healthz").json()["model"]
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert paths.keys() == {"/healthz", "/v1/predict", "/v1/score"}
    for body in (b'{"id": "a", "words": ["glad"], "labels": ["happy"]}', b"[]"):
        httpx.post(f"{server.url}/v1/score", content=body)
    figures = httpx.get(f"{server.url}/metrics").text
    assert 'http_requests_total{handler="/v1/score",method="POST",status="2xx"}' in figures
    assert 'http_requests_total{handler="/v1/score",method="POST",status="4xx"}' in figures


def test_token_rate_queue_and_time_are_kept(place: Place, tmp_path: Path) -> None:
    options = ("--max-open=2", "--request-s=3", "--per-minute=30", "--max-mib=2")
    with serving(place, tmp_path, *options, token="sesame") as server:
        assert server.ask(place.clips[0]).status_code == 401
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        try:  # a refused body is heard out, up to the limit of any
            pieces = (bytes(1 << 17) for _ in range(64))
            assert httpx.post(f"{server.url}/v1/score", content=pieces).status_code == 413
        except (httpx.WriteError, httpx.ReadError):
            pass  # it hung up on who went on sending
        assert server.lives()
        bearer = {"Authorization": "Bearer sesame"}
        open_ones: list[bytes] = []
        head = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\n"

        def dawdle() -> None:
            open_ones.append(spoken(server, head + b"Content-Length: 100\r\n\r\nhalf", 30))

        dawdlers = [threading.Thread(target=dawdle) for _ in range(2)]
        for one in dawdlers:
            one.start()
        time.sleep(1)
        busy = httpx.get(f"{server.url}/metrics", headers=bearer)
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "1")
        for one in dawdlers:
            one.join()
        assert all(b" 408 " in told for told in open_ones)
        assert httpx.get(f"{server.url}/metrics", headers=bearer).status_code == 200
        codes = [httpx.get(f"{server.url}/metrics").status_code for _ in range(40)]
        assert Counter(codes).keys() == {401, 429}
        assert server.lives()


def test_those_who_may_not_ask_hold_up_nobody_and_leave_no_trace(
    place: Place, tmp_path: Path
) -> None:
    token = "sésame"
    with serving(place, tmp_path, "--max-open=2", token=token) as server:
        port = int(server.url.rpartition(":")[2])
        half = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf"
        dawdlers = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        for one in dawdlers:
            one.sendall(half)
        time.sleep(0.5)
        bearer = {b"Authorization": f"Bearer {token}".encode()}
        for word in ("BREW", "BREW" * 100):
            assert httpx.request(word, f"{server.url}/healthz").status_code == 405
        figures = httpx.get(f"{server.url}/metrics", headers=bearer)
        assert figures.status_code == 200
        assert "BREW" not in figures.text
        for one in dawdlers:
            one.close()
        elsewhere = bearer | {b"Sec-Fetch-Site": b"cross-site"}
        kind = bearer | {b"Content-Type": b"multipart/form-data; boundary=x; CharSet=punycode"}
        for headers, code in ((elsewhere, 403), (kind, 415)):
            reply = httpx.post(f"{server.url}/v1/predict", headers=headers, content=b"--x--")
            assert reply.status_code == code


def test_readers_that_are_killed_with_nothing_to_do_are_replaced(
    server: Server, place: Place
) -> None:
    server.ask(place.clips[0])
    for one in psutil.Process(server.process.pid).children(recursive=True):
        if "spawn_main" in " ".join(one.cmdline()):
            one.kill()
    time.sleep(2)
    assert server.ask(place.clips[0]).status_code == 200


def test_what_nobody_waits_for_is_no_longer_worked_on(place: Place, tmp_path: Path) -> None:
    with serving(place, tmp_path, "--request-s=3") as server:
        reply = httpx.post(f"{server.url}/v1/score", content=b"[\n" * (8 << 20), timeout=60)
        assert reply.status_code == 408
        time.sleep(3)
        parent = psutil.Process(server.process.pid)
        family = [parent, *parent.children(recursive=True)]
        before_s = {one.pid: sum(one.cpu_times()[:2]) for one in family}
        time.sleep(3)
        spent_s = [
            sum(one.cpu_times()[:2]) - before_s[one.pid] for one in family if one.is_running()
        ]
        assert max(spent_s) < 1
        assert server.lives()


def test_a_server_that_is_asked_to_end_answers_first(place: Place, tmp_path: Path) -> None:
    with serving(place, tmp_path) as server, ThreadPoolExecutor(4) as many:
        asked = [many.submit(server.ask, clip) for clip in place.clips[:4]]
        time.sleep(0.3)
        server.process.terminate()
        assert [one.result().status_code for one in asked] == [200] * 4
        server.process.join(30)
        assert server.process.exitcode == -signal.SIGTERM


def test_who_interrupts_a_server_is_told_of_no_run(place: Place, tmp_path: Path) -> None:
    with serving(place, tmp_path, ends=130) as server:
        os.kill(server.process.pid or 0, signal.SIGINT)
        server.process.join(30)
    assert server.said.read_text().splitlines()[-1] == "affectgpt-r1: interrupted"


def test_what_cannot_be_served_is_told_in_a_line(place: Place) -> None:
    model = f"--model={place.model}"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # Before the model is loaded: of one that is not there nothing is said.
        told = complaint("serve", "--model=none", f"--port={port}")
        assert f"cannot listen at 127.0.0.1:{port} ([Errno 98] Address already in use)" in told
    assert "cannot listen" in complaint("serve", model, "--port=70000")
    for option in ("--workers=0", "--max-mib=-1", "--per-minute=0", "--request-s=0"):
        assert f"for {option.split('=')[0]}" in complaint("serve", model, option)


def memory_mib(process: int) -> float:
    family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    return float(sum(one.memory_info().rss for one in family)) / (1 << 20)


def test_fifty_at_a_time_meet_no_error_and_leave_nothing(place: Place, tmp_path: Path) -> None:
    lasts_s = 120 if STRESS else 6
    codes: Counter[int] = Counter()
    with serving(place, tmp_path) as server:
        server.ask(place.clips[0])
        ends_s = time.monotonic() + lasts_s

        def go_on(number: int) -> None:
            while time.monotonic() < ends_s:
                codes[server.ask(place.clips[number % 6]).status_code] += 1

        with ThreadPoolExecutor(50) as many:
            begun = [many.submit(go_on, number) for number in range(50)]
            time.sleep(lasts_s / 3)
            early = memory_mib(server.process.pid or 0)
            for one in begun:
                one.result()
        late = memory_mib(server.process.pid or 0)
        assert codes.keys() <= {200, 429}
        assert codes[200] > 5
        assert late < 1.1 * early + 50
        assert server.left() == []
        assert server.lives()
    told = f"{codes}, {early:.0f} MiB after a third, {late:.0f} MiB at the end"
    logging.getLogger(__name__).warning(told)
