"""Frozen encoders of transformers, by name or folder, none ever replaced by another.

The revision in an encoder's settings is a digest of the loaded weights: it is the same for a hub
name and a copied folder, and changes with the weights whatever they are called.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from affectgpt_r1.errors import InputError, MissingFileError, ModelFolderError

#: Neither the network is asked nor code run that lies beside the weights.
LOCAL_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_UNLOADABLE = (
    ValueError,
    RuntimeError,
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    EOFError,
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
        try:
            config = AutoConfig.from_pretrained(name_or_path, **LOCAL_ONLY)
            if config.model_type not in cls.kinds:
                raise ModelFolderError(
                    f"{name_or_path} is a {config.model_type!r} model, where one of "
                    f"{', '.join(cls.kinds)} is needed: name another"
                )
            model, report = AutoModel.from_pretrained(
                name_or_path,
                config=config,
                dtype=dtype,
                # Without it transformers 5.23 asks the network for an adapter, again and again.
                adapter_kwargs={"local_files_only": True},
                output_loading_info=True,
                **LOCAL_ONLY,
            )
            # transformers fills what is missing with random numbers and says so in a log line only.
            if absent := sorted(report["missing_keys"]):
                raise ModelFolderError(
                    f"{name_or_path}: {len(absent)} tensors are missing, {absent[0]!r} the first: "
                    "name a complete checkpoint"
                )
            processor = cls._load_processor(name_or_path, config)
        except InputError:  # raised above, and a ValueError too
            raise
        # RuntimeError: torch for a damaged archive, transformers for tensors of other shapes.
        except (*_UNLOADABLE, OSError) as error:
            raise _fault(name_or_path, error) from error
        return cls(model.eval().requires_grad_(False), processor, device)

    @classmethod
    def _load_processor(cls, name_or_path: str, config: PreTrainedConfig) -> Any:
        return None


def _fault(name_or_path: str, error: Exception) -> InputError:
    """What transformers raised for weights that it cannot load, as this package's error.

    A name that is neither a folder here nor in the local hub cache is a missing file; else there is
    something, but no whole model.
    """
    if Path(name_or_path).is_dir() or not isinstance(error, OSError):
        line = next(iter(str(error).splitlines()), type(error).__name__)
        return ModelFolderError(f"{name_or_path}: no whole model ({line}): fetch or copy it again")
    command = f"fetch it with `hf download {name_or_path}` or name a folder that holds it"
    is_path = Path(name_or_path).is_absolute() or name_or_path.startswith(".")
    return MissingFileError(
        f"profile 'full' needs {name_or_path!r}, which is not on this machine: "
        f"{'name a folder that exists' if is_path else command}"
    )


def weights_revision(model: torch.nn.Module) -> str:
    """Sixteen hex digits over a model's tensors, names and types; a second for 300M parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
