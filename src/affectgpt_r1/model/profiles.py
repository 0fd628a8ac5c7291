"""The three profiles: same code, other numbers (docs/architecture.md).

A profile names the frozen parts. It is never silently replaced by another: what is missing is an
error that names the file, the profile and the command that fetches it.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from affectgpt_r1.config import LoraSettings
from affectgpt_r1.dialogue import View
from affectgpt_r1.errors import InputError, ModelFolderError
from affectgpt_r1.model.configuration import AffectGPTConfig
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.weights import SMOLLM2, load_language_model, weights_digest
from affectgpt_r1.perception.features import Encoder, EncoderSource
from affectgpt_r1.perception.pretrained import ClipImageEncoder, PretrainedSpeechEncoder, loading
from affectgpt_r1.perception.signal import GradientFaceEncoder, SignalSpeechEncoder


@dataclass(frozen=True, slots=True)
class Profile:
    """The frozen parts of a model.

    Attributes:
        name: nano, small or full.
        language_model: a folder, a hub name or `smollm2-135m-instruct`; None: random weights.
        visual: "signal", or a folder or hub name of a CLIP, SigLIP or DINOv2 model.
        audio: "signal", or a folder or hub name of a HuBERT, WavLM, wav2vec 2.0 or Whisper model.
        view: face crops or whole frames.
        face_model: file of a YuNet face detector; None: the bundled detector.
        channels: rgb, or bgr: how a pretrained visual encoder is shown colours.
    """

    name: str
    language_model: str | None
    visual: str
    audio: str
    view: View = "face"
    face_model: Path | None = None
    channels: str = "rgb"

    def but(self, **chosen: Any) -> "Profile":
        """This profile with other encoders, view or detector, where they are not None."""
        return replace(self, **{key: own for key, own in chosen.items() if own is not None})


PROFILES = {
    "nano": Profile("nano", None, "signal", "signal"),
    "small": Profile("small", SMOLLM2, "signal", "signal"),
    "full": Profile(
        "full",
        "Qwen/Qwen2.5-7B-Instruct",
        "openai/clip-vit-large-patch14",
        "TencentGameMate/chinese-hubert-large",
    ),
}

#: The nano profile's language model, without weights, and its tokenizer, which
#: `tools/nano_tokenizer.py` makes.
NANO_FOLDER = Path(__file__).parent / "nano"


def encoder_source(profile: Profile, device: str = "cpu") -> EncoderSource:
    """Load a profile's encoders, pretrained ones onto a device.

    Raises:
        MissingFileError: their weights are not on this machine, or the face detector's file is not.
        ModelFolderError: they are damaged, or of another kind.
        InputError: there is no such device.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used ({error}): name another") from None
    visual: Encoder = GradientFaceEncoder()
    audio: Encoder = SignalSpeechEncoder()
    if profile.visual != "signal":
        visual = ClipImageEncoder.load(profile.visual, device=device, channels=profile.channels)
    if profile.audio != "signal":
        audio = PretrainedSpeechEncoder.load(profile.audio, device=device)
    return EncoderSource.of(visual, audio, profile.view, profile.face_model)


def encoders_of(config: AffectGPTConfig) -> EncoderSource:
    """The encoders whose features a model was trained on; others are refused when they are loaded.

    Raises:
        ModelFolderError: by `load`: names or settings of what is here differ.
    """
    face_model = Path(config.face_model) if config.face_model else None
    sources = {"visual": config.visual_source, "audio": config.audio_source}
    sources["channels"] = config.face_channel_order
    profile = PROFILES[config.profile].but(**sources, view=config.view, face_model=face_model)

    @cache
    def here() -> EncoderSource:
        source = encoder_source(profile)
        for what, trained, found in (
            ("visual encoder", config.visual_encoder, source.visual),
            ("audio encoder", config.audio_encoder, source.audio),
            ("face detector", config.face_digest, source.face_digest),
        ):
            if trained not in ("", found):
                raise ModelFolderError(
                    f"the model was trained on features of the {what} {trained}, here it is "
                    f"{found or 'another'}: use what trained it, or train again"
                )
        return source

    if not (config.visual_encoder and config.audio_encoder):
        return here()
    trained_on = config.visual_encoder, config.audio_encoder, config.view
    return EncoderSource(*trained_on, lambda: here().load(), face_model, config.face_digest)


def lasting(name: str | Path) -> str:
    """A folder's or file's name from wherever it is loaded; hub names stay as they are."""
    is_path = name not in ("signal", SMOLLM2) and Path(name).exists()
    return str(Path(name).absolute() if is_path else name)


def create_model(
    profile: Profile, source: EncoderSource, *, seed: int, lora: LoraSettings
) -> tuple[AffectGPTForConditionalGeneration, AffectGPTProcessor]:
    """Make an untrained model of a profile, repeatably.

    Args:
        profile: its frozen parts.
        source: the encoders whose features it will read.
        seed: of everything random.
        lora: the adapter; rank 0: the language model is trained.
    """
    visual, audio = source.load()
    if profile.language_model is None:
        folder, digest = str(NANO_FOLDER), ""
        language_model = nano_language_model(seed)
    else:
        language_model = load_language_model(profile.language_model, profile=profile.name)
        folder, digest = str(language_model.name_or_path), weights_digest(language_model)
    config = AffectGPTConfig(
        # A copy: the outer model's set-up would undo the language model's choice of attention.
        text_config=deepcopy(language_model.config),
        language_model=profile.language_model and lasting(profile.language_model),
        language_model_digest=digest,
        profile=profile.name,
        view=source.view,
        visual_source=lasting(profile.visual),
        audio_source=lasting(profile.audio),
        face_model=lasting(source.face_model) if source.face_model else None,
        visual_encoder=source.visual,
        audio_encoder=source.audio,
        face_digest=source.face_digest,
        visual_width=visual.width,
        audio_width=audio.width,
        **{f"lora_{name}": value for name, value in lora},
    )
    model = AffectGPTForConditionalGeneration.create(config, language_model, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model, AffectGPTProcessor(tokenizer)


def load_processor(folder: Path) -> AffectGPTProcessor:
    """Load the processor of a model folder.

    Raises:
        ModelFolderError: its tokenizer files are missing or damaged.
    """
    with loading(folder, what="tokenizer"):
        return AffectGPTProcessor.from_pretrained(folder, local_files_only=True)


def nano_language_model(seed: int) -> PreTrainedModel:
    """A two-layer Llama with random weights, for tests: repeatable, milliseconds a step."""
    config = LlamaConfig.from_json_file(NANO_FOLDER / "config.json")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).eval()
