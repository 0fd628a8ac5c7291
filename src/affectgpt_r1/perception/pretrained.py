"""Loading a frozen transformers encoder by name or folder, without ever replacing it by another.

The revision in an encoder's settings is a digest of the loaded weights: it is the same for a hub
name and a copied folder, and changes with the weights whatever they are called.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PreTrainedModel

from affectgpt_r1.errors import MissingFileError, ModelFolderError

_UNLOADABLE = (ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError)


def load_encoder(
    name_or_path: str,
    kinds: Sequence[str],
    *,
    profile: str,
    local_files_only: bool,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """Load a frozen encoder on the CPU, in eval mode.

    Args:
        name_or_path: a hub name or a folder.
        kinds: the model types that the caller can use.
        profile: named in the error.
        local_files_only: never ask the network.
        dtype: of the weights.

    Raises:
        MissingFileError: the weights are not here; the message names the command that fetches them.
        ModelFolderError: they are damaged, incomplete or of another kind.
    """
    with reported(name_or_path, profile):
        config = AutoConfig.from_pretrained(
            name_or_path, local_files_only=local_files_only, trust_remote_code=False
        )
    if config.model_type not in kinds:
        raise ModelFolderError(
            f"{name_or_path} is a {config.model_type!r} model, where one of {', '.join(kinds)} is "
            "needed: name another"
        )
    with reported(name_or_path, profile):
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
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


@contextmanager
def reported(name_or_path: str, profile: str) -> Iterator[None]:
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
