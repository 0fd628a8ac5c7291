"""The three profiles: same code, other numbers (docs/architecture.md).

A profile names the frozen parts. It is never silently replaced by another: what is missing is an
error that names the file, the profile and the command that fetches it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from affectgpt_r1.dialogue import QUESTIONS, STOP, Text, View, prompt_pieces
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ModelFolderError
from affectgpt_r1.model.configuration import AffectGPTConfig
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.weights import SMOLLM2, load_language_model, weights_digest
from affectgpt_r1.perception.clip import ClipImageEncoder
from affectgpt_r1.perception.features import (
    AudioEncoder,
    Encoders,
    EncoderSource,
    VisualEncoder,
)
from affectgpt_r1.perception.signal import GradientFaceEncoder, SignalSpeechEncoder
from affectgpt_r1.perception.speech import PretrainedSpeechEncoder


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
    """

    name: str
    language_model: str | None
    visual: str
    audio: str
    view: View = "face"
    face_model: Path | None = None

    def but(
        self,
        visual: str | None = None,
        audio: str | None = None,
        view: View | None = None,
        face_model: Path | str | None = None,
    ) -> Profile:
        """This profile with other encoders, view or detector, where they are not None."""
        return replace(
            self,
            visual=visual or self.visual,
            audio=audio or self.audio,
            view=view or self.view,
            face_model=Path(face_model) if face_model else self.face_model,
        )


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

_NANO_VOCABULARY = 1024


def load_encoders(profile: Profile, device: str = "cpu") -> Encoders:
    """Load a profile's encoders, pretrained ones onto a device.

    Raises:
        MissingFileError: their weights are not on this machine.
    """
    visual: VisualEncoder = GradientFaceEncoder()
    audio: AudioEncoder = SignalSpeechEncoder()
    if profile.visual != "signal":
        visual = ClipImageEncoder.load(profile.visual, device=device)
    if profile.audio != "signal":
        audio = PretrainedSpeechEncoder.load(profile.audio, device=device)
    return Encoders(visual, audio, profile.view, profile.face_model)


def encoder_source(profile: Profile, device: str = "cpu") -> EncoderSource:
    """A profile's encoders, loaded.

    Raises:
        MissingFileError: as `load_encoders`, or the face detector's file does not exist.
    """
    return EncoderSource.of(load_encoders(profile, device))


def encoders_of(config: AffectGPTConfig) -> EncoderSource:
    """The encoders whose features a model was trained on; others are refused when they are loaded.

    Raises:
        ModelFolderError: by `load`: names or settings of what is here differ.
    """

    @cache
    def load() -> Encoders:
        encoders = load_encoders(profile)
        here = EncoderSource.of(encoders)
        for role, what in (
            ("visual", "visual encoder"),
            ("audio", "audio encoder"),
            ("face_digest", "face detector"),
        ):
            trained, found = getattr(wanted, role), getattr(here, role)
            if trained not in ("", found):
                raise ModelFolderError(
                    f"the model was trained on features of the {what} {trained}, here it is "
                    f"{found or 'another'}: use what trained it, or train again"
                )
        return encoders

    profile = PROFILES[config.profile].but(
        visual=config.visual_source,
        audio=config.audio_source,
        view=config.view,
        face_model=config.face_model,
    )
    wanted = EncoderSource(
        config.visual_encoder,
        config.audio_encoder,
        config.view,
        load,
        profile.face_model,
        config.face_digest,
    )
    return wanted if wanted.visual and wanted.audio else EncoderSource.of(load())


def create_model(
    profile: Profile,
    encoders: Encoders,
    *,
    seed: int,
    lora_rank: int = 16,
    lora_alpha: int = 32,
    lora_dropout: float = 0.05,
) -> tuple[AffectGPTForConditionalGeneration, AffectGPTProcessor]:
    """Make an untrained model of a profile, repeatably.

    Args:
        profile: its frozen parts.
        encoders: give the features' widths.
        seed: of everything random.
        lora_rank, lora_alpha, lora_dropout: the adapter; rank 0: the language model is trained.
    """
    tokenizer: PreTrainedTokenizerBase
    if profile.language_model is None:
        tokenizer, digest = nano_tokenizer(), ""
        language_model = nano_language_model(len(tokenizer), seed)
    else:
        language_model = load_language_model(profile.language_model, profile=profile.name)
        source, digest = language_model.name_or_path, weights_digest(language_model)
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    identities = EncoderSource.of(encoders)
    config = AffectGPTConfig(
        # A copy: the outer model's set-up would undo the language model's choice of attention.
        text_config=deepcopy(language_model.config),
        language_model=profile.language_model,
        language_model_digest=digest,
        profile=profile.name,
        view=encoders.view,
        visual_source=profile.visual,
        audio_source=profile.audio,
        face_model=str(profile.face_model) if profile.face_model else None,
        visual_encoder=identities.visual,
        audio_encoder=identities.audio,
        face_digest=identities.face_digest,
        visual_width=encoders.visual.width,
        audio_width=encoders.audio.width,
        lora_rank=lora_rank,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
    )
    model = AffectGPTForConditionalGeneration.create(config, language_model, seed=seed)
    return model, AffectGPTProcessor(tokenizer)


def load_processor(folder: Path) -> AffectGPTProcessor:
    """Load the processor of a model folder.

    Raises:
        ModelFolderError: its tokenizer files are missing or damaged.
    """
    try:
        return AffectGPTProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(
            f"{folder}: the tokenizer cannot be read ({str(error).splitlines()[0]}): "
            "copy the whole model folder again"
        ) from None


def nano_language_model(vocabulary: int, seed: int) -> PreTrainedModel:
    """A two-layer Llama with random weights, for tests: repeatable, milliseconds a step."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return model.eval()


def nano_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of some 1,000 pieces, trained on the spot on prompt and wheel words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_NANO_VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The wheels' words are facts; the thesaurus grows, and would make every nano model another one.
    wheels = Lexicon.load("builtin").tables.wheels
    words = ", ".join(sorted({word for first, _ in wheels for word in first}))
    prompts = [
        piece.text
        for mode in QUESTIONS
        for piece in prompt_pieces("", mode=mode)
        if isinstance(piece, Text)
    ]
    blocks = f"<think></think><answer></answer>{STOP}"
    tokenizer.train_from_iterator([*prompts * 8, *[blocks] * 8, words], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
