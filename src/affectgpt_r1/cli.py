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
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
from rich.markup import escape
from typer import Argument, Option
from typer.exceptions import TyperException

from affectgpt_r1 import __version__
from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.console import audit_table, bars, evaluation_table, people, prepared_table, steps
from affectgpt_r1.dialogue import Mode, Part
from affectgpt_r1.emotion.labels import Parser, parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon, authors_folder
from affectgpt_r1.errors import InputError, LexiconError, ProblemsError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.answers import read_answers, words_by_id
from affectgpt_r1.evaluation.render import Format, json_row, render, table_of
from affectgpt_r1.files import make_folder, write_whole

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Open-vocabulary emotion recognition: score, reward, train with GRPO, predict.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train: cold start, then GRPO.")
app.add_typer(train_app, name="train")
lexicon_app = typer.Typer(no_args_is_help=True, help="Which word counts as what, and why.")
app.add_typer(lexicon_app, name="lexicon")
cache_app = typer.Typer(no_args_is_help=True, help="Features on disk: size, checks, packing.")
app.add_typer(cache_app, name="cache")

LexiconName = Literal["builtin", "mer2025", "mer2026"]
RecipeArgument = Annotated[str, Argument(help="A YAML file or a recipe's name.")]
ModelOption = Annotated[Path, Option("--model", help="A model folder or finished run.")]
ModeOption = Annotated[Mode, Option(help="Answer alone, or think.")]
CacheOption = Annotated[Path | None, Option(help="Feature cache [default: the user's].")]
SetOption = Annotated[list[str] | None, Option("--set", help="Override a recipe: key.sub=value.")]
DecodeOption = Annotated[
    Literal["greedy", "published"],
    Option(help="greedy, or as published: temperature 1, top-p 0.9, top-k 20."),
]
DecodeSeedOption = Annotated[int, Option(help="Of the sampling, with each clip's id.")]
LexiconOption = Annotated[LexiconName, Option(help="Which lexicon scores.")]
LexiconFolderOption = Annotated[
    Path | None, Option(help="Folder of the authors' tables, for mer2025 and mer2026.")
]
LexiconPlaceOption = Annotated[
    Path | None, Option("--folder", help="Of the tables [default: in the user's cache].")
]
ProfileOption = Annotated[Literal["nano", "small", "full"], Option(help="Whose encoders.")]
VisualOption = Annotated[str | None, Option(help="Another: folder or hub name.")]
AudioOption = Annotated[str | None, Option(help="Another: folder or hub name.")]
ViewOption = Annotated[
    Literal["face", "frame"] | None, Option(help="What the visual encoder sees.")
]
FaceModelOption = Annotated[
    Path | None, Option(help="A YuNet face detector (ONNX) [default: OpenCV's cascade].")
]
WorkersOption = Annotated[int, Option(min=1, help="Processes that read clips.")]
WallOption = Annotated[float, Option(min=1, help="Seconds that a clip may take.")]
MemoryOption = Annotated[int, Option(min=1024, help="MiB that such a process may take.")]
FormatOption = Annotated[Format, Option("--format", help="Of the answer.")]


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
    files: Annotated[list[Path], Argument(help="Media files, or one manifest.")],
    model: ModelOption,
    subtitle: Annotated[str, Option(help="What is said in the file.")] = "",
    mode: ModeOption = "answer",
    decode: DecodeOption = "greedy",
    decode_seed: DecodeSeedOption = 0,
    cache: CacheOption = None,
) -> None:
    """Predict the emotions of clips: one JSON object a line."""
    from affectgpt_r1.evaluation import predict as predicting
    from affectgpt_r1.perception.cache import feature_cache

    if len(files) == 1 and files[0].suffix.lower() in (".jsonl", ".csv"):
        clips = list(read_manifest(files[0]))
    else:
        clips = [Clip(id=path.stem, video=path, subtitle=subtitle) for path in files]
    predictor = predicting.load_predictor(model)
    store = feature_cache(cache)
    with bars() as bar:
        features = predicting.perceive_clips(clips, predictor.encoders, store, bar("reading clips"))
    for prediction in predicting.predict(
        predictor, clips, features, mode=mode, decode=decode, seed=decode_seed
    ):
        _answer(prediction)


@app.command()
def score(
    predictions: Annotated[Path, Argument(help="JSON Lines of answers; - reads stdin.")],
    labels: Annotated[Path | None, Option(help="Manifest with labels, unless inline.")] = None,
    metric: Annotated[scoring.Metric | None, Option(help="What is scored [default: ew].")] = None,
    preset: Annotated[
        scoring.PresetName | None,
        Option(help="A published combination of lexicon, ring and parser."),
    ] = None,
    lexicon: Annotated[
        LexiconName | None, Option(help="Which lexicon scores [default: builtin].")
    ] = None,
    lexicon_folder: LexiconFolderOption = None,
    level: Annotated[
        int | None, Option(min=1, max=2, help="Ring of the wheels [default: 1].")
    ] = None,
    parser: Annotated[
        Parser | None, Option(help="reference: as published, remnants and all [default: robust].")
    ] = None,
    extractor: Annotated[
        scoring.Extractor,
        Option(help="Where answers are prose: lexical rules, or a language model's server."),
    ] = "none",
    sentiments: Annotated[
        scoring.Sentiments,
        Option(help="Whose: the file's (polarity where it has none), polarity, a server's."),
    ] = "given",
    server: Annotated[
        str | None, Option(help="For openai: address of the server, up to /v1.")
    ] = None,
    server_model: Annotated[str | None, Option(help="For openai: the model's name there.")] = None,
    compare: Annotated[
        list[Path] | None, Option(help="Another system's answers to the same samples.")
    ] = None,
    group: Annotated[
        str, Option(help="Column of what is independent, such as the speaker.")
    ] = "group",
    per_sample: Annotated[
        Path | None, Option(help="File for what each sample contributes.")
    ] = None,
    form: FormatOption = "json",
) -> None:
    """Score answers against labels; no model is needed."""
    rule = scoring.rule_of(preset, metric, lexicon, level, parser)
    rule = replace(rule, extractor=extractor, sentiments=sentiments)
    rule = replace(rule, server=server, model=server_model)
    table = Lexicon.load(rule.lexicon, folder=lexicon_folder)

    def read(path: Path) -> scoring.Kept:
        rows = read_answers(path, labels, group=group)
        with bars() as bar:
            rows = scoring.read_predictions(rows, rule, table, bar("asking"))
        return scoring.keep(rows, rule, str(path))

    kept = read(predictions)
    row = scoring.score_row(kept, rule, table)
    if compare:
        others = {str(path): read(path) for path in compare}
        row["compared"] = scoring.compare(kept, others, rule, table)
    if per_sample:
        scoring.write_samples(per_sample, kept, rule, table)
    print(render(row, form), flush=True)


@app.command()
def unibench(
    predictions: Annotated[
        list[Path], Argument(help="JSON Lines with `dataset`; a file a checkpoint, or all.")
    ],
    checkpoint: Annotated[
        str | None, Option(help="The fixed checkpoint [default: the last by name].")
    ] = None,
    lexicon: LexiconOption = "mer2025",
    lexicon_folder: LexiconFolderOption = None,
    parser: Annotated[Parser, Option(help="reference: as published.")] = "reference",
    form: FormatOption = "json",
) -> None:
    """The nine sets of MER-UniBench in one table: fixed checkpoint and best checkpoint apart."""
    from affectgpt_r1.evaluation import unibench as benching

    table = Lexicon.load(lexicon, folder=lexicon_folder)
    rule = scoring.Rule(lexicon=lexicon, parser=parser)
    result = benching.bench(benching.read_bench(predictions), table, rule, checkpoint)
    if form == "json":
        _answer(result)
    else:
        headers = ["", "metric", "rows", f"fixed: {result.fixed_checkpoint}", "best of each set"]
        print(table_of(benching.bench_lines(result), headers, form), flush=True)


@lexicon_app.command("list")
def lexicon_list(lexicon_folder: LexiconFolderOption = None) -> None:
    """The lexicons: which can be loaded, how many words each knows, and their hashes."""
    for name in get_args(LexiconName):
        try:
            table = Lexicon.load(name, folder=None if name == "builtin" else lexicon_folder)
        except LexiconError as error:
            _answer({"name": name, "loads": False, "why": str(error)})
        else:
            known = {"forms": len(table.tables.bases), "bases": len(table.tables.nearest)}
            _answer({"name": name, "loads": True, **known, "hash": table.hash})


@lexicon_app.command("explain")
def lexicon_explain(
    words: Annotated[list[str], Argument(help="Words, or quoted phrases.")],
    lexicon: LexiconOption = "builtin",
    lexicon_folder: LexiconFolderOption = None,
) -> None:
    """How a word comes by its classes on each wheel, and what lost."""
    table = Lexicon.load(lexicon, folder=lexicon_folder)
    asked = parse_labels(words)
    if not asked:
        raise InputError("no word to explain is in what was given: name an emotion word")
    for word in asked:
        source = {"lexicon": f"{table.name}#{table.hash}"}
        _answer({**source, **table.explain(word), "polarity": table.polarity(word)})


@lexicon_app.command("download")
def lexicon_download(
    folder: LexiconPlaceOption = None,
    accept_terms: Annotated[
        bool, Option("--accept-terms", help="You have read the terms and accept them.")
    ] = False,
) -> None:
    """Fetch the authors' tables, checked against their published checksums."""
    from affectgpt_r1.emotion import download

    people.print(download.TERMS, highlight=False)
    if not accept_terms:
        raise InputError("nothing was fetched: say --accept-terms if you accept these terms")
    place = folder or authors_folder()
    with bars() as bar:
        download.download(place, progress=bar("fetching"))
    _answer({"folder": str(place), "files": len(download.FILES)})


@lexicon_app.command("verify")
def lexicon_verify(folder: LexiconPlaceOption = None) -> None:
    """Check a folder of the authors' tables; names every file that is not as published."""
    from affectgpt_r1.emotion.download import verify

    place = folder or authors_folder()
    if wrong := verify(place):
        raise ProblemsError(str(place), [f"{name} {what}" for name, what in wrong.items()])
    _answer({"folder": str(place), "verified": True})


@app.command()
def evaluate(
    model: Annotated[Path, Argument(help="A model folder or finished run.")],
    manifest: Annotated[Path, Argument(help="Labelled clips.")],
    out: Annotated[Path | None, Option(help="Folder for predictions and report.")] = None,
    baseline: Annotated[
        Path | None, Option(help="predictions.jsonl of another model, to compare with.")
    ] = None,
    mode: ModeOption = "answer",
    decode: DecodeOption = "greedy",
    decode_seed: DecodeSeedOption = 0,
    without: Annotated[list[Part] | None, Option(help="Leave a part out.")] = None,
    lexicon: LexiconOption = "builtin",
    lexicon_folder: LexiconFolderOption = None,
    level: Annotated[int, Option(min=1, max=2, help="Ring of the wheels.")] = 1,
    cache: CacheOption = None,
) -> None:
    """Evaluate a model on labelled clips: scores with intervals, and a report."""
    from affectgpt_r1.evaluation import predict as predicting
    from affectgpt_r1.evaluation.evaluate import evaluate_clips
    from affectgpt_r1.evaluation.report import write_report
    from affectgpt_r1.perception.cache import feature_cache

    table = Lexicon.load(lexicon, folder=lexicon_folder)
    clips = read_manifest(manifest)
    before = words_by_id(baseline) if baseline else None
    if out:
        make_folder(out)
    predictor = predicting.load_predictor(model)
    store, parts = feature_cache(cache), without or []
    with bars() as bar:
        features = predicting.perceive_clips(clips, predictor.encoders, store, bar("reading clips"))
        told = bar("predicting")
        predictions = []
        for prediction in predicting.predict(
            predictor, clips, features, mode=mode, decode=decode, seed=decode_seed, without=parts
        ):
            predictions.append(prediction)
            told(len(predictions), len(clips))
    words = {prediction.id: prediction.words for prediction in predictions}
    result = evaluate_clips(clips, words, table, level, baseline=before)
    if out:
        predicting.write_predictions(out / "predictions.jsonl", predictions)
        write_whole(out / "evaluation.json", json.dumps(json_row(result), indent=1))
        write_report(out / "report.html", clips, predictions, result, table, level=level, run=model)
    evaluation_table(result)
    _answer(result)


@app.command()
def reward(
    recipe: Annotated[str, Argument(help="A YAML file or a recipe's name (`reward`).")],
    file: Annotated[Path, Argument(help="JSON Lines: completion, labels; - reads stdin.")],
    overrides: SetOption = None,
) -> None:
    """Reward completions: every term, penalty and problem, one JSON object a line."""
    from affectgpt_r1.config import RewardRecipe, load_recipe
    from affectgpt_r1.evaluation.rewarding import reward_rows

    for row in reward_rows(file, load_recipe(recipe, RewardRecipe, overrides or ())):
        _answer(row)


@app.command()
def audit(
    recipe: Annotated[str, Argument(help="A YAML file or a recipe's name (`reward`).")],
    manifest: Annotated[Path, Argument(help="Labelled clips; no media are read.")],
    overrides: SetOption = None,
) -> None:
    """What cheap answers get from a reward, beside an honest one: before GPUs are spent on it."""
    from affectgpt_r1.config import RewardRecipe, load_recipe
    from affectgpt_r1.evaluation.audit import audit as audit_reward

    checked = load_recipe(recipe, RewardRecipe, overrides or ())
    with people.status("searching"):
        rows = audit_reward(read_manifest(manifest), checked)
    audit_table(rows)
    for row in rows:
        _answer(row)


@app.command()
def prepare(
    name: Annotated[str, Argument(help="demo, or a set; ? lists them.")],
    folder: Annotated[Path, Argument(help="Where it lies, or is made.")],
    renderings: Annotated[int, Option(min=1, help="Renderings of a take, in training.")] = 1,
    seed: Annotated[int, Option(help="Of everything random.")] = 0,
    out: Annotated[Path | None, Option(help="Manifest (FOLDER/NAME.jsonl).")] = None,
    exclude: Annotated[list[Path] | None, Option(help="Manifest of ids to omit.")] = None,
    language: Annotated[str | None, Option(help="Subtitles: english or chinese.")] = None,
) -> None:
    """Make the demo clips, or the manifest of a published set from its authors' folder."""
    if (out or exclude or language) if name == "demo" else (renderings, seed) != (1, 0):
        raise InputError("--renderings and --seed are the demo's; the others, published sets'")
    if name != "demo":
        from affectgpt_r1.datasets import published

        with people.status("checking files"):
            result = published.prepare(name, folder, out, exclude=exclude or (), language=language)
        prepared_table(result)
        return _answer(result)
    from affectgpt_r1_demo.clips import write_demo

    with bars() as bar:
        made = write_demo(folder, renderings=renderings, seed=seed, progress=bar("drawing clips"))
    return _answer(made)


@app.command()
def encode(
    manifest: Annotated[Path, Argument(help="Clips; their words are not read.")],
    profile: ProfileOption,
    visual: VisualOption = None,
    audio: AudioOption = None,
    view: ViewOption = None,
    face_model: FaceModelOption = None,
    cache: CacheOption = None,
    workers: WorkersOption = 2,
    wall_s: WallOption = 120,
    memory_mib: MemoryOption = 4096,
    shard: Annotated[str, Option(help="I/N: the I-th of N parts of the clips.")] = "1/1",
    retry: Annotated[bool, Option("--retry", help="Only what failed before.")] = False,
    batch_clips: Annotated[int, Option(min=1, help="Clips encoded at once.")] = 1,
    device: Annotated[str, Option(help="Of pretrained encoders: cpu, cuda, cuda:1.")] = "cpu",
    engine: Annotated[
        Literal["local", "ray"], Option(help="ray: over the machines of a Ray cluster.")
    ] = "local",
) -> None:
    """Encode clips into the feature cache; what cannot be read is listed in its failures.jsonl."""
    from affectgpt_r1.config import EncoderSettings
    from affectgpt_r1.media.worker import Guard
    from affectgpt_r1.model.profiles import PROFILES, encoder_source
    from affectgpt_r1.perception.cache import feature_cache
    from affectgpt_r1.perception.encode import Fate, encode_clips, shard_of, to_encode

    clips = shard_of(read_manifest(manifest), shard)
    store, guard = feature_cache(cache), Guard(workers, wall_s, memory_mib << 20)
    chosen = EncoderSettings(visual=visual, audio=audio, view=view, face_model=face_model)
    load = partial(encoder_source, PROFILES[profile].but(chosen), device)
    wanted = to_encode(clips, store, retry=retry)
    with bars() as bar:
        if engine == "ray":
            from affectgpt_r1.perception.scale import encode_on_ray

            run = partial(encode_on_ray, wanted, load, gpus=int(device.startswith("cuda")))
        else:
            run = partial(encode_clips, wanted, load())
        fates = run(store, guard, batch_clips=batch_clips, progress=bar("encoding"))
    skipped = 0 if retry else len(clips) - len(wanted)
    if fates["failed"] or skipped:
        _complain(f"why clips failed stands in {store.folder}/failures.jsonl; --retry tries again")
    counts = {fate: fates[fate] for fate in get_args(Fate)}
    _answer({"clips": len(clips), **counts, "skipped": skipped})


@app.command()
def faces(
    manifest: Annotated[Path, Argument(help="Clips with videos.")],
    out: Annotated[Path, Argument(help="Folder for the crops and a manifest with them.")],
    face_model: FaceModelOption = None,
    workers: WorkersOption = 2,
    wall_s: WallOption = 120,
    memory_mib: MemoryOption = 4096,
) -> None:
    """Write each clip's face crops as npy, and a manifest that names them."""
    from affectgpt_r1.media.crops import write_crops
    from affectgpt_r1.media.worker import Guard

    clips = read_manifest(manifest)
    make_folder(out / "openface_face")
    with bars() as bar:
        cropped, reasons = write_crops(
            clips,
            out / "openface_face",
            Guard(workers, wall_s, memory_mib << 20),
            face_model=face_model,
            progress=bar("faces"),
        )
    for clip_id, reason in reasons.items():
        _complain(f"{clip_id}: {reason}")
    write_manifest(out / "clips.jsonl", cropped)
    answer = {"clips": len(clips), "cropped": len(clips) - len(reasons), "failed": len(reasons)}
    _answer({**answer, "manifest": out / "clips.jsonl"})


@cache_app.command("size")
def cache_size(cache: CacheOption = None) -> None:
    """What a feature cache holds."""
    from affectgpt_r1.perception.cache import feature_cache
    from affectgpt_r1.perception.upkeep import contents

    _answer(contents(feature_cache(cache)))


@cache_app.command("verify")
def cache_verify(cache: CacheOption = None) -> None:
    """Read a feature cache whole and check it; status 2 where something is damaged."""
    from affectgpt_r1.perception.cache import feature_cache
    from affectgpt_r1.perception.upkeep import verify

    store = feature_cache(cache)
    with bars() as bar:
        found = verify(store, bar("verifying"))
    _answer(found)
    if found.damaged:
        raise InputError(
            f"{found.damaged} entries of {store.folder} are damaged: `cache compact` leaves them "
            "out, `encode` makes them again"
        )


@cache_app.command("compact")
def cache_compact(cache: CacheOption = None) -> None:
    """Pack a feature cache into shards, without what is damaged or doubled."""
    from affectgpt_r1.perception.cache import feature_cache
    from affectgpt_r1.perception.upkeep import compact

    with bars() as bar:
        _answer(compact(feature_cache(cache), progress=bar("packing")))


@cache_app.command("gc")
def cache_gc(
    manifests: Annotated[list[Path], Argument(help="Whose clips stay.")],
    profile: ProfileOption,
    visual: VisualOption = None,
    audio: AudioOption = None,
    view: ViewOption = None,
    face_model: FaceModelOption = None,
    cache: CacheOption = None,
) -> None:
    """Throw out of a feature cache all that such encoders do not need for such clips."""
    from affectgpt_r1.config import EncoderSettings
    from affectgpt_r1.model.profiles import PROFILES, encoder_source
    from affectgpt_r1.perception.cache import feature_cache
    from affectgpt_r1.perception.upkeep import compact

    chosen = EncoderSettings(visual=visual, audio=audio, view=view, face_model=face_model)
    source = encoder_source(PROFILES[profile].but(chosen))
    with bars() as bar:
        keep = {source.key(clip) for manifest in manifests for clip in read_manifest(manifest)}
        _answer(compact(feature_cache(cache), keep, bar("packing")))


@train_app.command("cold-start")
def cold_start(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Phase 1: tune a model on descriptions and labels."""
    from affectgpt_r1.config import ColdStartRecipe, load_recipe

    checked = load_recipe(recipe, ColdStartRecipe, overrides or ())
    from affectgpt_r1.training.run import train_cold_start

    _train(train_cold_start, checked, "cold start")


@train_app.command("grpo")
def grpo(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Phase 2: improve a cold-started model with the emotion-wheel score as reward."""
    from affectgpt_r1.config import GrpoRecipe, load_recipe

    checked = load_recipe(recipe, GrpoRecipe, overrides or ())
    from affectgpt_r1.training.run import train_grpo

    _train(train_grpo, checked, "GRPO")


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that fetches it."""
    from affectgpt_r1.evaluation.doctor import examine

    findings = examine()
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]"
        hint = f": {escape(finding.mend)}" if finding.mend else ""
        people.print(f"{mark} {escape(finding.name)} {escape(finding.value)}{hint}")
    _answer({finding.name: finding.value for finding in findings})


@app.command()
def version() -> None:
    """Say which release this is."""
    _answer({"affectgpt-r1": __version__})


def _train(phase: Callable[..., object], recipe: object, name: str) -> None:
    from affectgpt_r1.training.run import Watch

    with bars() as bar:
        result = phase(recipe, Watch(bar("reading clips"), steps(bar(name))))
    _answer(result)


def _answer(row: Any) -> None:
    """Print a dataclass or what is JSON already; paths as texts."""
    plain = json_row(row) if is_dataclass(row) else row
    print(json.dumps(plain, ensure_ascii=False, default=str), flush=True)


def _complain(message: str) -> None:
    print("affectgpt-r1:", *message.split(), file=sys.stderr)


def _quiet() -> None:
    """One voice on stderr: ours. Libraries' notes and bars are left out unless they matter."""
    from rich.logging import RichHandler

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


if __name__ == "__main__":
    main()
