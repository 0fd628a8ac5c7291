"""Frozen encoders of transformers, by name or folder, none ever replaced by another.

Faces and frames: projected image features of CLIP, not normalised; SigLIP models are used in the
same way, DINOv2's through their pooled output. Pictures are squashed to the model's square, never
cropped (MODEL.md, "Encoders").

Voices: HuBERT's last four layers, averaged over time; WavLM and wav2vec 2.0 models are used in the
same way. So is Whisper's encoder, but that it hears log mel spectra padded to its 30 s, of which
only what lies in the window is averaged.

The revision in an encoder's settings is a digest of the loaded weights: it is the same for a hub
name and a copied folder, and changes with the weights whatever they are called.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel
from transformers.image_utils import PILImageResampling
from transformers.models.whisper import WhisperFeatureExtractor

from affectgpt_r1.errors import InputError, MissingFileError, ModelFolderError
from affectgpt_r1.media.audio import RATE_HZ, WINDOW_S

#: Neither the network is asked nor code run that lies beside the weights.
LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

_LAYERS = 4
# Of Whisper's 1,500, those that lie in a window: each is of 320 samples.
_WHISPER_POSITIONS = WINDOW_S * RATE_HZ // 320


class PretrainedEncoder:
    """A frozen transformers model that encodes; make it with `load`.

    Args:
        model: of one of the `kinds`, on the CPU.
        processor: prepares the input; None: it is taken raw.
        device: where the model runs.
        **more: settings on which the output depends too.

    Each encoder says how a clip's steps are prepared, and what features are of what was prepared.
    """

    #: The model types that the encoder can use, and what loads the processor of each.
    kinds: ClassVar[Mapping[str, Callable[..., Any] | None]]

    def __init__(
        self, model: PreTrainedModel, processor: Any = None, device: str = "cpu", **more: str | int
    ) -> None:
        self._model, self._processor = model, processor
        self.name, revision = str(model.config.model_type), weights_revision(model)
        more |= {"version": 1, "revision": revision, "dtype": str(model.dtype)}
        self.settings: Mapping[str, str | int | float | bool] = more
        torch.nn.Module.to(model, torch.device(device))

    def encode(self, steps: NDArray[Any]) -> NDArray[np.float32]:
        """Encode a clip's steps (t, ...), RGB pictures or 16 kHz windows, to (t, width)."""
        return self.encode_batch([steps])[0]

    @torch.inference_mode()
    def encode_batch(self, clips: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Encode several clips in one pass; what belongs together in a clip stays apart."""
        ready = torch.cat([self._prepared(steps) for steps in clips])
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as exact as on a CPU
            features = self._features(ready.to(self._model.device, self._model.dtype)).float()
        return [part.numpy() for part in features.cpu().split([*map(len, clips)])]

    def _prepared(self, steps: NDArray[Any]) -> torch.Tensor:
        raise NotImplementedError

    def _features(self, ready: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        **how: Any,
    ) -> Self:
        """Load an encoder by hub name or folder, in eval mode, without asking the network.

        Args:
            name_or_path: a hub name that is in the local hub cache, or a folder.
            dtype: of the weights; part of the settings.
            device: where the model runs.
            **how: what an encoder of this kind takes besides.

        Raises:
            MissingFileError: it is not on this machine; the message names the command.
            ModelFolderError: it is damaged, incomplete, too small or of another kind.
        """
        with loading(name_or_path):
            config = AutoConfig.from_pretrained(name_or_path, **LOCAL_ONLY)
            if config.model_type not in cls.kinds:
                raise ModelFolderError(
                    f"{name_or_path} is a {config.model_type!r} model: name a {'/'.join(cls.kinds)}"
                )
            load_processor = cls.kinds[config.model_type]
            processor = load_processor(name_or_path, **LOCAL_ONLY) if load_processor else None
            model = load_weights(AutoModel, name_or_path, config=config, dtype=dtype)
        return cls(model.requires_grad_(False), processor, device, **how)


class ClipImageEncoder(PretrainedEncoder):
    """A frozen image encoder: CLIP, SigLIP or DINOv2, with the processor of its pictures.

    Args:
        model, processor, device: as in `PretrainedEncoder`.
        channels: bgr: colours are shown to the model the other way round.
    """

    # With torchvision installed the default would resize to other pixels than without.
    kinds = dict.fromkeys(
        ("clip", "siglip", "dinov2"), partial(AutoImageProcessor.from_pretrained, backend="pil")
    )

    def __init__(
        self, model: PreTrainedModel, processor: Any, device: str = "cpu", channels: str = "rgb"
    ) -> None:
        if hasattr(model, "text_model"):
            del model.text_model
        square = processor.crop_size if processor.do_center_crop else processor.size
        self._side = square.height or square.shortest_edge
        mean, std = str(list(processor.image_mean)), str(list(processor.image_std))
        self._step = 1 if channels == "rgb" else -1
        other = {} if channels == "rgb" else {"channels": channels}
        super().__init__(model, processor, device, side=self._side, mean=mean, std=std, **other)
        black = np.zeros((1, self._side, self._side, 3), dtype=np.uint8)
        self.width = int(self.encode(black).shape[1])

    def _prepared(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """RGB pictures (t, H, W, 3) of any size as the model takes them, (t, 3, side, side)."""
        pixels = self._processor(
            list(images[..., :: self._step]),
            do_resize=True,
            size={"height": self._side, "width": self._side},
            resample=PILImageResampling.BILINEAR,
            do_center_crop=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"]
        return torch.as_tensor(pixels)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        # Of a model of pictures and texts, the half that sees, with its projection.
        see = getattr(self._model, "get_image_features", self._model)
        return torch.as_tensor(see(pixel_values=pixels).pooler_output)


class PretrainedSpeechEncoder(PretrainedEncoder):
    """A frozen speech encoder: HuBERT, WavLM, wav2vec 2.0 or Whisper of at least four layers.

    Raises:
        ModelFolderError: the model has fewer layers.
    """

    kinds = dict.fromkeys(("hubert", "wavlm", "wav2vec2"))
    kinds["whisper"] = WhisperFeatureExtractor.from_pretrained

    def __init__(self, model: PreTrainedModel, processor: Any = None, device: str = "cpu") -> None:
        if model.config.num_hidden_layers < _LAYERS:
            raise ModelFolderError(
                f"{model.config.num_hidden_layers} layers, and {_LAYERS} are needed: name another"
            )
        self.width = int(model.config.hidden_size)
        # Of Whisper, the half that listens.
        listening: Any = model.encoder if processor else model
        super().__init__(listening, processor, device)

    def _prepared(self, windows: NDArray[np.float32]) -> torch.Tensor:
        """Raw 16 kHz windows (t, n) as the model takes them."""
        if self._processor is None:
            return torch.from_numpy(normalised(windows))
        mel = self._processor(list(windows), sampling_rate=RATE_HZ, return_tensors="pt")
        return torch.as_tensor(mel["input_features"])  # (t, mels, 3000)

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        output = self._model(values, output_hidden_states=True)
        # The last state of a stable-layer-norm model is raw; the authors' library normalised it.
        states = [*output.hidden_states[-_LAYERS:-1], output.last_hidden_state]
        mean = torch.stack(states).mean(dim=0)  # (t, positions, width)
        return mean[:, : _WHISPER_POSITIONS if self._processor else None].mean(dim=1)


def normalised(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre each window, then bring all together to zero mean and unit variance: (t, n)."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    return np.asarray((centred - centred.mean()) / np.sqrt(centred.var() + 1e-7), dtype=np.float32)


@contextmanager
def loading(source: str | Path, *, what: str = "model", profile: str = "full") -> Iterator[None]:
    """Tell what transformers, torch and safetensors raise inside the block as this package's error.

    Args:
        source: what is loaded from: a folder, a file or a hub name.
        what: is loaded; named in the error.
        profile: needs it; named in the error.

    Raises:
        MissingFileError: it is neither a folder here nor in the local hub cache.
        ModelFolderError: there is something, but nothing whole.
    """
    try:
        yield
    except (InputError, ImportError, MemoryError):  # ours already, or no fault of the files
        raise
    except Exception as error:  # files that are missing or not whole raise nearly anything
        if Path(source).exists() or not isinstance(error, OSError):
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelFolderError(f"{source}: no whole {what} ({line}): copy it again") from error
        command = f"fetch it with `hf download {source}` or name a folder that holds it"
        is_path = Path(source).is_absolute() or str(source).startswith(".")
        raise MissingFileError(
            f"profile {profile!r} needs {str(source)!r}, which is not on this machine: "
            f"{'name a folder that exists' if is_path else command}"
        ) from error


def load_weights(kind: Any, name_or_path: str, **settings: Any) -> Any:
    """Load a model of transformers that is whole, in eval mode, without asking the network.

    Args:
        kind: the automatic class, such as `AutoModel`.
        name_or_path: a hub name that is in the local hub cache, or a folder.
        **settings: as in transformers.

    Raises:
        ModelFolderError: tensors are missing; what else there may be, `loading` tells.
    """
    model, report = kind.from_pretrained(
        name_or_path,
        # Without it transformers 5.23 asks the network for an adapter, again and again.
        adapter_kwargs={"local_files_only": True},
        output_loading_info=True,
        **LOCAL_ONLY,
        **settings,
    )
    # transformers fills what is missing with random numbers and says so in a log line only.
    if absent := sorted(report["missing_keys"]):
        raise ModelFolderError(
            f"{name_or_path}: {len(absent)} tensors are missing ({absent[0]!r}): name a whole one"
        )
    return model.eval()


def weights_revision(model: torch.nn.Module) -> str:
    """Sixteen hex digits over a model's tensors, names and types; a second for 300M parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
