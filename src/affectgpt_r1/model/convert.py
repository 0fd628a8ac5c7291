"""The authors' published checkpoint (a torch pickle) to a model folder of this project.

Nothing but tensors is read from the pickle, and of those only what MODEL.md lists ("The published
checkpoint"): another name or shape is an error, not a guess. The language model's weights are not
needed here, only its configuration and tokenizer.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from affectgpt_r1.dialogue import View
from affectgpt_r1.errors import CheckpointError, MissingFileError
from affectgpt_r1.files import writing
from affectgpt_r1.model.configuration import AffectGPTConfig
from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.model.profiles import PROFILES, lasting
from affectgpt_r1.perception.pretrained import LOCAL_ONLY, loading

#: The authors' names of the fusion's linears, and ours.
_LINEARS = {
    "affectgpt_proj": "visual_projector",
    "audio_llama_proj": "audio_projector",
    "multi_llama_proj": "multi_projector",
    "video_attention_mlp": "visual_score",
    "audio_attention_mlp": "audio_score",
    "multi_video_embs": "merge_visual",
    "multi_audio_embs": "merge_audio",
    "attention_mlp": "merge_hidden",
    "fc_att": "merge_weights",
}
_UNUSED = "image_llama_proj"  # of still images
_THEIRS, _OURS = "llama_model.base_model.model.", "language_model."


def convert(
    checkpoint: Path, out: Path, *, language_model: str | None = None, view: View = "face"
) -> Path:
    """Write a model folder that predicts as the published checkpoint does; whole or not at all.

    Args:
        checkpoint: the authors' file.
        out: the model folder; must not exist.
        language_model: folder or hub name of the frozen weights; None: the full profile's.
        view: what its visual branch was trained on; the authors publish one of each.

    Returns:
        `out`.

    Raises:
        MissingFileError: no such checkpoint, or the language model's configuration is not here.
        ModelFolderError: the file is damaged, or holds more than tensors: it would run code.
        CheckpointError: `out` exists, or the tensors are not those of the language model's.
    """
    check_new(out)
    state = {_our_name(name): tensor.float() for name, tensor in _tensors(checkpoint).items()}
    full = PROFILES["full"]
    name = lasting(language_model or str(full.language_model))
    with loading(name):
        text_config = AutoConfig.from_pretrained(name, **LOCAL_ONLY)
        tokenizer = AutoTokenizer.from_pretrained(name, **LOCAL_ONLY)
    try:
        config = AffectGPTConfig(
            text_config=text_config,
            language_model=name,
            profile=full.name,
            view=view,
            face_channel_order="bgr" if view == "face" else "rgb",
            visual_width=state["fusion.visual_score.weight"].shape[1],
            audio_width=state["fusion.audio_score.weight"].shape[1],
            lora_rank=next(t.shape[0] for n, t in state.items() if ".lora_A." in n),
        )
        with torch.device("meta"):  # the frozen weights need no memory
            model = AffectGPTForConditionalGeneration(config)
        keys = model.load_state_dict(state, strict=False, assign=True)
        trained = [key for key in keys.missing_keys if key.startswith("fusion.") or ".lora_" in key]
        if wrong := [*trained, *keys.unexpected_keys]:
            raise ValueError(f"{len(wrong)} tensors lack or are unknown, {wrong[0]!r} the first")
    except (LookupError, StopIteration, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint} does not fit {name!r} ({line})") from None
    return write_model(model, AffectGPTProcessor(tokenizer, bos_at_inference=False), out)


def check_new(out: Path) -> None:
    """Refuse a folder that is there, before the work whose result it is to hold.

    Raises:
        CheckpointError: it is there.
    """
    if out.exists():
        raise CheckpointError(f"{out} is there already: name another folder, or remove it")


def write_model(model: PreTrainedModel, processor: AffectGPTProcessor, out: Path) -> Path:
    """Write a new model folder, whole or not at all, and return it."""
    with writing(out, raised=(OSError, SafetensorError)):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f"{out.name}.", dir=out.parent) as made:
            unfinished = Path(made) / out.name
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
            unfinished.rename(out)
    return out


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors under the file's key `model`; no code in it is run."""
    if not checkpoint.is_file():
        raise MissingFileError(f"no checkpoint at {checkpoint}: check the path")
    with loading(checkpoint, what="checkpoint of tensors alone"):
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        raise CheckpointError(f"{checkpoint}: its `model` holds other things than named tensors")
    return {name: tensor for name, tensor in state.items() if not name.startswith(_UNUSED)}


def _our_name(name: str) -> str:
    linear, _, part = name.rpartition(".")
    if linear in _LINEARS:
        return f"fusion.{_LINEARS[linear]}.{part}"
    return name.replace(_THEIRS, _OURS)
