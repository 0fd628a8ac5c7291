"""A small omni-modal judge as a process of its own: answers, delays, garbles, drops and refuses.

It holds those answers better that name more of the words which the subtitle holds, and so knows the
truth about a clip whose subtitle says it. Every request is one line of its log.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

LOCK = threading.Lock()
FENCE = re.compile(r"```json\n(.*)\n```", re.DOTALL)
ORDERS = re.compile(r"choose|pick|ignore|best answer|i win", re.IGNORECASE)


class Server(ThreadingHTTPServer):
    """With what was asked of it on the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(("127.0.0.1", options.port), Handler)
        self.options, self.draw = options, random.Random(options.seed)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        options = server.options
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        with LOCK:
            fate = server.draw.random()
            with options.log.open("a") as log:
                kinds = [part["type"] for part in content]
                log.write(json.dumps({"kinds": kinds, "text": content[-1]["text"]}) + "\n")
        if fate < options.late:
            time.sleep(options.delay_s)
        elif fate < options.late + options.dropped:
            self.close_connection = True
            return
        refused = options.refuse and options.refuse in content[-1]["text"]
        status = (
            400
            if refused
            else 500
            if fate < options.late + options.dropped + options.refused
            else 200
        )
        garbled = fate > 1 - options.garbled
        verdict = "I like \ufffd both <" if garbled else say(content[-1]["text"], options)
        raw = json.dumps({"choices": [{"message": {"content": verdict}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


def say(text: str, options: argparse.Namespace) -> str:
    """A verdict, as a model might say it."""
    fenced = FENCE.search(text)
    assert fenced, text
    data: dict[str, Any] = json.loads(fenced[1])
    if options.biased:
        return "A"
    if options.gullible:
        for side in "AB":
            if any(ORDERS.search(word) for word in data[side]):
                return side
        if order := re.search(r"answer ([AB])", data["subtitle"] + FENCE.sub("", text)):
            return order[1]
    a, b = (len({w for w in data[side] if w in data["subtitle"]}) for side in "AB")
    if options.verbose:
        return "It is a tie" if a == b else ("A fits better" if a > b else "B fits better")
    return "tie" if a == b else ("**Answer A.**" if a > b else " b")


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("log", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    for share in ("late", "dropped", "refused", "garbled"):
        parser.add_argument(f"--{share}", type=float, default=0.0)
    parser.add_argument("--refuse", default="")
    parser.add_argument("--delay-s", type=float, default=1.0)
    for habit in ("biased", "gullible", "verbose"):
        parser.add_argument(f"--{habit}", action="store_true")
    server = Server(parser.parse_args())
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
