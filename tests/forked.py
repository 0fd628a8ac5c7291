"""The command line in processes forked from one that has imported it: seconds less a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["affectgpt_r1.cli", "affectgpt_r1.training.run", "affectgpt_r1.perception.encode"]
)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def begin(
    words: Sequence[str], said: Path | None = None, environment: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Begin a command; what it says on stderr goes into a file."""
    child = _FORKS.Process(target=_command, args=(words, said, dict(environment or {})))
    child.start()
    return child


def together(words: Sequence[str], said: Path, processes: int = 1) -> int:
    """Run a command to its end in so many processes, as torchrun would; the worst exit status."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    shared["WORLD_SIZE"] = str(processes)
    children = []
    for rank in map(str, range(processes)):
        own = {"RANK": rank, "LOCAL_RANK": rank, **shared} if processes > 1 else {}
        children.append(begin(words, said.with_suffix(f".{rank}"), own))
    for child in children:
        child.join(240)
        child.kill()
        child.join()
    return max(abs(child.exitcode or 0) for child in children)


def _command(words: Sequence[str], said: Path | None, environment: Mapping[str, str]) -> None:
    from affectgpt_r1 import cli

    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    tempfile.tempdir = None  # it is found once a process, here before the fork
    sys.argv = ["affectgpt-r1", *words]
    # A shell that runs the tests in its background has had Ctrl-C ignored, for them and for us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    silence = os.open(os.devnull, os.O_WRONLY)
    heard = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if said else silence
    os.dup2(silence, 1)
    os.dup2(heard, 2)
    cli.main()
