"""What is installed here, what is missing, the command that fetches it, and whether it works.

It looks, tries and reports; it changes nothing and downloads nothing.
"""

import os
import platform
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from platformdirs import user_cache_path

from affectgpt_r1.emotion.lexicon import authors_folder
from affectgpt_r1.emotion.tables import FILES, verify

#: Packages by the extra that brings them.
_PACKAGES = {
    "media": ("numpy", "av", "opencv-python-headless", "pebble", "pillow", "safetensors"),
    "train": ("torch", "transformers", "accelerate", "peft", "gguf"),
    "serve": ("fastapi", "uvicorn", "limits", "python-multipart"),
}


class Finding(NamedTuple):
    """One thing looked at.

    Attributes:
        name, value: what it is and what was found.
        mend: the command that puts it right, "" where it is right.
    """

    name: str
    value: str
    mend: str = ""


def versions() -> Iterator[Finding]:
    """The versions of everything that numbers may depend on."""
    yield Finding("affectgpt-r1", version("affectgpt-r1"))
    yield Finding("machine", f"{platform.platform()}, python {platform.python_version()}")
    for extra, names in _PACKAGES.items():
        for name in names:
            try:
                yield Finding(name, version(name))
            except PackageNotFoundError:
                yield Finding(name, "not installed", f"pip install 'affectgpt-r1[{extra}]'")


def examine() -> Iterator[Finding]:
    """Look at versions, memory, devices, weights, tables and caches, and try a prediction."""
    yield from versions()
    gib = os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    whole, free = (os.sysconf(f"SC_{pages}_PAGES") * gib for pages in ("PHYS", "AVPHYS"))
    yield Finding("memory", f"{whole:.0f} GiB, {free:.0f} of them free")
    if find_spec("av"):
        import av

        yield Finding("libavcodec", ".".join(map(str, av.library_versions["libavcodec"])))
    if find_spec("transformers"):
        yield (tried := _self_test())
        if not tried.mend:  # else they may not even be imported
            yield from _models()
    wrong = verify(folder := authors_folder())
    there = f"{len(FILES) - len(wrong)} of {len(FILES)} whole files in {folder}"
    yield Finding("the authors' tables", there, "affectgpt-r1 lexicon download" if wrong else "")
    cache = user_cache_path("affectgpt-r1")
    sizes = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
    yield Finding("cache", f"{cache}: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")


def _self_test() -> Finding:
    """Seconds; in a process of its own, since what is broken may crash or hang."""
    mend = "make a fresh environment: pip install 'affectgpt-r1[train]'"
    try:
        from affectgpt_r1.media.worker import Guard, guarded
    except ImportError as error:
        return Finding("self-test", f"failed: {error}", mend)
    began_s = time.monotonic()
    ((_, score, fault),) = guarded(_trial, ["nano"], Guard(1, 60.0, 1 << 40))
    if score is None:
        return Finding("self-test", f"failed: {fault}", mend)
    took = f"{time.monotonic() - began_s:.1f} s"
    return Finding("self-test", f"passed in {took}: a picture read, a model asked, and scored")


def _trial(profile: str) -> float:
    """The score of what an untrained model says of a black picture."""
    from PIL import Image

    from affectgpt_r1.clips import Clip
    from affectgpt_r1.config import LoraSettings
    from affectgpt_r1.emotion.score import score_sample
    from affectgpt_r1.evaluation.predict import Predictor, predict
    from affectgpt_r1.model.profiles import PROFILES, create_model, encoder_source
    from affectgpt_r1.perception.features import perceive

    source = encoder_source(PROFILES[profile])
    made = create_model(PROFILES[profile], source, seed=0, lora=LoraSettings())
    with TemporaryDirectory() as folder:
        clip = Clip("black", video=Path(folder, "black.png"))
        Image.new("RGB", (64, 64)).save(str(clip.video))
        features = perceive(clip, source)
    (said,) = predict(Predictor(*made, source, "self-test"), [(clip, features)])
    return score_sample("happy", said.words)


def _models() -> Iterator[Finding]:
    """The device, and the frozen parts of the small and the full profile."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    from affectgpt_r1.model.profiles import PROFILES
    from affectgpt_r1.model.weights import INSTALL, SMOLLM2, smollm2_gguf

    gpu, small = torch.cuda.is_available(), "weights of the small profile"
    yield Finding("device", torch.cuda.get_device_name(0) if gpu else "CPU")
    there = (user_cache_path("affectgpt-r1") / SMOLLM2).is_dir() or bool(smollm2_gguf())
    yield Finding(small, "there") if there else Finding(small, "missing", INSTALL)
    full = PROFILES["full"]
    for name in (str(full.language_model), full.visual, full.audio):
        there = isinstance(try_to_load_from_cache(name, "config.json"), str)
        yield Finding(name, "there") if there else Finding(name, "missing", f"hf download {name}")
