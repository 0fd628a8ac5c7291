"""What is installed here, what is missing, and the command that fetches it; and whether it works.

It looks, tries a score and an answer of a tiny model, and reports; it downloads nothing.
"""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from platformdirs import user_cache_path

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.download import FILES, verify
from affectgpt_r1.emotion.lexicon import authors_folder
from affectgpt_r1.emotion.score import score_sample

#: Packages by the extra that brings them.
_PACKAGES = {
    "media": ("numpy", "av", "opencv-python-headless", "safetensors"),
    "train": ("torch", "transformers", "accelerate", "peft", "gguf"),
}


@dataclass(frozen=True, slots=True)
class Finding:
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
    """Look at versions, memory, devices, weights, tables and caches; then try."""
    yield from versions()
    gib = os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    whole, free = (os.sysconf(f"SC_{pages}_PAGES") * gib for pages in ("PHYS", "AVPHYS"))
    yield Finding("memory", f"{whole:.0f} GiB, {free:.0f} of them free")
    if find_spec("av"):
        import av

        yield Finding("libavcodec", ".".join(map(str, av.library_versions["libavcodec"])))
    if find_spec("transformers"):
        yield from _models()
    if wrong := verify(folder := authors_folder()):
        told = f"{len(wrong)} of {len(FILES)} files missing or differing"
        yield Finding("the authors' tables", told, "affectgpt-r1 lexicon download")
    else:
        yield Finding("the authors' tables", str(folder))
    cache = user_cache_path("affectgpt-r1")
    sizes = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
    yield Finding("cache", f"{cache}: {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")
    yield _self_test()


def _models() -> Iterator[Finding]:
    """The device, and the frozen parts of the small and the full profile."""
    import torch
    from huggingface_hub import try_to_load_from_cache

    from affectgpt_r1.model.profiles import PROFILES
    from affectgpt_r1.model.weights import INSTALL, SMOLLM2, smollm2_gguf

    gpu, small = torch.cuda.is_available(), "weights of the small profile"
    yield Finding("device", torch.cuda.get_device_name(0) if gpu else "CPU")
    if (user_cache_path("affectgpt-r1") / SMOLLM2).is_dir() or smollm2_gguf():
        yield Finding(small, "there")
    else:
        yield Finding(small, "missing", INSTALL)
    full = PROFILES["full"]
    for name in (str(full.language_model), full.visual, full.audio):
        there = isinstance(try_to_load_from_cache(name, "config.json"), str)
        yield Finding(name, "there") if there else Finding(name, "missing", f"hf download {name}")


def _self_test() -> Finding:
    """A score, and where torch is installed a tiny model's answer to a black and silent clip."""
    began_s = time.monotonic()
    try:
        done = f"F {score_sample('happy', 'joyful'):.0f}"
        if find_spec("peft"):
            done += f", an answer of {_answer_length()} letters by an untrained nano model"
    except Exception as error:
        mend = "pip install --force-reinstall 'affectgpt-r1[train]'"
        return Finding("self-test", f"{type(error).__name__}: {error}", mend)
    return Finding("self-test", f"{done}, in {time.monotonic() - began_s:.1f} s")


def _answer_length() -> int:
    import numpy as np

    from affectgpt_r1.config import LoraSettings
    from affectgpt_r1.evaluation.predict import Predictor, predict
    from affectgpt_r1.model.profiles import PROFILES, create_model, encoder_source
    from affectgpt_r1.perception.features import Features

    source = encoder_source(PROFILES["nano"])
    model, processor = create_model(PROFILES["nano"], source, seed=0, lora=LoraSettings(rank=0))
    faces, windows = np.zeros((8, 224, 224, 3), np.uint8), np.zeros((8, 32_000), np.float32)
    face, voice = source.load()
    seen = Features(face.encode(faces), voice.encode(windows), True, True, frozenset(), "")
    (said,) = predict(Predictor(model, processor, source, ""), [Clip("self-test")], [seen])
    return len(said.completion)
