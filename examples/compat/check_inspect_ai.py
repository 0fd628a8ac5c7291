"""inspect-ai runs the tasks of `inspect_emotion.py`: its loader, `eval`, its log, read back.

The model is inspect's own `mockllm`, which gives the replies that it is told; that a provider takes
the media is not shown. Everything else is inspect's code on real files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from math import isnan
from pathlib import Path

from inspect_ai import eval as run_eval
from inspect_ai.log import EvalLog, EvalScore, read_eval_log
from inspect_ai.model import (
    ChatMessage,
    ContentAudio,
    ContentVideo,
    ModelOutput,
    ModelUsage,
    StopReason,
    get_model,
)

from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import sample_f, score_corpus
from affectgpt_r1.evaluation.unibench import SETS
from tiny_clips import LABELS, REPLIES, WORDS, set_scores, write_clips, write_manifests

TASKS = Path(__file__).resolve().parents[1] / "inspect_emotion.py"
LEXICON = Lexicon.load("builtin")
PAIRS = list(zip(LABELS, WORDS, strict=True))
UNANSWERED = 3


def main() -> None:
    """Check, and say what was checked in one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_manifests(folder, write_clips(folder))
        f = check_scores(folder)
        check_unanswered(folder)
        check_epochs(folder)
        mean = check_bench(folder)
    print(
        f"inspect_ai {version('inspect_ai')}: ok, {len(PAIRS)} samples through eval(), F {f:.4f} "
        f"equal to ours; nine sets, mean {mean:.2f} equal to ours"
    )


def run(
    folder: Path,
    task: str,
    args: dict[str, object],
    *,
    epochs: int = 1,
    replies: Sequence[str | None] = REPLIES,
) -> EvalLog:
    """Run a task by inspect's own means, and read its log back from the disk."""

    def reply(messages: list[ChatMessage], *rest: object) -> ModelOutput:
        place = next(i for i in range(len(replies)) if f"Line {i}." in messages[-1].text)
        said = replies[place]
        stop: StopReason = "stop" if said is not None else "content_filter"
        output = ModelOutput.from_content("mockllm", said or "", stop)
        output.usage = ModelUsage()  # to count tokens, inspect would fetch an encoding
        return output

    model = get_model("mockllm/model", custom_outputs=reply)
    (log,) = run_eval(
        f"{TASKS}@{task}",
        model=model,
        task_args=args,
        epochs=epochs,
        log_dir=str(folder / "logs"),
        display="none",
    )
    assert log.status == "success", log.error
    return read_eval_log(log.location)


def figures(log: EvalLog) -> tuple[EvalScore, dict[str, float]]:
    """The log's one score, and its figures."""
    assert log.results is not None
    (score,) = log.results.scores
    return score, {name: found.value for name, found in score.metrics.items()}


def check_scores(folder: Path) -> float:
    """Five replies: the headline is the corpus' F, a sample's score its own; media are attached."""
    log = run(folder, "ov_mer", {"manifest": str(folder / "ov_mer.jsonl")})
    score, found = figures(log)
    truth = score_corpus(LABELS, WORDS, LEXICON)
    assert log.results is not None
    assert log.results.headline is not None
    assert (log.results.headline.metric, next(iter(found))) == ("f", "f")
    assert abs(found["f"] - truth.f) < 1e-12
    own = [sample_f(labels, words, LEXICON) for labels, words in PAIRS]
    assert abs(sum(own) / len(own) - truth.f) > 1e-3  # a mean of samples would have been seen
    assert abs(found["words_per_answer"] - truth.words_per_answer) < 1e-12
    assert truth.coverage is not None
    assert abs(found["coverage"] - truth.coverage) < 1e-12
    assert (score.scored_samples, score.unscored_samples, found["n"]) == (5, 0, 5)
    assert log.eval.metadata is not None
    assert log.eval.metadata["signature"].startswith(f"ew|lexicon:builtin#{LEXICON.hash}|level:1")
    samples = log.samples or []
    assert [(s.scores or {})["emotion"].value for s in samples] == own
    parts = [part for s in samples for m in s.input if not isinstance(m, str) for part in m.content]
    assert sum(isinstance(part, ContentVideo) for part in parts) == 5
    assert sum(isinstance(part, ContentAudio) for part in parts) == 1
    return found["f"]


def check_unanswered(folder: Path) -> None:
    """A reply that could not be had is left out and counted by inspect, and is no 0."""
    args: dict[str, object] = {
        "manifest": str(folder / "ov_mer.jsonl"),
        "mode": "think",
        "media": "video",
    }
    replies = [None if i == UNANSWERED else reply for i, reply in enumerate(REPLIES)]
    score, found = figures(run(folder, "ov_mer", args, replies=replies))
    answered = [None if i == UNANSWERED else words for i, words in enumerate(WORDS)]
    assert abs(found["f"] - score_corpus(LABELS, answered, LEXICON).f) < 1e-12
    assert (score.scored_samples, score.unscored_samples) == (4, 1)


def check_epochs(folder: Path) -> None:
    """Each epoch's answer counts as one more sample."""
    args: dict[str, object] = {"manifest": str(folder / "ov_mer.jsonl")}
    _, found = figures(run(folder, "ov_mer", args, epochs=2))
    assert abs(found["f"] - score_corpus(LABELS * 2, WORDS * 2, LEXICON).f) < 1e-12
    assert found["n"] == 10


def check_bench(folder: Path) -> float:
    """All nine sets by their metrics; without one there is no mean."""
    _, found = figures(run(folder, "mer_unibench", {"folder": str(folder)}))
    truth = set_scores(LEXICON)
    for key, kind in SETS.items():
        assert abs(found[key] - truth[kind.metric]) < 1e-12
    mean = 100 * sum(truth[kind.metric] for kind in SETS.values()) / len(SETS)
    assert abs(found["mean_of_nine"] - mean) < 1e-10
    (folder / "meld.jsonl").unlink()
    _, found = figures(run(folder, "mer_unibench", {"folder": str(folder)}))
    assert isnan(found["mean_of_nine"])
    assert "meld" not in found
    return mean


if __name__ == "__main__":
    main()
