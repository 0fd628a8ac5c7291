"""The configuration of an AffectGPT model: the language model's shape, the features' widths, LoRA.

It names the encoders and the frozen language model; it holds no weights and loads none.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from affectgpt_r1.dialogue import View


@strict
class AffectGPTConfig(PreTrainedConfig):
    """Configuration of `AffectGPTForConditionalGeneration`.

    Attributes:
        text_config: the language model's configuration; its hidden size is H.
        language_model: name of the frozen weights (`weights.load_language_model`); None: the
            language model's weights lie in the model folder itself.
        language_model_digest: digest of the frozen weights the model was trained on; "" unknown.
        profile: nano, small, full, or a name of the user's own.
        view: whether the visual encoder saw face crops or whole frames.
        face_channel_order: of the colours as a pretrained visual encoder saw them: the authors fed
            their stored crops, which are bgr, as they were (MODEL.md, "The published checkpoint").
        visual_encoder, audio_encoder: names and settings of the encoders whose features the fusion
            was trained on, as `perception.encoder_identity` writes them; "" unknown.
        visual_source, audio_source, face_model: where the encoders and the face detector were
            loaded from, as in `profiles.Profile`; None: as the profile says.
        face_digest: of the face detector's file; "" the bundled one.
        visual_width, audio_width: D_v and D_a.
        lora_rank, lora_alpha, lora_dropout: of the adapter on all seven linears of every layer;
            rank 0: no adapter, the language model itself is trained.
    """

    model_type = "affectgpt"
    sub_configs_defaults = {  # noqa: RUF012 - transformers' own convention
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    language_model: str | None = None
    language_model_digest: str = ""
    profile: str = "nano"
    view: View = "face"
    face_channel_order: Literal["rgb", "bgr"] = "rgb"
    visual_encoder: str = ""
    audio_encoder: str = ""
    visual_source: str | None = None
    audio_source: str | None = None
    face_model: str | None = None
    face_digest: str = ""
    visual_width: int = 768
    audio_width: int = 1024
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    tie_word_embeddings: bool = False
