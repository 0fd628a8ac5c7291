"""Open-vocabulary emotion recognition as inspect-ai tasks.

    inspect eval examples/inspect_emotion.py@ov_mer -T manifest=test.jsonl --model google/...
    inspect eval examples/inspect_emotion.py@mer_unibench -T folder=manifests --model ...

The headline is the corpus score of `affectgpt-r1 score`: means of precision and recall over the
samples, then F. It is not the mean of the samples' scores. More: docs/evaluation_tools.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.log import HeadlineMetric
from inspect_ai.model import (
    ChatMessageUser,
    Content,
    ContentAudio,
    ContentText,
    ContentVideo,
    ModelOutput,
)
from inspect_ai.scorer import (
    Metric,
    SampleScore,
    Score,
    Scorer,
    Target,
    Value,
    metric,
    scorer,
)
from inspect_ai.solver import TaskState, generate

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation.answers import AnswerRow
from affectgpt_r1.evaluation.scoring import HEADLINES, Rule, rule_of
from affectgpt_r1.evaluation.scoring import Metric as MetricName
from affectgpt_r1.evaluation.unibench import SETS
from emotion_tasks import (
    answer_row,
    bench_figures,
    bench_manifests,
    figures,
    labelled_clips,
    question,
    read_reply,
    sample_score,
    signature_of,
)

Media = Literal["all", "video", "audio", "none"]
Name = TypeVar("Name")

_VIDEO: dict[str, Literal["mp4", "mpeg", "mov"]] = {
    ".mp4": "mp4",
    ".mpeg": "mpeg",
    ".mpg": "mpeg",
    ".mov": "mov",
}
_AUDIO: dict[str, Literal["wav", "mp3"]] = {".wav": "wav", ".mp3": "mp3"}


@task
def ov_mer(
    manifest: str,
    metric: MetricName = "ew",
    lexicon: str = "builtin",
    lexicon_folder: str | None = None,
    level: int | None = None,
    mode: Mode = "answer",
    media: Media = "all",
) -> Task:
    """The clips of one manifest, scored by one metric.

    Args:
        manifest: JSON Lines or CSV of labelled clips.
        metric: ew (any words), hit (one basic emotion a clip) or sentiment (labels positive,
            negative, neutral).
        lexicon, lexicon_folder: `builtin`, or the authors' tables and where they lie.
        level: ring of the wheels, for ew; None: the inner one.
        mode: `think` asks for the reasoning first.
        media: what is attached; a clip's audio file counts as audio, a video's own track does not.
    """
    clips = labelled_clips(Path(manifest))
    rule = rule_of(None, metric, lexicon, level, None)
    rows = [answer_row(clip.id, clip.labels or (), (), metric) for clip in clips]
    return Task(
        dataset=[_sample(clip, mode, media, metric, None) for clip in clips],
        solver=generate(),
        scorer=emotion(lexicon, lexicon_folder, level),
        metrics=[corpus(metric, lexicon, lexicon_folder, level)],
        headline_metric=HeadlineMetric(metric=HEADLINES[metric]),
        metadata={"signature": signature_of(rows, rule, Lexicon.load(lexicon, lexicon_folder))},
    )


@task
def mer_unibench(
    folder: str,
    lexicon: str = "builtin",
    lexicon_folder: str | None = None,
    mode: Mode = "answer",
    media: Media = "all",
) -> Task:
    """The sets of MER-UniBench that a folder has manifests of, each by its own metric.

    Args:
        folder: with `mer2023.jsonl`, `mer2024.jsonl`, `meld.jsonl`, ... (`unibench.SETS`).
        lexicon, lexicon_folder, mode, media: as in `ov_mer`.
    """
    samples: list[Sample] = []
    signatures: dict[str, str] = {}
    for key, path in bench_manifests(Path(folder)).items():
        clips, of_set = labelled_clips(path), SETS[key].metric
        rows = [answer_row(clip.id, clip.labels or (), (), of_set) for clip in clips]
        signatures[key] = signature_of(
            rows, Rule(of_set, lexicon), Lexicon.load(lexicon, lexicon_folder)
        )
        samples += [_sample(clip, mode, media, of_set, key) for clip in clips]
    return Task(
        dataset=samples,
        solver=generate(),
        scorer=emotion(lexicon, lexicon_folder),
        metrics=[unibench(lexicon, lexicon_folder)],
        headline_metric=HeadlineMetric(metric="mean_of_nine"),
        metadata={"signatures": signatures},
    )


# Every epoch's answer is an observation: reduced scores have lost the words.
@metric(scores="unreduced")
def corpus(
    metric: MetricName = "ew",
    lexicon: str = "builtin",
    lexicon_folder: str | None = None,
    level: int | None = None,
) -> Metric:
    """The corpus' figures by one metric; answers that could not be had never come here."""
    rule = rule_of(None, metric, lexicon, level, None)
    words = Lexicon.load(lexicon, lexicon_folder)

    def measure(scores: list[SampleScore]) -> Value:
        return figures(_rows(scores), rule, words)

    return measure


@metric(scores="unreduced")
def unibench(lexicon: str = "builtin", lexicon_folder: str | None = None) -> Metric:
    """MER-UniBench's table."""
    words = Lexicon.load(lexicon, lexicon_folder)

    def measure(scores: list[SampleScore]) -> Value:
        rows = _rows(scores)
        return bench_figures(rows, Rule(lexicon=lexicon), words) if rows else {}

    return measure


@scorer(metrics=[corpus()])
def emotion(
    lexicon: str = "builtin", lexicon_folder: str | None = None, level: int | None = None
) -> Scorer:
    """Each answer's own score, with its words for the corpus' figures."""
    words = Lexicon.load(lexicon, lexicon_folder)

    async def score(state: TaskState, target: Target) -> Score:
        reason = _no_answer(state.output)
        if reason is not None:
            return Score.unscored(reason=reason, explanation=state.output.error)
        of_sample: MetricName = state.metadata["metric"]
        said = read_reply(state.output.completion)
        row = answer_row(str(state.sample_id), list(target), said, of_sample)
        rule = rule_of(None, of_sample, lexicon, level if of_sample == "ew" else None, None)
        value = sample_score(row, rule, words)
        return Score(
            # The words of an answer whose labels have no class count in coverage, so it must not
            # be unscored: the metric leaves it out of the score itself.
            value=0.0 if value is None else value,
            answer=", ".join(said),
            explanation="no label can be scored" if value is None else None,
            metadata={"words": list(said), "labels": list(target)},
        )

    return score


def _no_answer(output: ModelOutput) -> str | None:
    """Why there is no answer; None where there is one, be it empty."""
    if output.empty:
        return "no_response"
    return "refusal" if output.error or output.stop_reason == "content_filter" else None


def _rows(scores: list[SampleScore]) -> list[AnswerRow]:
    rows = []
    for place, found in enumerate(scores):
        sample, answer = found.sample_metadata or {}, found.score.metadata or {}
        rows.append(
            answer_row(
                f"{found.sample_id} ({place})",  # another for each epoch
                answer["labels"],
                answer["words"],
                sample["metric"],
                group=sample["group"],
                dataset=sample["dataset"],
            )
        )
    return rows


def _sample(
    clip: Clip, mode: Mode, media: Media, of_sample: MetricName, dataset: str | None
) -> Sample:
    content: list[Content] = []
    if clip.video is not None and media in ("all", "video"):
        content.append(ContentVideo(video=str(clip.video), format=_format(clip.video, _VIDEO)))
    if clip.audio is not None and media in ("all", "audio"):
        content.append(ContentAudio(audio=str(clip.audio), format=_format(clip.audio, _AUDIO)))
    content.append(ContentText(text=question(clip.subtitle, mode)))
    return Sample(
        id=f"{dataset}/{clip.id}" if dataset else clip.id,
        input=[ChatMessageUser(content=content)],
        target=list(clip.labels or ()),
        metadata={"metric": of_sample, "group": clip.group or clip.id, "dataset": dataset},
    )


def _format(path: Path, formats: Mapping[str, Name]) -> Name:
    if path.suffix.lower() not in formats:
        raise InputError(
            f"{path}: inspect-ai takes {', '.join(formats)} here: convert the file, "
            "or leave it out with -T media="
        )
    return formats[path.suffix.lower()]
