"""A tiny random model and made-up clips, for tests that take seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affectgpt_r1.clips import Clip
from affectgpt_r1.config import (
    ColdStartRecipe,
    DataSettings,
    GrpoRecipe,
    LoraSettings,
    OptimizerSettings,
    RolloutSettings,
    RunSettings,
)
from affectgpt_r1.dialogue import prompt_pieces
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.profiles import PROFILES, create_model
from affectgpt_r1.perception.features import EncoderSource, Features
from affectgpt_r1.training.trainer import Examples

WORDS = ("happy", "sad", "angry", "afraid")
VISUAL_WIDTH, AUDIO_WIDTH = 12, 8


class NumberEncoder:
    """An encoder of another width than any real one; never asked to encode in these tests."""

    def __init__(self, name: str, width: int) -> None:
        self.name, self.width = name, width
        self.settings: Mapping[str, str | int | float | bool] = {}

    def encode(self, steps: NDArray[np.generic]) -> NDArray[np.float32]:
        return np.zeros((len(steps), self.width), dtype=np.float32)


ENCODERS = EncoderSource.of(
    NumberEncoder("numbers", VISUAL_WIDTH), NumberEncoder("numbers", AUDIO_WIDTH), "face"
)


def tiny_model(
    lora_rank: int = 4, seed: int = 0
) -> tuple[AffectGPTForConditionalGeneration, AffectGPTProcessor]:
    """An untrained nano model over the made-up features."""
    lora = LoraSettings(rank=lora_rank, dropout=0.0)
    return create_model(PROFILES["nano"], ENCODERS, seed=seed, lora=lora)


def fill_adapter(model: AffectGPTForConditionalGeneration, scale: float) -> None:
    """Give the adapter weights that count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.trained_state().items():
            if "lora_B" in name:
                parameter.normal_(0, scale, generator=generator)


def features(seed: int, word: int = 0) -> Features:
    """Features in which the visual part tells the word and the audio part is noise."""
    rng = np.random.default_rng(seed)
    centre = np.zeros(VISUAL_WIDTH)
    centre[word * 3 : word * 3 + 3] = 2.0
    return Features(
        visual=(centre + 0.2 * rng.normal(size=(8, VISUAL_WIDTH))).astype(np.float32),
        audio=rng.normal(size=(8, AUDIO_WIDTH)).astype(np.float32),
        has_visual=True,
        has_audio=True,
        flags=frozenset(),
        key=f"{seed:064x}",
    )


def examples(count: int, subtitle: str = "I see.") -> Examples:
    """Clips whose label is told by the visual features alone."""
    clips = [
        Clip(
            id=f"clip-{i}",
            subtitle=subtitle,
            labels=(WORDS[i % 4],),
            description=f"The face is {WORDS[i % 4]}.",
        )
        for i in range(count)
    ]
    return [(clip, features(i, i % 4)) for i, clip in enumerate(clips)]


def prompt_batch(
    processor: AffectGPTProcessor,
    subtitles: tuple[str, ...] = ("Oh.", "Well, I did not expect it."),
) -> dict[str, Tensor]:
    """A batch of prompts of different lengths."""
    prompts = [processor.prompt(prompt_pieces(text)) for text in subtitles]
    return processor.batch(prompts, [features(i) for i in range(len(subtitles))])


def cold_start_recipe(folder: Path, **optimizer: object) -> ColdStartRecipe:
    """Settings under which a tiny model learns in seconds."""
    settings: dict[str, object] = {"learning_rate": 3e-3, "batch_size": 8, "epochs": 1.0}
    return ColdStartRecipe(
        profile="nano",
        data=DataSettings(train="not-read.jsonl"),
        run=RunSettings(output=str(folder), save_steps=4),
        lora=LoraSettings(rank=0),
        optimizer=OptimizerSettings.model_validate(settings | optimizer),
        think_share=0.0,
    )


def grpo_recipe(folder: Path, **optimizer: object) -> GrpoRecipe:
    """Settings under which a tiny model improves in seconds."""
    settings: dict[str, object] = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 1.0}
    return GrpoRecipe(
        profile="nano",
        model="not-read",
        data=DataSettings(train="not-read.jsonl"),
        run=RunSettings(output=str(folder), save_steps=2),
        optimizer=OptimizerSettings.model_validate(settings | optimizer),
        rollout=RolloutSettings(num_generations=4, max_completion_length=16),
    )


def same_weights(
    one: AffectGPTForConditionalGeneration, other: AffectGPTForConditionalGeneration
) -> bool:
    """Whether every tensor is equal to the bit."""
    others = other.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in one.state_dict().items())
