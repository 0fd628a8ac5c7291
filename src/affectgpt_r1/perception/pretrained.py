"""Frozen encoders of transformers, by name or folder, none ever replaced by another.

The revision in an encoder's settings is a digest of the loaded weights: it is the same for a hub
name and a copied folder, and changes with the weights whatever they are called.
"""

import hashlib
import pickle
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from affectgpt_r1.errors import InputError, MissingFileError, ModelFolderError

#: Neither the network is asked nor code run that lies beside the weights.
LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
#: What transformers, torch and safetensors raise for files that are missing or not whole.
_UNLOADABLE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, EOFError),
    *(SafetensorError, StrictDataclassError, pickle.UnpicklingError, struct.error),
    *(AssertionError, ArithmeticError),
)


class PretrainedEncoder:
    """A frozen transformers model that encodes; make it with `load`.

    Args:
        model: of one of the `kinds`, on the CPU.
        processor: prepares the input; None: it is taken raw.
        device: where the model runs.

    Each encoder says how a clip's steps are prepared, and what features are of what was prepared.
    """

    #: The model types that the encoder can use.
    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, model: PreTrainedModel, processor: Any = None, device: str = "cpu") -> None:
        self._model, self._processor = model, processor
        self.name = str(model.config.model_type)
        self.settings: Mapping[str, str | int | float | bool] = {
            "version": 1,
            "revision": weights_revision(model),
            "dtype": str(model.dtype),
        }
        torch.nn.Module.to(model, torch.device(device))

    def encode(self, steps: NDArray[Any]) -> NDArray[np.float32]:
        """Encode a clip's steps (t, ...), RGB pictures or 16 kHz windows, to (t, width)."""
        return self.encode_batch([steps])[0]

    @torch.inference_mode()
    def encode_batch(self, clips: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Encode several clips in one pass; what belongs together in a clip stays apart."""
        ready = torch.cat([self._prepared(steps) for steps in clips])
        features = self._features(ready.to(self._model.device, self._model.dtype))
        parts = features.float().cpu().split([len(steps) for steps in clips])
        return [part.numpy() for part in parts]

    def _prepared(self, steps: NDArray[Any]) -> torch.Tensor:
        raise NotImplementedError

    def _features(self, ready: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    @classmethod
    def load(
        cls, name_or_path: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> Self:
        """Load an encoder by hub name or folder, in eval mode, without asking the network.

        Args:
            name_or_path: a hub name that is in the local hub cache, or a folder.
            dtype: of the weights; part of the settings.
            device: where the model runs.

        Raises:
            MissingFileError: it is not on this machine; the message names the command.
            ModelFolderError: it is damaged, incomplete, too small or of another kind.
        """
        with loading(name_or_path):
            config = AutoConfig.from_pretrained(name_or_path, **LOCAL_ONLY)
            if config.model_type not in cls.kinds:
                raise ModelFolderError(
                    f"{name_or_path} is a {config.model_type!r} model, where one of "
                    f"{', '.join(cls.kinds)} is needed: name another"
                )
            processor = cls._load_processor(name_or_path, config)
            model = load_weights(AutoModel, name_or_path, config=config, dtype=dtype)
        return cls(model.requires_grad_(False), processor, device)

    @classmethod
    def _load_processor(cls, name_or_path: str, config: PreTrainedConfig) -> Any:
        return None


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
    except InputError:  # ours already, and a ValueError too
        raise
    except _UNLOADABLE as error:
        if Path(source).exists() or not isinstance(error, OSError):
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelFolderError(
                f"{source}: no whole {what} ({line}): fetch or copy it again"
            ) from error
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
            f"{name_or_path}: {len(absent)} tensors are missing, {absent[0]!r} the first: "
            "name a complete checkpoint"
        )
    return model.eval()


def weights_revision(model: torch.nn.Module) -> str:
    """Sixteen hex digits over a model's tensors, names and types; a second for 300M parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
