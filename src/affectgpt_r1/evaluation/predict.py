"""Predictions: clips in, words out, by one trained model.

The same parser, prompt and sampler as in training. What a clip lacks is in the prediction's flags.
Clips come one by one, so that there may be any number of them.
"""

import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from affectgpt_r1 import __version__
from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import Mode, Part, parse_completion
from affectgpt_r1.errors import InputError, ModelFolderError
from affectgpt_r1.evaluation.render import json_row
from affectgpt_r1.files import digest_of, json_line, sha256_of, writing
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration, read_config
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.profiles import PROFILES, encoders_of, load_processor
from affectgpt_r1.model.sampling import SamplingSettings, sample, seed_of
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.features import EncoderSource, Features, perceive
from affectgpt_r1.progress import Progress, counted

DecodingName = Literal["greedy", "published"]

#: published: as the authors decode (MODEL.md, "Inference"), but for the length, which is the
#: mode's matter.
_DECODING: Mapping[DecodingName, SamplingSettings] = {
    "greedy": SamplingSettings(max_new_tokens=256, temperature=0.0),
    "published": SamplingSettings(max_new_tokens=256, temperature=1.0, top_p=0.9, top_k=20),
}
BATCH = 16  # clips at a time


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model ready to predict.

    Attributes:
        model, processor: what it consists of.
        encoders: loaded when a clip's features are not in the cache.
        signature: names profile, weights and release, e.g.
            `affectgpt-r1|profile:small|weights:1a2b3c4d|v:0.1.0`.
    """

    model: AffectGPTForConditionalGeneration
    processor: AffectGPTProcessor
    encoders: EncoderSource
    signature: str


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of a clip; its JSON object has these keys in this order.

    Attributes:
        id: the clip's.
        words: the answer's words; None: the clip could not be read.
        think: the think block; None where there is none.
        completion: the raw reply; None: there is none.
        problems: why the reply is not well formed.
        flags: what the clip lacked (no audio, no face found, ...), or why it could not be read.
        model: the predictor's signature.
        signature: how it was asked and sampled.
        dataset, labels: the clip's, so that `score` and `unibench` read a file of predictions as it
            is; labels are a number where the truth is an intensity.
        asked: 16 hex digits over what was asked about, the media's content and the subtitle; None:
            the clip could not be read.
    """

    id: str
    words: tuple[str, ...] | None
    think: str | None
    completion: str | None
    problems: tuple[str, ...]
    flags: tuple[str, ...]
    model: str
    signature: str
    dataset: str | None = None
    labels: tuple[str, ...] | float | None = None
    asked: str | None = None


def load_predictor(folder: Path, *, profile: str | None = None, bf16: bool = False) -> Predictor:
    """Load a model folder (or a finished run folder); its encoders wait until they are needed.

    Args:
        folder: written by training or `save_pretrained`.
        profile: the profile it must be of; None: any.
        bf16: weights in bfloat16: half the memory, and other words where two are nearly as likely;
            the signature says so.

    Raises:
        ModelFolderError: missing, incomplete or of another profile; or a run that is not finished.
        MissingFileError: frozen weights are not on this machine.
    """
    if not (folder / "config.json").is_file() and (folder / "recipe.yaml").is_file():
        run, folder = folder, folder / "model"
        if not (folder / "config.json").is_file():
            raise ModelFolderError(f"{run} is not finished: start it again, or name a checkpoint")
    config = read_config(folder)
    if config.profile not in PROFILES:
        raise ModelFolderError(f"{folder}: of no known profile: {config.profile!r}")
    if profile is not None and config.profile != profile:
        raise ModelFolderError(
            f"{folder}: a model of profile {config.profile!r}, but {profile!r} is asked for: "
            f"name another model, or set profile={config.profile}"
        )
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = AffectGPTForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    own = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"  # of several processes each has its own
    nn.Module.to(model, own if torch.cuda.is_available() else "cpu")
    hashes = [bytes.fromhex(sha256_of(path)) for path in sorted(folder.rglob("*.safetensors"))]
    weights = hashlib.sha256(b"".join(hashes)).hexdigest()[:8]
    rounded = "|bf16" if bf16 else ""
    signature = f"affectgpt-r1|profile:{config.profile}|weights:{weights}{rounded}|v:{__version__}"
    return Predictor(model, load_processor(folder), encoders_of(config), signature)


def perceive_clips(
    clips: Sequence[Clip],
    source: EncoderSource,
    cache: FeatureCache | None,
    progress: Progress | None = None,
) -> list[tuple[Clip, Features]]:
    """Every clip with its features, from the cache where it has them.

    Raises:
        MediaError: a clip cannot be read; named by its file.
        MissingFileError: a clip is not in the cache and the encoders are not on this machine.
        ModelFolderError: the encoders here are not those that the model was trained on.
    """
    return [(clip, perceive(clip, source, cache)) for clip in counted(clips, len(clips), progress)]


def predict(
    predictor: Predictor,
    clips: Iterable[tuple[Clip, Features | str]],
    *,
    mode: Mode = "answer",
    decode: DecodingName = "greedy",
    without: Collection[Part] = (),
    seed: int = 0,
) -> Iterator[Prediction]:
    """Predict clip by clip, in order; a prediction does not depend on its batch.

    Args:
        predictor: the model.
        clips: with their features, or with the reason why they have none; taken as they are needed.
        mode: answer alone, or thinking first.
        decode: how the reply is sampled.
        without: parts that the prompt leaves out.
        seed: with the clip's id it seeds the sampling.
    """
    rest, model, processor = iter(clips), predictor.model, predictor.processor
    settings, view = _DECODING[decode], predictor.encoders.view
    ask = partial(processor.ask, view=view, mode=mode, without=without)
    drawn_as = f"t{settings.temperature:g}p{settings.top_p:g}k{settings.top_k}s{seed}"
    decoding = drawn_as if settings.temperature else decode
    how = f"mode:{mode}|decode:{decoding}|without:{'+'.join(sorted(without)) or 'nothing'}"
    while part := list(islice(rest, BATCH)):
        read = [(clip, found) for clip, found in part if not isinstance(found, str)]
        prompts = [ask(clip.subtitle, found) for clip, found in read]
        said: Iterator[Any] = iter(())
        if read:
            batch = processor.batch(prompts, [found for _, found in read], model.device)
            seeds = [[seed_of(seed, clip.id)] for clip, _ in read]
            groups = sample(model, processor, batch, seeds=seeds, settings=settings)
            said = zip(prompts, groups, strict=True)
        for clip, found in part:
            about = predictor.signature, how, clip.dataset, clip.truth
            if isinstance(found, str):
                yield Prediction(clip.id, None, None, None, (), (found,), *about)
                continue
            prompt, (drawn,) = next(said)
            reply = parse_completion(processor.text(drawn.ids), mode)
            odd = {"reply cut": not drawn.finished, "subtitle cut": prompt.truncated}
            flags = {*map(str, found.flags), *(flag for flag, holds in odd.items() if holds)}
            problems = tuple(sorted(reply.problems))
            told = reply.words, reply.think, reply.text, problems, tuple(sorted(flags))
            yield Prediction(clip.id, *told, *about, _asked(found.key, clip))


def predict_into(
    path: Path,
    predictor: Predictor,
    clips: Sequence[Clip],
    cache: FeatureCache,
    faults: Mapping[str, str],
    progress: Progress,
    **how: Any,
) -> int:
    """Predict into a file of JSON Lines, or go on where an earlier call of the same was cut.

    However often it was cut, the file comes out equal to the byte: whole batches are kept, what
    stands behind them is made again. A clip that cannot be read has a line without words, and its
    reason in the flags; once it can be read it is asked about, and its line replaced.

    Args:
        path: the file.
        predictor, clips: who predicts of what.
        cache: of features; what it lacks is read here and now.
        faults: why clips cannot be read, by id.
        progress: told how many of how many are there.
        **how: mode, decode, without, seed, as in `predict`.

    Returns:
        How many predictions were there already.

    Raises:
        InputError: the file cannot be written, or holds other predictions than these: of another
            model, question, clip, subtitle, or content of the media.
    """
    source = predictor.encoders

    def said(clips: Iterable[Clip]) -> Iterator[bytes]:
        seen = ((clip, faults.get(clip.id) or perceive(clip, source, cache)) for clip in clips)
        return (json_line(json_row(one)) for one in predict(predictor, seen, **how))

    with writing(path), path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another at work on it is told as a fault
        file.seek(0)
        lines = file.readlines()
        torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        begun = json_line({"id": clips[0].id, "words": ""})[:-4]  # what a cut leaves of one line
        ours = lines or begun.startswith(torn[: len(begun)])
        there, known = list(map(_name_of, lines)), clips[: len(lines)]
        unread = [
            (one.id, one.model, one.signature, None)
            for one in predict(predictor, ((clip, "unread") for clip in known), **how)
        ]
        wanted = [
            name if clip.id in faults else (*name[:3], _asked(source.key(clip), clip))
            for name, clip in zip(unread, known, strict=True)
        ]
        fits = [was in now for was, *now in zip(there, unread, wanted, strict=False)]
        if not (ours and all(fits) and len(fits) == len(lines)):
            raise InputError(
                f"{path} holds other predictions (of another model, question or clip, or another "
                "subtitle or content under the same id): name another file, or remove it"
            )
        done = len(lines) if len(lines) == len(clips) else len(lines) // BATCH * BATCH
        mended = [place for place in range(done) if there[place] != wanted[place]]
        for place, line in zip(mended, said(clips[i] for i in mended), strict=True):
            lines[place] = line
        start = min(mended, default=done)
        file.truncate(sum(map(len, lines[:start])))
        file.writelines(lines[start:done])
        for count, line in enumerate(said(clips[done:]), done + 1):
            file.write(line)
            file.flush()
            progress(count, len(clips))
    return done - len(mended)


def table_of_predictions(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON objects of predictions as CSV: the same columns, lists as texts with commas."""
    file = io.StringIO(newline="")
    table = csv.DictWriter(file, [column.name for column in fields(Prediction)])
    table.writeheader()
    for row in rows:
        table.writerow({k: ", ".join(v) if isinstance(v, list) else v for k, v in row.items()})
    return file.getvalue()


def _asked(key: str, clip: Clip) -> str:
    """What a clip's prediction is `asked` about, by its features' key."""
    return digest_of([key, clip.subtitle])[:16]


def _name_of(line: bytes) -> tuple[object, ...] | None:
    """Whose prediction a line holds, by what, asked how, and about what."""
    try:
        row = json.loads(line)
        return row["id"], row["model"], row["signature"], row.get("asked")
    except (ValueError, LookupError, TypeError):
        return None
