"""Frozen encoders of transformers, by name or folder, none ever replaced by another.

The revision in an encoder's settings is a digest of the loaded weights: it is the same for a hub
name and a copied folder, and changes with the weights whatever they are called.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedModel

from affectgpt_r1.errors import MissingFileError, ModelFolderError

_UNLOADABLE = (ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)


class PretrainedEncoder:
    """A frozen transformers model that encodes; make it with `load`.

    Args:
        model: of one of the `kinds`, on the CPU.
        processor: prepares the input; None: it is taken raw.
        device: where the model runs.
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

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        local_files_only: bool,
        profile: str = "full",
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> Self:
        """Load an encoder by hub name or folder, in eval mode.

        Args:
            name_or_path: a hub name or a folder.
            local_files_only: never ask the network.
            profile: named in the error.
            dtype: of the weights; part of the settings.
            device: where the model runs.

        Raises:
            MissingFileError: it is not on this machine; the message names the command.
            ModelFolderError: it is damaged, incomplete, too small or of another kind.
        """
        with _reported(name_or_path, profile):
            config = AutoConfig.from_pretrained(
                name_or_path, local_files_only=local_files_only, trust_remote_code=False
            )
        if config.model_type not in cls.kinds:
            raise ModelFolderError(
                f"{name_or_path} is a {config.model_type!r} model, where one of "
                f"{', '.join(cls.kinds)} is needed: name another"
            )
        with _reported(name_or_path, profile):
            model, report = AutoModel.from_pretrained(
                name_or_path,
                config=config,
                dtype=dtype,
                local_files_only=local_files_only,
                trust_remote_code=False,
                # Without it transformers 5.23 asks the network for an adapter, again and again.
                adapter_kwargs={"local_files_only": local_files_only},
                output_loading_info=True,
            )
        # transformers fills what is missing with random numbers and says so in a log line only.
        if absent := sorted(report["missing_keys"]):
            raise ModelFolderError(
                f"{name_or_path}: {len(absent)} tensors are missing, {absent[0]!r} the first: "
                "name a complete checkpoint"
            )
        with _reported(name_or_path, profile):
            processor = cls._load_processor(name_or_path, local_files_only)
        return cls(model.eval().requires_grad_(False), processor, device)

    @classmethod
    def _load_processor(cls, name_or_path: str, local_files_only: bool) -> Any:
        return None


@contextmanager
def _reported(name_or_path: str, profile: str) -> Iterator[None]:
    """Turn what transformers raises for weights that it cannot load into this package's errors.

    Raises:
        MissingFileError: the name is neither a folder here nor in the local hub cache.
        ModelFolderError: there is something, but no whole model.
    """
    try:
        yield
    # RuntimeError: torch for a damaged archive, transformers for tensors of other shapes.
    except (*_UNLOADABLE, OSError) as error:
        if Path(name_or_path).is_dir() or not isinstance(error, OSError):
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise ModelFolderError(
                f"{name_or_path}: no whole model ({line}): fetch or copy it again"
            ) from error
        command = f"fetch it with `hf download {name_or_path}` or name a folder that holds it"
        is_path = Path(name_or_path).is_absolute() or name_or_path.startswith(".")
        raise MissingFileError(
            f"profile {profile!r} needs {name_or_path!r}, which is not on this machine: "
            f"{'name a folder that exists' if is_path else command}"
        ) from error


def weights_revision(model: torch.nn.Module) -> str:
    """Sixteen hex digits over a model's tensors, names and types; a second for 300M parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
