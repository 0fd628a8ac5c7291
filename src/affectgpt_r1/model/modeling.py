"""AffectGPT for conditional generation: modality tokens and text in, a completion out.

The encoders stay outside: this module takes features (MODEL.md). A model folder holds what was
trained (fusion and adapter) and names the frozen language model; only a language model that has no
name elsewhere (nano) or was trained itself (rank 0) lies in the folder too. Nothing is pickled.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel

from affectgpt_r1.errors import ModelFolderError
from affectgpt_r1.model.configuration import AffectGPTConfig
from affectgpt_r1.model.fusion import Fusion
from affectgpt_r1.model.sharding import is_sharded, spread_like, whole
from affectgpt_r1.model.shared_prefix import share_prefixes
from affectgpt_r1.model.weights import load_language_model, weights_digest
from affectgpt_r1.perception.pretrained import loading

#: The seven linears of every layer that carry LoRA (MODEL.md, "LLM and prompt").
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: Where a model folder holds each part's tensors; beside them lies the part's configuration.
_FUSION = "fusion.safetensors"
_ADAPTER = "adapter/adapter_model.safetensors"
_LANGUAGE_MODEL = "language_model/model.safetensors"


class AffectGPTForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """A language model with LoRA that reads three modality tokens a clip.

    Args:
        config: shapes and names.
        language_model: the frozen language model; None builds one with random weights.
    """

    config: AffectGPTConfig
    base_model_prefix = "language_model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(
        self, config: AffectGPTConfig, language_model: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        text = config.text_config
        assert isinstance(text, PreTrainedConfig)
        if language_model is None:
            language_model = AutoModelForCausalLM.from_config(deepcopy(text))
        self.language_model: Any = language_model
        share_prefixes(self.language_model)
        self.language_model.requires_grad_(config.lora_rank == 0)
        self.fusion = Fusion(config.visual_width, config.audio_width, text.hidden_size)
        if config.lora_rank > 0:
            alike = {name: getattr(config, name) for name in ("lora_alpha", "lora_dropout")}
            lora = LoraConfig(r=config.lora_rank, target_modules=list(LORA_TARGETS), **alike)
            self.language_model.add_adapter(lora)

    @classmethod
    def create(cls, config: AffectGPTConfig, language_model: PreTrainedModel, *, seed: int) -> Self:
        """Build an untrained model around a frozen language model, repeatably.

        Args:
            config: shapes and names.
            language_model: the frozen language model.
            seed: of the fusion's and the adapter's start.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # PEFT draws from the global generator
            model = cls(config, language_model)
        embeddings: Any = language_model.get_input_embeddings().weight
        norms = embeddings.detach().float().norm(dim=-1)
        model.fusion.initialise(float(norms.mean()), torch.Generator().manual_seed(seed))
        return model

    def get_output_embeddings(self) -> Any:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    def embed(self, input_ids: Tensor, modality: Tensor, visual: Tensor, audio: Tensor) -> Tensor:
        """Embed the prompt's ids and put the modality tokens at their positions.

        Args:
            input_ids: (B, P); the id at a modality's position is not read.
            modality: (B, P), 0 text, 1 multi, 2 audio, 3 visual.
            visual: (B, t, D_v).
            audio: (B, t', D_a).

        Returns:
            (B, P, H). A clip without one modality still runs its projector, with weight 0, so
            that several processes stay in step.
        """
        embeddings: Tensor = self.get_input_embeddings()(input_ids)  # (B, P, H)
        dtype = self.fusion.visual_projector.weight.dtype
        tokens = self.fusion(visual.to(dtype), audio.to(dtype)).to(embeddings.dtype)  # (B, 3, H)
        index = (modality.long() - 1).clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1])
        placed = tokens.gather(1, index)  # (B, P, H)
        return torch.where(modality[..., None] > 0, placed, embeddings) + 0.0 * tokens.sum()

    def forward(
        self,
        input_ids: Any = None,
        attention_mask: Tensor | None = None,
        modality: Tensor | None = None,
        visual: Any = None,
        audio: Any = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        logits_to_keep: int | Tensor = 0,
        run: Callable[[Self], Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the language model over text and modality tokens.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), or a 4-dimensional mask that is passed on as it is.
            modality, visual, audio: as in `embed`; not read once the prompt is in the cache.
            inputs_embeds: (B, L, H) instead of `input_ids`.
            position_ids, past_key_values: as in transformers.
            logits_to_keep: the last so many positions get logits; 0 means all.
            run: called with this model, and its result returned, instead of all the above: so
                what scores and samples is a forward pass to whatever wraps the model.
            **kwargs: the language model's, `labels` among them. Training does not come this way:
                there only completions meet the head (`shared_prefix`).

        Returns:
            What the language model does: loss (mean over labelled tokens), logits, cache.
        """
        if run is not None:
            return run(self)
        cached = past_key_values is not None and past_key_values.get_seq_length() > 0
        if modality is not None and inputs_embeds is None and not cached:
            input_ids, inputs_embeds = None, self.embed(input_ids, modality, visual, audio)
        return self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )

    @contextmanager
    def adapter_merged(self) -> Iterator[None]:
        """Inside the block the adapter is added to copies of the frozen weights: quicker decoding.

        The frozen weights come back to the bit. In half precision, also by autocast, nothing is
        merged: rounding would swallow most of an adapter, and another policy would be sampled. On
        an accelerator neither: the copies would take memory, and no gain was measured there. Nor
        where the weights are spread over processes.
        """
        exact = self.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        here = self.device.type == "cpu" and not is_sharded(self)
        if self.config.lora_rank == 0 or not exact or not here:
            yield
            return
        modules = self.language_model.modules()
        layers: list[Any] = [module for module in modules if isinstance(module, BaseTunerLayer)]
        frozen = [layer.base_layer.weight.data for layer in layers]
        self.language_model.disable_adapters()
        try:
            for layer, weight in zip(layers, frozen, strict=True):
                layer.base_layer.weight.data = weight + layer.get_delta_weight("default")
            yield
        finally:
            for layer, weight in zip(layers, frozen, strict=True):
                layer.base_layer.weight.data = weight
            self.language_model.enable_adapters()

    def round_frozen(self) -> None:
        """Hold in bfloat16 what autocast to it would round in each pass: equal to the bit.

        For a model that runs under such autocast alone. One that is saved whole stays as it is.
        """
        shared = self.get_input_embeddings().weight  # also read as it is, where it is the head too
        modules = [] if _carries_language_model(self.config) else self.language_model.modules()
        for linear in (module for module in modules if isinstance(module, nn.Linear)):
            for weight in linear.parameters(recurse=False):
                if not weight.requires_grad and weight is not shared:
                    weight.data = weight.data.bfloat16()

    def merge_adapter(self) -> None:
        """Add the adapter to the frozen weights for good: the model then has rank 0.

        Saved, it carries its language model in a folder that transformers loads by itself too.
        In half precision rounding would swallow most of an adapter: load in float32.

        Raises:
            ModelFolderError: there is no adapter.
        """
        if self.config.lora_rank == 0:
            raise ModelFolderError("the model has no adapter to merge: its folder is a plain one")
        for name, layer in [*self.language_model.named_modules()]:
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                self.language_model.set_submodule(name, layer.get_base_layer())
        self.language_model.requires_grad_(True)
        self.config.lora_rank = 0

    def trained_state(self) -> dict[str, Tensor]:
        """Every trained tensor by name: the fusion's and the adapter's."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """Write config, fusion and adapter (and an unnamed language model) as safetensors.

        The folder is made where needed; other arguments of transformers are not supported.

        Args:
            save_directory: the folder.
            is_main_process: whether this process writes; of a sharded model all must call.
            **kwargs: not read.
        """
        folder = Path(save_directory)
        parts = {
            file: {name: whole(tensor).cpu().contiguous() for name, tensor in state.items()}
            for file, state in self._parts().items()
        }
        if not is_main_process:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        if self.config.lora_rank > 0:
            self.language_model.peft_config["default"].save_pretrained((folder / _ADAPTER).parent)
        if _carries_language_model(self.config):
            self.language_model.config.save_pretrained((folder / _LANGUAGE_MODEL).parent)
        for file, state in parts.items():
            save_file(state, folder / file, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: Any,
        *,
        dtype: torch.dtype = torch.float32,
        **kwargs: Any,
    ) -> Self:
        """Load a model folder written by `save_pretrained`; logits are equal to the bit.

        Args:
            pretrained_model_name_or_path: the folder.
            dtype: of all weights.
            **kwargs: accepted for transformers' sake; none is read.

        Raises:
            ModelFolderError: not a model folder of this project, incomplete, or damaged.
            MissingFileError: the frozen language model is not where it says, on this machine.
        """
        folder = Path(pretrained_model_name_or_path)
        config = read_config(folder)
        carried = _carries_language_model(config)
        name = str((folder / _LANGUAGE_MODEL).parent) if carried else str(config.language_model)
        language_model = load_language_model(name, profile=config.profile, dtype=dtype)
        digest = weights_digest(language_model)
        if not carried and config.language_model_digest not in ("", digest):
            raise ModelFolderError(
                f"{folder}: trained on other weights of {name!r} (digest "
                f"{config.language_model_digest}, here {digest}): restore those weights"
            )
        model = cls(config, language_model)
        model.load_trained(folder)
        nn.Module.to(model, dtype)
        return model.eval()

    def load_trained(self, folder: Path) -> None:
        """Load the trained weights of a model folder into this model.

        Raises:
            ModelFolderError: a file is missing, damaged, or of other shapes.
        """
        with loading(folder, what="fusion and adapter"):
            for file, own in self._parts().items():
                read = load_file(folder / file)
                if {n: t.shape for n, t in read.items()} != {n: t.shape for n, t in own.items()}:
                    raise ValueError(f"{file} holds tensors of other names or shapes")
                for name, tensor in read.items():
                    own[name].copy_(spread_like(tensor, own[name]))

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        """The tensors that a model folder holds, by file and name; the model's own memory."""
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        parts[_FUSION] = self.fusion.state_dict()
        carried = _carries_language_model(self.config)
        tied = self.language_model.config.tie_word_embeddings
        for name, tensor in self.language_model.state_dict().items():
            if ".lora_" in name:  # as PEFT names it
                parts[_ADAPTER][f"base_model.model.{name.replace('.default', '')}"] = tensor
            elif carried and not (tied and name == "lm_head.weight"):
                parts[_LANGUAGE_MODEL][name.replace(".base_layer", "")] = tensor
        return parts


def read_config(folder: Path) -> AffectGPTConfig:
    """Read a model folder's configuration without loading weights.

    Raises:
        ModelFolderError: there is no such folder, or it is not one of this project's.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelFolderError(
            f"no model at {folder}: train one (`affectgpt-r1 train cold-start small-cold-start`) "
            "or name the folder of a trained model"
        )
    with loading(path, what="configuration"):
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind, ours = settings.get("model_type"), AffectGPTConfig.model_type
        if kind == ours:
            return AffectGPTConfig.from_dict(settings)
    raise ModelFolderError(f"{path}: a {kind!r} model: name the folder of an {ours!r} one")


def _carries_language_model(config: AffectGPTConfig) -> bool:
    """Whether a model folder holds the language model: it has no name, or was itself trained."""
    return config.language_model is None or config.lora_rank == 0
