"""A shell in which `affectgpt-r1` and `python` are forks of one process that has imported all.

The shell is real, so quotes, pipes and files are what a user gets; only the start of Python, some
seconds a command, is left out. `python tests/forkshell.py SOCKET` is that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

_CLIENT = """#!{python} -IS
import json, os, socket, sys
asked = {{"words": [{name!r}, *sys.argv[1:]], "folder": os.getcwd()}}
asked["environment"] = dict(os.environ)
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    socket.send_fds(server, [b"fds"], [0, 1, 2])
    server.sendall(json.dumps(asked).encode())
    server.shutdown(socket.SHUT_WR)
    status = server.recv(1)
sys.exit(status[0] if status else 1)
"""


class Shell:
    """Runs scripts; made by `shell`."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs

    def run(
        self, script: str, folder: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in a folder until its first command that fails."""
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@contextlib.contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """A shell whose programs lie in a folder, while its process lives."""
    place = folder / "socket"
    for name in ("affectgpt-r1", "python"):
        program = folder / name
        program.write_text(_CLIENT.format(python=sys.executable, name=name, place=str(place)))
        program.chmod(0o755)
    command = [sys.executable, __file__, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield Shell(folder)
        finally:
            server.kill()


def _serve(place: str) -> None:
    import affectgpt_r1.cli
    import affectgpt_r1.evaluation.report
    import affectgpt_r1.perception.encode
    import affectgpt_r1.training.replay
    import affectgpt_r1.training.run  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            asking, _ = listener.accept()
            with asking:
                if os.fork() == 0:
                    listener.close()
                    os._exit(_answer(asking))


def _answer(asking: socket.socket) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(asking, 3, 3)
    asked = json.loads(b"".join(iter(lambda: asking.recv(1 << 16), b"")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    status = 1
    try:
        _run(*asked["words"])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    asking.sendall(bytes([status]))
    return status


def _run(program: str, *words: str) -> None:
    from affectgpt_r1 import cli

    if program == "python":
        sys.argv = [*words]
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
    else:
        sys.argv = [program, *words]
        cli.main()


if __name__ == "__main__":
    _serve(sys.argv[1])
