"""Recipes: what a run does, as YAML, checked whole before anything starts.

A recipe is a file or the name of one of the package's (`small-cold-start`). Unknown and mistyped
keys, wrong types and values out of range are all reported at once. Names and meanings of the GRPO
settings follow TRL's GRPOConfig. This module knows nothing of models or data.
"""

import json
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from affectgpt_r1.errors import MissingFileError, RecipeError

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
LengthPenalty = Literal["none", "p1", "p2", "p3"]
Penalised = Annotated[tuple[Literal["accuracy", "dual"], ...], Field(strict=False)]  # or a list

#: The package's own recipes.
_FOLDER = files("affectgpt_r1") / "recipes"


class Section(BaseModel):
    """A part of a recipe: frozen, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class LoraSettings(Section):
    """The adapter (MODEL.md): rank 0 trains the language model itself."""

    rank: Annotated[int, Field(ge=0)] = 16
    alpha: PositiveInt = 32
    dropout: Share = 0.05


class OptimizerSettings(Section):
    """AdamW, its learning rates and how long it runs.

    Attributes:
        learning_rate: of the adapter (or the language model).
        fusion_learning_rate: of fusion and projectors; None: the same.
        weight_decay: not on biases and one-dimensional weights.
        warmup_steps: linear, from 0.
        schedule: after the warm-up.
        max_grad_norm: 0: no clipping.
        batch_size: clips a step and process.
        gradient_accumulation_steps: batches an update.
        epochs: passes over the data, or
        max_steps: updates in all, which wins.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    fusion_learning_rate: Annotated[float, Field(gt=0)] | None = None
    weight_decay: NonNegative = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    max_grad_norm: NonNegative = 0.0
    batch_size: PositiveInt = 4
    gradient_accumulation_steps: PositiveInt = 1
    epochs: Annotated[float, Field(gt=0)] = 1.0
    max_steps: PositiveInt | None = None


class RunSettings(Section):
    """Where a run writes and how often.

    Attributes:
        output: the run folder.
        seed: of everything random.
        save_steps: updates between checkpoints.
        keep_checkpoints: so many newest ones stay.
        gradient_checkpointing: less memory for more time.
        bf16: train in bfloat16 autocast.
        shard: of several processes each holds a part of every weight (FSDP2), not all of them.
        report_to: trackers by transformers' names ("trackio", "wandb", ...).
    """

    output: str
    seed: int = 0
    save_steps: PositiveInt = 50
    keep_checkpoints: PositiveInt = 2
    gradient_checkpointing: bool = False
    bf16: bool = False
    shard: bool = False
    report_to: tuple[str, ...] = ()


class LexiconSettings(Section):
    """Which lexicon scores: the built-in one, or an authors' version and its folder."""

    name: Literal["builtin", "mer2025", "mer2026"] = "builtin"
    folder: str | None = None


class DataSettings(Section):
    """What is trained on.

    Attributes:
        train: a manifest with labels (and descriptions, where the think mode is taught).
        test: a manifest whose ids must not be among the training ids, unless
        held_out: a labelled manifest on which each checkpoint is scored, so that the best stays;
            its ids must not be among the training ids either.
        allow_shared: trains on clips that `test` holds too; how many is logged.
        max_unreadable: clips that `encode` could not read are left out and counted, up to this
            share of a manifest.
        cache: folder of the feature cache; None: in the user's cache directory.
    """

    train: str
    test: str | None = None
    held_out: str | None = None
    allow_shared: bool = False
    max_unreadable: Share = 0.05
    cache: str | None = None


class EncoderSettings(Section):
    """Other frozen encoders than the profile's; None: the profile's.

    Attributes:
        visual: a folder or hub name of a CLIP, SigLIP or DINOv2 model, or `signal`.
        audio: of a HuBERT, WavLM, wav2vec 2.0 or Whisper model, or `signal`.
        view: what the visual one is fed.
        face_model: file of a YuNet face detector (ONNX) in the bundled one's place.
    """

    visual: str | None = None
    audio: str | None = None
    view: Literal["face", "frame"] | None = None
    face_model: Path | None = None


class TrainingRecipe(Section):
    """What both phases of training have.

    Attributes:
        stage: which phase.
        profile: nano, small or full; of GRPO, that of the model it starts from.
    """

    stage: str
    profile: Literal["nano", "small", "full"]
    data: DataSettings
    run: RunSettings
    optimizer: OptimizerSettings = OptimizerSettings()


class ColdStartRecipe(TrainingRecipe):
    """Phase 1: supervised tuning on descriptions and labels (PAPER.md, "Two phases").

    Attributes:
        encoders: what is chosen in place of the profile's.
        think_share: share of samples taught in think mode; one without a description is always
            taught the answer alone.
        align_projectors: start the projectors by least squares on the labels' embeddings
            (`training.alignment`).
        shuffle_labels: each time, the labels of an answer stand in another order: the score reads
            a set, and an order learned by heart is not a skill.
        modality_dropout: chance that a sample loses one of face, voice and words, so that the
            model knows prompts with a missing part.
    """

    stage: Literal["cold-start"] = "cold-start"
    encoders: EncoderSettings = EncoderSettings()
    lora: LoraSettings = LoraSettings()
    think_share: Share = 0.5
    align_projectors: bool = False
    shuffle_labels: bool = False
    modality_dropout: Share = 0.0


class RolloutSettings(Section):
    """How completions are sampled in training; names as in TRL.

    Attributes:
        max_resamples: a group whose rewards do not vary is replaced by another clip's, so many
            times at most; 0: it is left out.
    """

    num_generations: Annotated[int, Field(ge=2)] = 8
    max_completion_length: PositiveInt = 256
    temperature: Annotated[float, Field(gt=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_resamples: Annotated[int, Field(ge=0)] = 0


class RewardSettings(Section):
    """The terms' weights and the length penalty (PAPER.md, "Five rewards").

    Attributes:
        accuracy, format, alignment, dual, perception: weights of the terms; 0 leaves a term out.
            Alignment and dual read the thinking, perception needs a judge.
        length_penalty: p1, p2, p3 or none, on the terms of `penalised`.
        level: ring of the wheels, 1 inner, 2 middle; mixed: the mean over both.
        gate: a completion out of format gets no reward at all.
        alignment_by: the Jaccard index of the two sets of classes, or their F.
    """

    accuracy: NonNegative = 1.0
    format: NonNegative = 1.0
    alignment: NonNegative = 0.0
    dual: NonNegative = 0.0
    perception: NonNegative = 0.0
    penalised: Penalised = ("accuracy", "dual")
    gate: bool = False
    alignment_by: Literal["jaccard", "f"] = "jaccard"
    length_penalty: LengthPenalty = "none"
    level: Literal[1, 2, "mixed"] = 1


class JudgeSettings(Section):
    """Who compares a group's answers for the perception reward (`rewards.perception`).

    Attributes:
        model: the model's name at the server, or without a server a model or run folder, by whose
            likelihood the answers are ranked.
        url: of an OpenAI-compatible server, up to `/v1`.
        take: what the server is sent of a video: eight frames, or the file.
        by: the better half gets 1 and the rest 0, or each its expected share of wins.
        concurrency, timeout_s, retries: requests at a time, and how long and often each is tried.
        budget_s: for the questions of one update; what is open then is not judged.
        cache: folder of the verdicts; None: in the user's cache directory.
    """

    model: str
    url: str | None = None
    take: Literal["frames", "video"] = "frames"
    by: Literal["half", "strength"] = "half"
    concurrency: PositiveInt = 8
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    retries: Annotated[int, Field(ge=0)] = 4
    budget_s: Annotated[float, Field(gt=0)] | None = 300.0
    cache: str | None = None


class GrpoRecipe(TrainingRecipe):
    """Phase 2: GRPO with the emotion-wheel score as reward; names as in TRL's GRPOConfig.

    Attributes:
        model: a model or run folder, the result of cold start.
        mode: answer alone, or thinking first.
        loss_type: how tokens are averaged (grpo: in a completion, then over them; dapo: over all
            tokens; dr_grpo: over a constant length).
        beta: weight of the KL term to the model that the run begins with; 0: no reference work.
        scale_rewards: by the group's or the batch's standard deviation, or not.
        num_iterations: updates on the same completions; divides `run.save_steps`.
        epsilon, epsilon_high: how far the ratio to the first update's policy counts, downwards and
            upwards (None: as downwards).
        mask_truncated_completions: completions that never ended teach nothing.
    """

    stage: Literal["grpo"] = "grpo"
    model: str
    rollout: RolloutSettings = RolloutSettings()
    rewards: RewardSettings = RewardSettings()
    judge: JudgeSettings | None = None
    lexicon: LexiconSettings = LexiconSettings()
    mode: Literal["answer", "think"] = "answer"
    loss_type: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    beta: NonNegative = 0.0
    scale_rewards: Literal["group", "batch", "none"] = "group"
    num_iterations: PositiveInt = 1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    epsilon_high: Annotated[float, Field(gt=0)] | None = None
    mask_truncated_completions: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.rewards.perception > 0) != (self.judge is not None):
            raise ValueError("rewards.perception and judge need each other: set both or neither")
        if self.run.shard and self.rollout.max_resamples:
            raise ValueError("run.shard needs rollout.max_resamples=0: processes draw in step")
        if self.run.save_steps % self.num_iterations:
            raise ValueError(
                f"run.save_steps={self.run.save_steps} is no multiple of num_iterations="
                f"{self.num_iterations}: a checkpoint holds no completions to go on with"
            )
        return self


class RewardRecipe(Section):
    """A reward by itself: what `affectgpt-r1 reward` gives to completions of any model.

    Attributes:
        mode: which blocks a completion is to have.
    """

    stage: Literal["reward"] = "reward"
    rewards: RewardSettings = RewardSettings()
    lexicon: LexiconSettings = LexiconSettings()
    mode: Literal["answer", "think"] = "answer"

    @model_validator(mode="after")
    def _judges_nobody(self) -> Self:
        if self.rewards.perception:
            raise ValueError(
                "rewards.perception compares a clip's answers, of which nothing is known here: "
                "leave it to training (docs/rewards.md)"
            )
        return self


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also reads 1e-5 as a number: YAML 1.1 alone wants 1.0e-5."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


Recipe = TypeVar("Recipe", ColdStartRecipe, GrpoRecipe, RewardRecipe)


def load_recipe(source: str, kind: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides; every fault is reported in one error.

    Args:
        source: a YAML file, or the name of a recipe of the package.
        kind: `ColdStartRecipe`, `GrpoRecipe` or `RewardRecipe`.
        overrides: `key.sub=value`, the value as YAML.

    Raises:
        MissingFileError: there is no such file, nor a recipe of that name.
        RecipeError: not YAML, unknown or mistyped keys, values out of range.
    """
    try:
        settings = yaml.load(_read(source), _Loader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(source, [f"not YAML in UTF-8: {' '.join(str(error).split())}"]) from None
    if not isinstance(settings, dict):
        raise RecipeError(source, ["holds no keys: write `key: value` lines"])
    problems = [fault for item in overrides if (fault := _override(settings, item))]
    try:
        recipe = kind.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        problems += [problem_of(item, kind) for item in error.errors()]
    except (TypeError, ValueError) as error:
        problems.append(f"holds a value that is no number, text or list: {error}")
    if problems:
        raise RecipeError(source, problems)
    return recipe


def recipe_names() -> list[str]:
    """Names of the package's recipes."""
    return sorted(p.name.removesuffix(".yaml") for p in _FOLDER.iterdir())


def recipe_yaml(recipe: BaseModel) -> str:
    """A resolved recipe as YAML, in the order of its class; reads back as the same recipe."""
    return str(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))


def _read(source: str) -> str:
    for path in (Path(source), _FOLDER / f"{source}.yaml"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    near = get_close_matches(source, recipe_names(), 1)
    hint = f"{near[0]!r} is meant?" if near else f"the package has {', '.join(recipe_names())}"
    raise MissingFileError(f"no recipe {source!r}: {hint}")


def _override(settings: dict[str, Any], item: str) -> str | None:
    """Apply one `key.sub=value` in place; returns what is wrong with it."""
    path, equals, value = item.partition("=")
    if not equals or not path:
        return f"--set {item!r} is not key.sub=value"
    try:
        parsed = yaml.load(value, _Loader)
    except yaml.YAMLError:
        return f"--set {path}: {value!r} is not YAML"
    *parents, key = path.split(".")
    section: Any = settings
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            return f"--set {path}: {parent!r} has no keys below it"
    section[key] = parsed
    return None


def problem_of(error: Any, kind: type[BaseModel]) -> str:
    """One of pydantic's errors in a line: which key of `kind`, what is wrong, what may be meant."""
    place = [str(part) for part in error["loc"]]
    if not place:  # of the recipe as a whole
        return str(error["ctx"]["error"])
    name = ".".join(place)
    if error["type"] != "extra_forbidden":
        return f"{name}: {error['msg'][0].lower()}{error['msg'][1:]}"
    keys, prefix = [*_keys(kind)], name.removesuffix(place[-1])
    here = [key.removeprefix(prefix) for key in keys if key.rpartition(".")[0] == prefix[:-1]]
    # A key may be known elsewhere: `learning_rate` at the top is `optimizer.learning_rate`.
    meant = {key.rpartition(".")[2]: key for key in keys} | {key: key for key in here}
    if near := get_close_matches(place[-1], meant, 1, 0.7):
        return f"unknown key {name!r}, {meant[near[0]]!r} is meant?"
    return f"unknown key {name!r} (known here: {', '.join(here)})"


def _keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """A recipe's sections and keys, each with the sections above it: `data`, `data.train`, ..."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _keys(part, f"{prefix}{name}.")
