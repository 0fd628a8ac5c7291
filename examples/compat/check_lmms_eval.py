"""lmms-eval runs the tasks of `lmms_eval/`: its TaskManager, tasks, evaluator and command line.

The model is a small class over lmms-eval's own `lmms` base that gives the replies it is told, and
on the command line its own `dummy`. What is not shown: that a real model reads the media.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.protocol import ChatMessages
from lmms_eval.tasks import TaskManager

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import sample_f, score_corpus
from affectgpt_r1.evaluation.unibench import SETS
from tiny_clips import LABELS, REPLIES, WORDS, set_scores, write_clips, write_manifests

TASKS = Path(__file__).resolve().parents[1] / "lmms_eval"
LEXICON = Lexicon.load("builtin")
PAIRS = list(zip(LABELS, WORDS, strict=True))


class Replies(lmms):
    """A model that says what it is told, and keeps what it was shown."""

    def __init__(self, *, is_simple: bool) -> None:
        super().__init__()
        self.is_simple = is_simple
        self.seen: list[Any] = []

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One reply a request, found by the subtitle; the media are what the task made of them."""
        replies = []
        for request in requests:
            if self.is_simple:
                context, _, doc_to_visual, doc_id, task, split = request.args
                self.seen.append(doc_to_visual(self.task_dict[task][split][doc_id]))
            else:
                context, doc_to_messages, _, doc_id, task, split = request.args
                messages = doc_to_messages(self.task_dict[task][split][doc_id])
                self.seen.append(ChatMessages(messages=messages).extract_media())
            place = next(i for i in range(len(REPLIES)) if f"Line {i}." in context)
            replies.append(REPLIES[place])
        return replies

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not asked for by these tasks."""
        raise NotImplementedError

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not asked for by these tasks."""
        raise NotImplementedError


def main() -> None:
    """Check, and say what was checked in one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_manifests(folder, write_clips(folder))
        os.environ["LMMS_EVAL_DATASETS_CACHE"] = str(folder / "cache")
        os.chdir(folder)
        f = check_scores(folder)
        check_messages(folder)
        mean = check_bench()
        check_command_line(folder)
        os.chdir("/")  # some systems remove no folder that somebody is in
    print(
        f"lmms_eval {version('lmms_eval')}: ok, {len(PAIRS)} samples through simple_evaluate() "
        f"and the command line, F {f:.4f} equal to ours; nine sets, mean {mean:.4f} equal to ours"
    )


def run(task: str, *, is_simple: bool = True) -> tuple[dict[str, Any], list[Any]]:
    """A task's results by lmms-eval's own means, and what its model was shown."""
    manager = TaskManager("ERROR", include_path=str(TASKS), include_defaults=False)
    model = Replies(is_simple=is_simple)
    results = simple_evaluate(model, tasks=[task], task_manager=manager, batch_size=1)
    assert results is not None
    return results, model.seen


def check_scores(folder: Path) -> float:
    """Five replies: the score is the corpus' F; models of the older kind get a path and samples."""
    results, seen = run("ov_mer")
    found = results["results"]["ov_mer"]
    truth = score_corpus(LABELS, WORDS, LEXICON)
    own = [sample_f(labels, words, LEXICON) for labels, words in PAIRS]
    assert abs(sum(own) / len(own) - truth.f) > 1e-3  # a mean of samples would have been seen
    assert abs(found["score,none"] - truth.f) < 1e-12
    assert abs(found["words_per_answer,none"] - truth.words_per_answer) < 1e-12
    assert truth.coverage is not None
    assert abs(found["coverage,none"] - truth.coverage) < 1e-12
    assert (found["n,none"], found["without_words,none"]) == (5, 1)
    assert found["signature,none"].startswith(f"ew|lexicon:builtin#{LEXICON.hash}|level:1")
    assert [shown[0] for shown in seen] == [str(folder / f"clips/{i}.mp4") for i in range(5)]
    assert [len(shown) for shown in seen] == [2, 1, 1, 1, 1]
    sound = seen[0][1]
    assert isinstance(sound["array"], np.ndarray)
    assert (sound["array"].shape, sound["sampling_rate"]) == ((16_000,), 16_000)
    return float(found["score,none"])


def check_messages(folder: Path) -> None:
    """Models of the newer kind get messages with both files' paths."""
    results, seen = run("ov_mer", is_simple=False)
    assert (
        abs(results["results"]["ov_mer"]["score,none"] - score_corpus(LABELS, WORDS, LEXICON).f)
        < 1e-12
    )
    clips = str(folder / "clips")
    assert seen[0] == ([], [f"{clips}/0.mp4"], [f"{clips}/0.wav"])


def check_bench() -> float:
    """All nine sets by their metrics, and the group's mean."""
    results, _ = run("mer_unibench")
    truth = set_scores(LEXICON)
    for key, kind in SETS.items():
        found = results["results"][f"mer_unibench_{key}"]["score,none"]
        assert abs(found - truth[kind.metric]) < 1e-12
    mean = sum(truth[kind.metric] for kind in SETS.values()) / len(SETS)
    assert abs(results["results"]["mer_unibench"]["score,none"] - mean) < 1e-12
    return mean


def check_command_line(folder: Path) -> None:
    """`lmms-eval --include_path` writes the score to its results; bare words are an answer."""
    command = (
        f"-m lmms_eval --model dummy --model_args response=sad --include_path {TASKS} "
        "--tasks ov_mer --output_path out --batch_size 1"
    )
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "out").rglob("*_results.json")
    found = json.loads(path.read_text(encoding="utf-8"))["results"]["ov_mer"]
    truth = score_corpus(LABELS, [("sad",)] * len(LABELS), LEXICON)
    assert abs(found["score,none"] - truth.f) < 1e-12


if __name__ == "__main__":
    main()
