"""Commands that read clips or run a model: data sets, features, training, prediction."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, get_args

from cyclopts import App, Parameter

from affectgpt_r1 import console
from affectgpt_r1.cli import options as opt
from affectgpt_r1.clips import Clip, clips_in, read_labelled, read_manifest, write_manifest
from affectgpt_r1.dialogue import Part, View
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.answers import AnswerRow
from affectgpt_r1.evaluation.render import render
from affectgpt_r1.files import make_folder, own_rows, write_whole, writing
from affectgpt_r1.serve.limits import LOCAL, Limits

cache = App(name="cache", help="Features on disk: size, checks, packing.")
train = App(name="train", help="Train: cold start, then GRPO.")


def prepare(
    name: str,
    folder: Path,
    /,
    *,
    renderings: opt.Count = 1,
    seed: opt.Whole = 0,
    out: Path | None = None,
    exclude: list[Path] | None = None,
    language: str | None = None,
) -> object:
    """Make the demo clips, or the manifest of a published set from its authors' folder.

    Args:
        name: demo, or a set; ? lists them.
        folder: Where it lies, or is made.
        renderings: Renderings of a take, in training.
        seed: Of everything random.
        out: Manifest (FOLDER/NAME.jsonl).
        exclude: Manifest of ids to omit; repeatable.
        language: Subtitles: english or chinese.
    """
    if (out or exclude or language) if name == "demo" else (renderings, seed) != (1, 0):
        raise InputError("--renderings and --seed are the demo's; the others, published sets'")
    if name == "demo":
        from affectgpt_r1_demo.clips import write_demo

        with console.bars() as bar:
            told = bar("drawing clips")
            return write_demo(folder, renderings=renderings, seed=seed, progress=told)
    from affectgpt_r1.datasets import published

    with console.people.status("checking files"):
        result = published.prepare(name, folder, out, exclude=exclude or (), language=language)
    console.prepared_table(result)
    return result


def encode(
    manifest: Path,
    /,
    *,
    encoders: opt.Encoders,
    cache: opt.Cache = None,
    workers: opt.Count = 2,
    wall_s: opt.Seconds = 120,
    memory_mib: opt.MiB = 4096,
    shard: str = "1/1",
    retry: bool = False,
    batch_clips: opt.Count = 1,
    device: str = "cpu",
    engine: Literal["local", "ray"] = "local",
    write_faces: Path | None = None,
) -> dict[str, int]:
    """Encode clips into the feature cache; what cannot be read is listed in its failures.jsonl.

    Args:
        manifest: Clips; their words are not read.
        workers: Processes that read clips.
        wall_s: Seconds that a clip may take.
        memory_mib: MiB that such a process may take.
        shard: I/N: the I-th of N parts of the clips.
        retry: Only what failed before.
        batch_clips: Clips encoded at once.
        device: Of pretrained encoders: cpu, cuda, cuda:1.
        engine: ray: over the machines of a Ray cluster.
        write_faces: Folder for face crops as npy, and a manifest that names them.
    """
    from affectgpt_r1.media.worker import Guard
    from affectgpt_r1.perception import encode as encoding

    manifest = manifest.resolve()  # so that its clips lie where they do for others, too
    clips = encoding.shard_of(everything := read_manifest(manifest), shard)
    store, guard = _store(cache), Guard(workers, wall_s, memory_mib << 20)
    load = partial(_source, encoders, device)
    wanted = encoding.to_encode(clips, store, retry=retry)
    if write_faces:
        make_folder(write_faces := write_faces.resolve())
    with console.bars() as bar:
        if engine == "ray":
            run = partial(encoding.encode_on_ray, wanted, load, gpus=int(device.startswith("cuda")))
        else:
            run = partial(encoding.encode_clips, wanted, load())
        told = bar("encoding")
        fates = run(store, guard, batch_clips=batch_clips, crops=write_faces, progress=told)
    if write_faces:
        crops = {path.stem: path for path in write_faces.glob("*.npy")}
        cropped = [replace(clip, faces=crops.get(clip.id, clip.faces)) for clip in everything]
        write_manifest(write_faces / "clips.jsonl", cropped)
    skipped = 0 if retry else len(clips) - len(wanted)
    if fates["failed"] or skipped:
        reasons = store.folder / "failures.jsonl"
        console.complain(f"why clips failed stands in {reasons}; --retry tries again")
    counts = {fate: fates[fate] for fate in get_args(encoding.Fate)}
    return {"clips": len(clips), **counts, "skipped": skipped}


def convert(
    checkpoint: Path, out: Path, /, *, language_model: str | None = None, view: View = "face"
) -> object:
    """Turn the authors' published checkpoint into a model folder; only its tensors are read.

    Args:
        checkpoint: The authors' file.
        out: The model folder; must not exist.
        language_model: Folder or hub name of the frozen weights [default: the full profile's].
        view: What its visual branch was trained on.
    """
    from affectgpt_r1.model.convert import convert

    return {"model": convert(checkpoint, out, language_model=language_model, view=view)}


def merge(model: Path, out: Path, /) -> object:
    """Write a model folder whose adapter is merged into the language model, which lies in it.

    Args:
        model: A model folder or finished run.
        out: The new model folder; must not exist.
    """
    from affectgpt_r1.evaluation.predict import load_predictor
    from affectgpt_r1.model.convert import check_new, write_model

    check_new(out)
    loaded = load_predictor(model)
    loaded.model.merge_adapter()
    return {"model": write_model(loaded.model, loaded.processor, out)}


@cache.command
def size(*, cache: opt.Cache = None) -> object:
    """What a feature cache holds."""
    return _store(cache).contents()


@cache.command
def verify(*, cache: opt.Cache = None) -> Iterator[object]:
    """Read a feature cache whole and check it; status 2 where something is damaged."""
    store = _store(cache)
    with console.bars() as bar:
        found = store.verify(bar("verifying"))
    yield found
    if found.damaged:
        raise InputError(
            f"{found.damaged} entries of {store.folder} are damaged: `cache compact`, then `encode`"
        )


@cache.command
def compact(*, cache: opt.Cache = None) -> object:
    """Pack a feature cache into shards, without what is damaged or doubled."""
    with console.bars() as bar:
        return _store(cache).compact(progress=bar("packing"))


@cache.command
def gc(*manifests: opt.Paths, encoders: opt.Encoders, cache: opt.Cache = None) -> object:
    """Throw out of a feature cache all that such encoders do not need for such clips.

    Args:
        manifests: Whose clips stay.
    """
    source = _source(encoders)
    with console.bars() as bar:
        keep = {source.key(clip) for manifest in manifests for clip in read_manifest(manifest)}
        return _store(cache).compact(keep, bar("packing"))


@train.command
def cold_start(recipe: str, /, *, overrides: opt.Overrides = None) -> object:
    """Phase 1: tune a model on descriptions and labels.

    Args:
        recipe: A YAML file or a recipe's name.
    """
    from affectgpt_r1.config import ColdStartRecipe, load_recipe

    return _train(load_recipe(recipe, ColdStartRecipe, overrides or ()))


@train.command
def grpo(recipe: str, /, *, overrides: opt.Overrides = None) -> object:
    """Phase 2: improve a cold-started model with the emotion-wheel score as reward.

    Args:
        recipe: A YAML file or a recipe's name.
    """
    from affectgpt_r1.config import GrpoRecipe, load_recipe

    return _train(load_recipe(recipe, GrpoRecipe, overrides or ()))


@train.command
def replay(folder: Path, /, *, process: opt.Whole = 0) -> object:
    """Make an update again that ended a run: of which clips figures are no numbers.

    Args:
        folder: RUN/failed/step-NNNNNN, as the run named it.
        process: Whose part, where several trained.
    """
    from affectgpt_r1.training.replay import replay

    return replay(folder, process)


def predict(
    *files: opt.Paths,
    model: Path,
    subtitle: opt.Text = "",
    reply: opt.Reply = opt.Reply(),
    bf16: opt.Half = False,
    cache: opt.Cache = None,
    out: Path | None = None,
    workers: opt.Count = 2,
) -> object:
    """Predict the emotions of clips: one JSON object a line.

    Without --out, a clip that cannot be read ends it before the first answer; with it, such a clip
    has a line without words.

    Args:
        files: Media files, folders of them, or one manifest.
        model: A model folder or finished run.
        subtitle: What is said in the file.
        out: File of the answers; one that was cut is gone on with. NAME.csv: NAME.jsonl, and the
            same as a table.
        workers: Processes that read clips, with --out.
    """
    from affectgpt_r1.evaluation import predict as predicting

    clips, how = clips_in(files, subtitle), asdict(reply)
    predictor, store = predicting.load_predictor(model, bf16=bf16), _store(cache)
    if out is None:
        with console.bars() as bar:
            seen = predicting.perceive_clips(clips, predictor.encoders, store, bar("reading clips"))
        said = predicting.predict(predictor, seen, **how)
        return console.shown(said) if len(clips) == 1 else said
    lines = out.with_suffix(".jsonl") if out.suffix == ".csv" else out
    done = _predict_into(lines, predictor, clips, store, workers, **how)
    rows = own_rows(lines)
    if out != lines:
        with writing(out):
            write_whole(out, predicting.table_of_predictions(rows))
    words = Counter(word for row in rows for word in row["words"] or ())
    unread = sum(row["words"] is None for row in rows)
    counts = {"clips": len(clips), "there_before": done, "unreadable": unread}
    return {"predictions": out, **counts, "commonest": dict(words.most_common(10))}


def evaluate(
    model: Path,
    manifest: Path,
    /,
    *,
    out: Path | None = None,
    baseline: Path | None = None,
    reply: opt.Reply = opt.Reply(),
    bf16: opt.Half = False,
    without: list[Part] | None = None,
    metric: scoring.Metric | None = None,
    lexicon: opt.LexiconName = "builtin",
    lexicon_folder: opt.LexiconFolder = None,
    level: opt.Level | None = None,
    cache: opt.Cache = None,
    workers: opt.Count = 2,
) -> object:
    """Evaluate a model on labelled clips: scores with intervals, and a report.

    Clips that cannot be read are named and counted; they are no part of the score.

    Args:
        model: A model folder or finished run.
        manifest: Labelled clips.
        out: Folder for predictions, scores and, by EW, report; what was cut there is gone on with.
        baseline: predictions.jsonl of another model, to compare with.
        without: Leave a part out; repeatable.
        metric: What is scored [default: of a set of MER-UniBench, its metric; else ew].
        lexicon: Which lexicon scores.
        level: Ring of the wheels [default: 1].
        workers: Processes that read clips.
    """
    from affectgpt_r1.evaluation.predict import load_predictor
    from affectgpt_r1.evaluation.report import write_report
    from affectgpt_r1.evaluation.unibench import metric_of

    table, clips = Lexicon.load(lexicon, folder=lexicon_folder), read_labelled(manifest)
    rule = scoring.rule_of(None, metric or metric_of(clips), lexicon, level, None)
    truths = [AnswerRow(clip.id, clip.truth, (), clip.id) for clip in clips]
    # Labels of another metric or lexicon are told before the work.
    if not scoring.can_be_scored(scoring.keep(truths, rule, str(manifest)), rule, table):
        raise InputError(f"{manifest}: no label can be scored by {rule.metric} and this lexicon")
    before = {str(baseline): scoring.read_kept(baseline, rule, clips)} if baseline else {}
    if out:
        make_folder(out)
    predictor, store = load_predictor(model, bf16=bf16), _store(cache)
    with TemporaryDirectory() as scratch:
        lines = (out or Path(scratch)) / "predictions.jsonl"
        how = {"without": without or (), **asdict(reply)}
        _predict_into(lines, predictor, clips, store, workers, **how)
        kept = scoring.read_kept(lines, rule, clips)
    scores = scoring.score_row(kept, rule, table, before)
    if out:
        with writing(out):
            write_whole(out / "evaluation.json", json.dumps(scores, indent=1))
        if rule.metric == "ew":
            page = out / "report.html"
            write_report(page, table, kept, scores, clips, before, level=rule.levels[0], run=model)
    console.people.out(render(scores, "text"), highlight=False)
    return scores


def serve(
    *,
    model: Path,
    bf16: opt.Half = False,
    host: str = LOCAL[0],
    port: opt.Whole = 8000,
    limits: Annotated[Limits, Parameter("*")] = Limits(),
    lexicon: opt.LexiconName = "builtin",
    lexicon_folder: opt.LexiconFolder = None,
) -> None:
    """Serve a model: a page for people, predictions and scores over HTTP.

    Where AFFECTGPT_R1_TOKEN is set, only requests that bear it are answered.

    Args:
        model: A model folder or finished run.
        host: Address to listen at; others than this machine's own let others in.
        port: Port; 0: any that is free.
        lexicon: Which lexicon puts words on wheels, and scores.
    """
    from affectgpt_r1.evaluation.predict import load_predictor
    from affectgpt_r1.serve.app import bound, create_app, listen

    token, table = os.environ.get("AFFECTGPT_R1_TOKEN"), Lexicon.load(lexicon, lexicon_folder)
    hosts = LOCAL if host in LOCAL else ("*",)
    if hosts != LOCAL and not token:
        console.complain(f"anyone who reaches {host} may ask: set AFFECTGPT_R1_TOKEN")
    with bound(host, port) as socket:
        predictor = load_predictor(model, bf16=bf16)
        app = create_app(predictor, table, limits, token=token, hosts=hosts)
        listen(app, socket, console.people.print)


_NAMED = 5  # of many clips that cannot be read

#: What the command line takes from here.
COMMANDS = (prepare, encode, cache, convert, merge, train, predict, evaluate, serve)


def _source(encoders: opt.Encoders, device: str = "cpu") -> Any:
    from affectgpt_r1.model.profiles import PROFILES, encoder_source

    chosen = asdict(encoders)
    profile = PROFILES[chosen.pop("profile")]
    return encoder_source(profile.but(**chosen), device)


def _store(cache: Path | None) -> Any:
    from affectgpt_r1.perception.cache import FeatureCache

    return FeatureCache(cache)


def _predict_into(
    path: Path, predictor: Any, clips: Sequence[Clip], store: Any, workers: int, **how: Any
) -> int:
    """Clips to predictions in a file; which could not be read is told. As `predict_into`."""
    from affectgpt_r1.evaluation.predict import predict_into
    from affectgpt_r1.media.worker import Guard
    from affectgpt_r1.perception.encode import encode_clips, failures

    with writing(path):
        path.open("ab").close()  # told before hours of reading
    with console.bars() as bar:
        guard, told = Guard(workers), bar("reading clips")
        # All of them: what failed before may have been mended, or failed for want of memory.
        encode_clips(clips, predictor.encoders, store, guard, progress=told)
        faults = failures(clips, store)
        done = predict_into(path, predictor, clips, store, faults, bar("predicting"), **how)
    for name, why in islice(faults.items(), _NAMED):
        console.complain(f"clip {name!r}: {why}")
    if len(faults) > _NAMED:
        console.complain(f"and {len(faults) - _NAMED} more clips: the reasons stand in `flags`")
    return done


def _train(recipe: Any) -> object:
    from affectgpt_r1.training.run import train_cold_start, train_grpo

    train = train_grpo if recipe.stage == "grpo" else train_cold_start
    with console.bars() as bar:
        return train(recipe, bar("reading clips"), partial(console.step, bar(recipe.stage)))
