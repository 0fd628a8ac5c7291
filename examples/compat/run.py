"""Run the examples inside the tools they are for, each in its own environment: pins conflict.

    python examples/compat/run.py [NAME...]

NAME stands for NAME.txt beside this file (default: all of them), the tool's requirements with its
release pinned; what would pull in more than a reward needs stands in NAME.no-deps.txt and is
installed without its dependencies. The environment is .compat/NAME, and check_NAME.py runs in it.
Standard library only. Exit status 1: a check failed, or its tool could not be installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TIMEOUT_S = 900


def main(names: list[str]) -> int:
    """Check the tools one after the other, then tell of all of them."""
    known = sorted(path.stem for path in HERE.glob("*.txt") if not path.stem.endswith(".no-deps"))
    if unknown := sorted(set(names) - set(known)):
        print(f"no {', '.join(unknown)}: choose from {', '.join(known)}", file=sys.stderr)
        return 2
    told = [(name, *checked(name)) for name in names or known]
    for name, passed, seconds, last in told:
        print(f"{name:12} {'ok' if passed else 'FAILED':6} {seconds:6.0f} s  {last}")
    return 0 if all(passed for _, passed, _, _ in told) else 1


def checked(name: str) -> tuple[bool, float, str]:
    """Whether a tool's check passed, its seconds with the installation, its last line."""
    start = time.monotonic()
    try:
        python = installed(name)
        path = os.pathsep.join((str(python.parent), os.environ.get("PATH", "")))
        run = subprocess.run(
            [python, HERE / f"check_{name}.py"],
            cwd=ROOT,
            env={**os.environ, "PATH": path},  # as an activated environment: tools start programs
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return False, time.monotonic() - start, str(error)
    lines = run.stdout.strip().splitlines() or ["printed nothing"]
    return run.returncode == 0, time.monotonic() - start, lines[-1]


def installed(name: str) -> Path:
    """The Python of a tool's environment, which is made or brought up to date first.

    Raises:
        subprocess.CalledProcessError: pip could not install it.
    """
    place = ROOT / ".compat" / name
    python, stamp = place / "bin" / "python", place / ".complete"
    needed, bare = HERE / f"{name}.txt", HERE / f"{name}.no-deps.txt"
    made_of = "".join(
        path.read_text() for path in (needed, bare, ROOT / "pyproject.toml") if path.exists()
    )
    if not stamp.exists() or stamp.read_text() != made_of:
        if not python.exists():
            venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        # In one go, so that pip finds releases that suit the tool and this project.
        subprocess.run([*pip, "-r", str(needed), "-e", str(ROOT)], check=True)
        if bare.exists():
            subprocess.run([*pip, "--no-deps", "-r", str(bare)], check=True)
        stamp.write_text(made_of)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
