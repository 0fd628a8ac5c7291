"""The two phases as one call each: recipe in, trained model folder out.

Each reads its data, encodes what the cache lacks, trains and writes the run folder. Called again on
the same folder, it goes on from the last whole checkpoint, or finds nothing left to do.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

from affectgpt_r1.asking import Server, check_server
from affectgpt_r1.clips import Clip, read_labelled, read_manifest
from affectgpt_r1.config import ColdStartRecipe, DataSettings, GrpoRecipe
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import reasons, score_corpus
from affectgpt_r1.errors import InputError, MediaError, TrainingError
from affectgpt_r1.evaluation.predict import Predictor, load_predictor, perceive_clips, predict
from affectgpt_r1.files import digest_of
from affectgpt_r1.media import content_hash
from affectgpt_r1.media.attach import message_parts
from affectgpt_r1.model.profiles import PROFILES, create_model, encoder_source, encoders_of
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import failures
from affectgpt_r1.perception.features import EncoderSource, Features
from affectgpt_r1.progress import Progress as Reading
from affectgpt_r1.rewards import RewardRule
from affectgpt_r1.rewards.perception import Judge, PairwiseJudge
from affectgpt_r1.training.alignment import align_projectors
from affectgpt_r1.training.checkpoints import best, newest
from affectgpt_r1.training.cold_start import ColdStartTrainer
from affectgpt_r1.training.grpo import GrpoTrainer
from affectgpt_r1.training.likelihood import LikelihoodJudge
from affectgpt_r1.training.run_folder import check_run, locked
from affectgpt_r1.training.trainer import Progress, RunTrainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left behind.

    Attributes:
        model: the final model's folder.
        steps: updates in all; 0 where the run was finished before.
        resumed_from: the checkpoint it went on from.
        dropped: training clips left out, by reason; None where the run was finished before.
        best: the checkpoint with the best F on the clips held out, where there are any.
    """

    model: Path
    steps: int
    resumed_from: str | None
    dropped: Mapping[str, int] | None
    best: Path | None = None


def train_cold_start(recipe: ColdStartRecipe, reading: Reading, step: Progress) -> RunResult:
    """Phase 1: make a model of the recipe's profile and tune it on descriptions and labels.

    Args:
        recipe: what is done.
        reading: told how many clips are read, of how many.
        step: told of each update.

    Raises:
        InputError: data, weights or run folder are at fault; nothing was written then.
    """
    folder = Path(recipe.run.output)
    if check_run(folder, recipe):
        return RunResult(folder / "model", 0, None, None, best(folder))
    clips, dropped = _training_clips(recipe.data)
    profile = PROFILES[recipe.profile].but(**recipe.encoders.model_dump())
    encoders = encoder_source(profile)
    model, processor = create_model(profile, encoders, seed=recipe.run.seed, lora=recipe.lora)
    examples = _perceived(clips, encoders, recipe.data, reading)
    del encoders  # what is trained reads features only
    predictor = Predictor(model, processor, encoders_of(model.config), "")
    held_out = _held_out(predictor, recipe, Lexicon.load(), reading)
    if recipe.align_projectors:
        explained = align_projectors(model, processor, examples)
        shares = ", ".join(f"{name} {share:.2f}" for name, share in explained.items())
        logger.info("projectors aligned; share of the labels' variance explained: %s", shares)
    parts = model, processor, examples
    trainer = ColdStartTrainer(*parts, recipe=recipe, progress=step, held_out=held_out)
    return _run(trainer, dropped)


def train_grpo(recipe: GrpoRecipe, reading: Reading, step: Progress) -> RunResult:
    """Phase 2: improve a cold-started model with GRPO.

    Clips whose labels the lexicon does not know at all are left out and counted: no answer to them
    can be judged (METRIC.md).

    Args:
        recipe, reading, step: as in `train_cold_start`.

    Raises:
        InputError: data, model, lexicon or run folder are at fault; nothing was written then.
    """
    folder = Path(recipe.run.output)
    if check_run(folder, recipe):
        return RunResult(folder / "model", 0, None, None, best(folder))
    RewardRule.of(recipe.rewards, recipe.mode)  # refused before anything is loaded
    lexicon = Lexicon.load(recipe.lexicon.name, folder=recipe.lexicon.folder)
    clips, dropped = _training_clips(recipe.data)
    known = [clip for clip in clips if any(map(lexicon.counts, clip.labels or ()))]
    if not known:
        raise InputError(
            f"{recipe.data.train}: no label is in lexicon {recipe.lexicon.name!r}: choose another"
        )
    if unknown := len(clips) - len(known):
        told = "%d of %d clips left out: no label of theirs is in the lexicon"
        logger.warning(told, unknown, len(clips))
        dropped["no label in the lexicon"] = unknown
    judge = _judge(recipe, known, lexicon, reading)
    predictor = load_predictor(Path(recipe.model), profile=recipe.profile)
    examples = _perceived(known, predictor.encoders, recipe.data, reading)
    held_out = _held_out(predictor, recipe, lexicon, reading)
    parts = predictor.model, predictor.processor, examples
    settings = {"recipe": recipe, "progress": step, "held_out": held_out}
    trainer = GrpoTrainer(*parts, lexicon=lexicon, judge=judge, **settings)
    return _run(trainer, dropped, predictor.signature.rpartition("|v:")[0])


def _held_out(
    predictor: Predictor, recipe: ColdStartRecipe | GrpoRecipe, lexicon: Lexicon, told: Reading
) -> Callable[[], float] | None:
    """The model's F on the clips held out, as it is when asked; all processes must ask."""
    if recipe.data.held_out is None:
        return None
    clips, _ = _readable(Path(recipe.data.held_out), recipe.data)
    examples = _perceived(clips, predictor.encoders, recipe.data, told)
    mode: Mode = getattr(recipe, "mode", "answer")

    def f() -> float:
        predictor.model.eval()
        said = [answer.words or () for answer in predict(predictor, examples, mode=mode)]
        predictor.model.train()
        return score_corpus([clip.labels or () for clip in clips], said, lexicon).f

    return f


def _judge(
    recipe: GrpoRecipe, clips: Sequence[Clip], lexicon: Lexicon, reading: Reading
) -> Judge | None:
    settings = recipe.judge
    if settings is None:
        return None
    if settings.url is None:
        predictor = load_predictor(Path(settings.model))
        seen = _perceived(clips, predictor.encoders, recipe.data, reading)
        features = {clip.id: found for clip, found in seen}
        return LikelihoodJudge(predictor, features, lexicon, settings.by)
    told = {"url", "model", "concurrency", "retries", "timeout_s", "budget_s"}
    server = Server(**settings.model_dump(include=told))
    check_server(server)
    folder = Path(settings.cache) if settings.cache else user_cache_path("affectgpt-r1") / "judged"
    take = settings.take
    shown = server, partial(message_parts, take=take), lambda clip: f"{take} {content_hash(clip)}"
    return PairwiseJudge(*shown, lexicon, folder, settings.by)


def _run(trainer: RunTrainer, dropped: Mapping[str, int], start: str = "") -> RunResult:
    rows = [[c.id, c.subtitle, c.labels, c.description, f.key] for c, f in trainer.examples]
    begun_on = digest_of([start, rows])[:16]
    with locked(trainer.run_folder, trainer.recipe, begun_on), asked_by_sigterm(trainer):
        checkpoint = newest(trainer.run_folder)
        if checkpoint is None:
            trainer.forget_after(0)
        else:
            logger.info("going on from %s", checkpoint)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except TrainingError as error:
            place = trainer.save_fault()
            raise TrainingError(
                f"{error}: see of which clip with `affectgpt-r1 train replay {place}`; "
                "checkpoints are untouched; a lower learning rate is the usual cure"
            ) from None
        if trainer.ended:
            logger.warning("ended when asked, with a checkpoint: the same command goes on from it")
            raise SystemExit(128 + signal.SIGTERM)
        model = trainer.finish()
    resumed_from = checkpoint.name if checkpoint else None
    steps, chosen = trainer.state.global_step, best(trainer.run_folder)
    return RunResult(model, steps, resumed_from, dropped, chosen)


@contextmanager
def asked_by_sigterm(trainer: RunTrainer) -> Iterator[None]:
    """SIGTERM asks a run for its end; off the main thread, where none arrives, nothing does."""
    with ExitStack() as afterwards:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, trainer.ask_to_end)
            afterwards.callback(signal.signal, signal.SIGTERM, before)
        yield


def _training_clips(data: DataSettings) -> tuple[tuple[Clip, ...], dict[str, int]]:
    """The clips that can be trained on, and how many are left out, by reason."""
    clips, everything = _readable(Path(data.train), data)
    for other in filter(None, (data.test, data.held_out)):
        apart = {clip.id for clip in read_manifest(Path(other))}
        shared = [clip.id for clip in clips if clip.id in apart]
        if shared and data.allow_shared:
            logger.warning("%d training clips are in %s too, as allowed", len(shared), other)
        elif shared:
            raise InputError(
                f"{data.train}: {len(shared)} clips are in {other} too (first: {shared[0]!r}): "
                "remove them from one of the two (`prepare --exclude`), or set "
                "data.allow_shared=true"
            )
    return clips, reasons({"could not be read": everything - len(clips)})


def _readable(manifest: Path, data: DataSettings) -> tuple[tuple[Clip, ...], int]:
    """A manifest's clips without those that `encode` could not read; and how many it has."""
    clips = read_labelled(manifest)
    if faults := failures(clips, FeatureCache(data.cache)):
        name, why = next(iter(faults.items()))
        of = f"{len(faults)} of {len(clips)} clips (first: {name!r}, {why})"
        told = f"{manifest}: {of} could not be read"
        if len(faults) > min(data.max_unreadable * len(clips), len(clips) - 1):
            cure = "mend them and `encode --retry`, or raise data.max_unreadable"
            raise InputError(f"{told}: {cure}")
        logger.warning("%s and are left out: `encode --retry` tries them again", told)
    return tuple(clip for clip in clips if clip.id not in faults), len(clips)


def _perceived(
    clips: Sequence[Clip], source: EncoderSource, data: DataSettings, told: Reading
) -> list[tuple[Clip, Features]]:
    try:
        return perceive_clips(clips, source, FeatureCache(data.cache), told)
    except MediaError as error:
        cure = "`encode` the manifest, and training leaves out what that cannot read"
        raise MediaError(f"{error}; or {cure}") from None
