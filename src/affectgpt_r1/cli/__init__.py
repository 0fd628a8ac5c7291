"""The command line: JSON on stdout, words and progress for people on stderr.

Exit status 0: done; 2: the input is at fault, said in one line; 1: training cannot go on, said in
one line, or a bug, with its traceback; 130: interrupted. What a command does lives in the package;
here are only its options, which the functions' docstrings explain to the user. A command returns
what it answers, or iterates over it. Heavy modules are imported inside the commands, so that
`--help` and `score` answer at once.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import pairwise
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from rich.logging import RichHandler
from rich.markup import escape

from affectgpt_r1 import __version__
from affectgpt_r1.cli import runs, scores
from affectgpt_r1.console import complain, people
from affectgpt_r1.errors import InputError, TrainingError
from affectgpt_r1.evaluation.render import json_row
from affectgpt_r1_reproduction.command import reproduce


def main() -> None:
    """Run the command line and exit with its status."""
    _quiet()
    # To cyclopts a lone - is an option; ./- is the same path.
    words = [
        "./-" if word == "-" and not before.startswith("--") else word
        for before, word in pairwise(sys.argv)
    ]
    app = App(
        name="affectgpt-r1",
        help="Open-vocabulary emotion recognition: score, reward, train with GRPO, predict.",
        version=__version__,
        default_parameter=Parameter(negative=(), allow_repeating=True),
        help_format="plaintext",
        result_action=_answer,
        print_error=False,
        exit_on_error=False,
        suppress_keyboard_interrupt=False,
    )
    for command in (*runs.COMMANDS, *scores.COMMANDS, doctor, reproduce):
        app.command(command)
    status, serves = 2, words[:1] == ["serve"]
    try:
        app(words)
        if set(words) <= {"train", "lexicon", "cache"}:
            raise InputError("name one of the commands above")
        status = 0
    except (InputError, TrainingError) as error:
        complain(str(error))
        status = 1 if isinstance(error, TrainingError) else 2
    except CycloptsError as error:
        complain(f"{error} (see affectgpt-r1 --help)")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(__package__):
            raise
        extra = "serve" if serves else "train"
        complain(f"{error.name} is not installed: pip install 'affectgpt-r1[{extra}]'")
    except KeyboardInterrupt:
        goes_on = "; train, encode and predict --out go on with the same command"
        complain(f"interrupted{'' if serves else goes_on}")
        status = 130
    sys.exit(status)


def doctor() -> dict[str, str]:
    """Say what is installed, what is missing, the command that fetches it, and whether it works."""
    from affectgpt_r1.evaluation.doctor import examine

    found = {}
    for finding in examine():
        found[finding.name] = finding.value
        mark = "[yellow]--[/]" if finding.mend else "[green]ok[/]"
        line = f"{mark} {escape(': '.join(filter(None, finding)))}"
        people.print(line, highlight=False, soft_wrap=True)  # a command in it can be copied
    return found


def _answer(result: Any) -> None:
    """Print text as it is, an iterator's items each on its line, all else as JSON."""
    if isinstance(result, Iterator):
        for row in result:
            _answer(row)
    elif result is not None:
        plain = json_row(result) if is_dataclass(result) else result
        if not isinstance(plain, str):
            plain = json.dumps(plain, ensure_ascii=False, default=str)
        sys.stdout.write(f"{plain}\n")
        sys.stdout.flush()


def _quiet() -> None:
    """One voice on stderr: ours. Libraries' notes and bars are left out unless they matter."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    notes = RichHandler(console=people, show_time=False, show_path=False, show_level=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[notes])
    logging.getLogger("affectgpt_r1").setLevel(logging.INFO)
