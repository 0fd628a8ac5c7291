"""The command line: JSON on stdout, words and progress for people on stderr.

Exit status 0: done; 2: the input is at fault, said in one line; 1: a bug, with its traceback; 130:
interrupted. What a command does lives in the package; here are only its options. Heavy modules are
imported inside the commands, so that `--help` and `score` answer at once.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from typer.exceptions import TyperException

from affectgpt_r1 import __version__
from affectgpt_r1.dialogue import Part
from affectgpt_r1.errors import InputError
from affectgpt_r1.files import write_whole

people = Console(stderr=True)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Open-vocabulary emotion recognition: score, reward, train with GRPO, predict.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train: cold start, then GRPO.")
app.add_typer(train_app, name="train")

ModelOption = Annotated[Path, typer.Option("--model", help="A model folder or finished run.")]
ModeOption = Annotated[Literal["answer", "think"], typer.Option(help="Answer alone, or think.")]
CacheOption = Annotated[Path | None, typer.Option(help="Feature cache [default: the user's].")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a recipe: key.sub=value.")
]
DecodeOption = Annotated[
    Literal["greedy", "published"],
    typer.Option(help="greedy, or as published: temperature 1, top-p 0.9, top-k 20."),
]
DecodeSeedOption = Annotated[int, typer.Option(help="Of the sampling, with each clip's id.")]
LexiconOption = Annotated[
    Literal["builtin", "mer2025", "mer2026"], typer.Option(help="Which lexicon scores.")
]
LexiconFolderOption = Annotated[
    Path | None, typer.Option(help="Folder of the authors' tables, for mer2025 and mer2026.")
]
LevelOption = Annotated[int, typer.Option(min=1, max=2, help="Ring of the wheels.")]


def main() -> None:
    """Run the command line and exit with its status."""
    _quiet()
    try:
        status = app(standalone_mode=False)
    except InputError as error:
        _complain(str(error))
        sys.exit(2)
    except TyperException as error:
        _complain(f"{error.format_message()} (see affectgpt-r1 --help)")
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted; a run goes on with the same command")
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="Media files, or one manifest.")],
    model: ModelOption,
    subtitle: Annotated[str, typer.Option(help="What is said in the file.")] = "",
    mode: ModeOption = "answer",
    decode: DecodeOption = "greedy",
    decode_seed: DecodeSeedOption = 0,
    cache: CacheOption = None,
) -> None:
    """Predict the emotions of clips: one JSON object a line."""
    from affectgpt_r1.clips import read_manifest
    from affectgpt_r1.evaluation import predict as predicting
    from affectgpt_r1.perception.cache import feature_cache

    if len(files) == 1 and files[0].suffix.lower() in (".jsonl", ".csv"):
        clips = list(read_manifest(files[0]))
    else:
        clips = [predicting.single_clip(path, subtitle) for path in files]
    predictor = predicting.load_predictor(model)
    store = feature_cache(cache)
    with _bars() as bar:
        features = predicting.perceive_clips(clips, predictor.encoders, store, bar("reading clips"))
    settings = predicting.DECODING[decode]
    for prediction in predicting.predict(
        predictor, clips, features, mode=mode, settings=settings, seed=decode_seed
    ):
        _answer(predicting.prediction_row(prediction))


@app.command()
def score(
    predictions: Annotated[Path, typer.Argument(help="JSON Lines with id and words.")],
    labels: Annotated[
        Path | None, typer.Option(help="Manifest with labels, unless inline.")
    ] = None,
    lexicon: LexiconOption = "builtin",
    lexicon_folder: LexiconFolderOption = None,
    level: LevelOption = 1,
) -> None:
    """Score predictions against labels with emotion wheels; no model is needed."""
    from affectgpt_r1.emotion.lexicon import Lexicon
    from affectgpt_r1.evaluation.evaluate import evaluate_words, evaluation_row, read_scored

    table = Lexicon.load(lexicon, folder=lexicon_folder)
    _answer(evaluation_row(evaluate_words(read_scored(predictions, labels), table, level)))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model folder or finished run.")],
    manifest: Annotated[Path, typer.Argument(help="Labelled clips.")],
    out: Annotated[Path | None, typer.Option(help="Folder for predictions and report.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="predictions.jsonl of another model, to compare with.")
    ] = None,
    mode: ModeOption = "answer",
    decode: DecodeOption = "greedy",
    decode_seed: DecodeSeedOption = 0,
    without: Annotated[list[Part] | None, typer.Option(help="Leave a part out.")] = None,
    lexicon: LexiconOption = "builtin",
    lexicon_folder: LexiconFolderOption = None,
    level: LevelOption = 1,
    cache: CacheOption = None,
) -> None:
    """Evaluate a model on labelled clips: scores with intervals, and a report."""
    from affectgpt_r1.clips import read_manifest
    from affectgpt_r1.emotion.lexicon import Lexicon
    from affectgpt_r1.evaluation import predict as predicting
    from affectgpt_r1.evaluation.evaluate import (
        evaluate_words,
        evaluation_row,
        read_words,
        scored_clips,
    )
    from affectgpt_r1.evaluation.report import write_report
    from affectgpt_r1.perception.cache import feature_cache

    table = Lexicon.load(lexicon, folder=lexicon_folder)
    clips = read_manifest(manifest)
    before = read_words(baseline) if baseline else None
    predictor = predicting.load_predictor(model)
    store = feature_cache(cache)
    with _bars() as bar:
        features = predicting.perceive_clips(clips, predictor.encoders, store, bar("reading clips"))
        told = bar("predicting")
        predictions = []
        for prediction in predicting.predict(
            predictor,
            clips,
            features,
            mode=mode,
            settings=predicting.DECODING[decode],
            seed=decode_seed,
            without=tuple(without or ()),
        ):
            predictions.append(prediction)
            told(len(predictions), len(clips))
    scored = scored_clips(clips, {p.id: p.words for p in predictions}, before)
    result = evaluate_words(scored, table, level)
    if out:
        predicting.write_predictions(out / "predictions.jsonl", predictions)
        write_whole(out / "evaluation.json", json.dumps(evaluation_row(result), indent=1))
        write_report(out / "report.html", clips, predictions, result, table, level=level, run=model)
    _table(result)
    _answer(evaluation_row(result))


@app.command()
def prepare(
    name: Annotated[Literal["demo"], typer.Argument(help="Which data set.")],
    folder: Annotated[Path, typer.Argument(help="Where it lies, or is made.")],
    renderings: Annotated[int, typer.Option(min=1, help="Renderings of a take, in training.")] = 1,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
) -> None:
    """Make the demo clips: drawn faces, voice-like sound, written lines, true labels."""
    from affectgpt_r1.datasets.demo import write_demo

    del name
    with _bars() as bar:
        made = write_demo(folder, renderings=renderings, seed=seed, progress=bar("drawing clips"))
    _answer({"train": str(made.train), "test": str(made.test)})


@train_app.command("cold-start")
def cold_start(
    recipe: Annotated[str, typer.Argument(help="A YAML file or a recipe's name.")],
    overrides: SetOption = None,
) -> None:
    """Phase 1: tune a model on descriptions and labels."""
    from affectgpt_r1.config import ColdStartRecipe, load_recipe

    checked = load_recipe(recipe, ColdStartRecipe, overrides or ())
    from affectgpt_r1.training.run import Watch, train_cold_start

    with _bars() as bar:
        result = train_cold_start(checked, Watch(bar("reading clips"), _steps(bar("cold start"))))
    _answer({**asdict(result), "model": str(result.model)})


@train_app.command("grpo")
def grpo(
    recipe: Annotated[str, typer.Argument(help="A YAML file or a recipe's name.")],
    overrides: SetOption = None,
) -> None:
    """Phase 2: improve a cold-started model with the emotion-wheel score as reward."""
    from affectgpt_r1.config import GrpoRecipe, load_recipe

    checked = load_recipe(recipe, GrpoRecipe, overrides or ())
    from affectgpt_r1.training.run import Watch, train_grpo

    with _bars() as bar:
        result = train_grpo(checked, Watch(bar("reading clips"), _steps(bar("GRPO"))))
    _answer({**asdict(result), "model": str(result.model)})


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that fetches it."""
    from affectgpt_r1.evaluation.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        hint = f": {_plain(finding.mend)}" if finding.mend else ""
        people.print(f"{mark} {_plain(finding.name)} {_plain(finding.value)}{hint}")
    _answer({finding.name: finding.value for finding in findings})


@app.command()
def version() -> None:
    """Say which release this is."""
    _answer({"affectgpt-r1": __version__})


def _answer(row: Mapping[str, object]) -> None:
    print(json.dumps(row, ensure_ascii=False), flush=True)


def _complain(message: str) -> None:
    line = " ".join(message.split())
    print(f"affectgpt-r1: {line}", file=sys.stderr)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _quiet() -> None:
    """One voice on stderr: ours. Libraries' notes and bars are left out unless they matter."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=people, show_time=False, show_path=False, show_level=False)],
    )
    logging.getLogger("affectgpt_r1").setLevel(logging.INFO)


@contextmanager
def _bars() -> Iterator[Callable[[str], Callable[..., None]]]:
    """Progress on stderr; each bar is a function told how many of how many are done.

    Bars on a terminal, now and then a line elsewhere. An input at fault leaves nothing but the one
    line that says so.
    """
    if not people.is_terminal:
        yield _line_by_line
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=people) as progress:

        def bar(name: str) -> Callable[..., None]:
            """A bar that appears when it is first told something."""
            task: list[TaskID] = []

            def told(done: int, total: int, note: str = "") -> None:
                if not task:
                    task.append(progress.add_task(name, total=total, note=""))
                progress.update(task[0], completed=done, total=total, note=note)

            return told

        try:
            yield bar
        except InputError:
            progress.live.transient = True
            raise


def _line_by_line(name: str) -> Callable[..., None]:
    """Progress for a log: a line every half a minute."""
    last_s = time.monotonic()

    def told(done: int, total: int, note: str = "") -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= 30:
            last_s = time.monotonic()
            people.print(f"{name} {done}/{total} {note}", highlight=False, soft_wrap=True)

    return told


def _steps(told: Callable[..., None]) -> Callable[[int, int, Mapping[str, float]], None]:
    shown = ("loss", "reward", "accuracy", "words_per_answer")

    def step(done: int, total: int, figures: Mapping[str, float]) -> None:
        note = " ".join(f"{name} {figures[name]:.3f}" for name in shown if name in figures)
        told(done, total, note)

    return step


def _table(result: Any) -> None:
    """The figures of an evaluation, for people."""
    table = Table(title=result.signature, title_justify="left")
    for column in ("", "F", "95 % interval"):
        table.add_column(column)
    for name, value, interval in result.lines():
        bounds = f"{interval.low:.3f} to {interval.high:.3f}" if interval else ""
        table.add_row(name, f"{value:.3f}", bounds)
    people.print(table)


if __name__ == "__main__":
    main()
