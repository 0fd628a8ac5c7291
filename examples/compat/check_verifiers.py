"""verifiers: `vf-eval` itself over a file of rows, its own harness asking a server made here.

The server speaks OpenAI's chat protocol and answers each row's prompt with the row's completion;
what verifiers then wrote into its traces is compared with this project's numbers. Checked twice:
as it comes, and with thinking, which the server sends apart from the reply.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

from affectgpt_r1.rewards import RewardBreakdown, term_means
from rows import ROWS, UNKNOWN, expected

EXAMPLES = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the evaluation twice and compare."""
    sys.path.insert(0, str(EXAMPLES))  # what PYTHONPATH=examples does
    with tempfile.TemporaryDirectory() as folder, server() as url:
        place = Path(folder)
        plain = evaluated(place / "plain", url)
        compare(plain, expected())
        rule = ("--env.taskset.task.mode", "think", "--env.taskset.task.terms.format", "0.2")
        apart = evaluated(place / "apart", url, *rule)
        compare(apart, expected(mode="think", format=0.2))
    print(  # vf-eval does not end its last line
        f"\nverifiers {version('verifiers')}: ok, vf-eval over {len(plain)} rows twice: taskset "
        "found by its name, settings from the command line, chat harness, reward, metrics"
    )


def evaluated(place: Path, url: str, *more: str) -> dict[int, Any]:
    """What `vf-eval` wrote of each row, by the row's number."""
    from verifiers.v1.cli.eval.main import main as vf_eval

    place.mkdir()
    rows = place / "rows.jsonl"
    lines = [{"prompt": f"row {at}", "labels": row.labels} for at, row in enumerate(ROWS)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    vf_eval(
        [
            *("verifiers_taskset", "--env.taskset.rows", str(rows), "--model", "none"),
            *("--client.base-url", url, "--env.agent.harness.id", "null"),
            *("--env.agent.runtime.type", "subprocess", "--no-push", "-o", str(place), *more),
        ]
    )
    (written,) = place.rglob("traces.jsonl")
    episodes = [json.loads(line) for line in written.read_text().splitlines()]
    traces = [trace for episode in episodes for trace in episode["traces"]]
    return {trace["task"]["data"]["idx"]: trace for trace in traces}


def compare(traces: dict[int, Any], rows: list[RewardBreakdown]) -> None:
    """One reward, the total; every term that was judged as a metric."""
    assert sorted(traces) == list(range(len(ROWS)))
    for at, row in enumerate(rows):
        trace = traces[at]
        assert not trace["errors"], trace["errors"]
        assert trace["rewards"] == {"emotion": {"score": row.total, "weight": 1.0}}, (at, trace)
        assert trace["metrics"] == term_means([row]), (at, trace["metrics"])
    assert "accuracy" not in traces[UNKNOWN]["metrics"]


@contextmanager
def server() -> Iterator[str]:
    """A chat server whose reply to `row 3` is the third row's completion."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
    finally:
        httpd.shutdown()


class Chat(BaseHTTPRequestHandler):
    """OpenAI's chat completions as the harness asks for them: streamed."""

    def do_POST(self) -> None:
        """Answer with the row's completion, the thinking apart as reasoning servers send it."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        row = ROWS[int(asked["messages"][-1]["content"].split()[-1])]
        message = {"role": "assistant", "content": row.completion}
        thought, found, rest = row.completion.removeprefix("<think>").partition("</think>")
        if found:
            message |= {"reasoning_content": thought, "content": rest}
        choice = {"index": 0, "delta": message, "finish_reason": "stop"}
        chunk = {
            "id": "reply",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "none",
            "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        body = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


if __name__ == "__main__":
    main()
