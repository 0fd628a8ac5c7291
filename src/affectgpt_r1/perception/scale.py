"""Encoding over the machines of a Ray cluster: the same work, each actor beside its own encoders.

Manifest, media and cache lie where all machines find them under one path. Actors share nothing but
the cache, so one that is lost costs what it had in flight.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from affectgpt_r1.asking import Progress
from affectgpt_r1.clips import Clip
from affectgpt_r1.errors import MissingFileError
from affectgpt_r1.media.worker import Guard
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.encode import Fate, encode_clips
from affectgpt_r1.perception.features import EncoderSource

# Clips that an actor takes at a time: its reading processes start anew with each.
_TAKE = 256


class _Encoding:
    """What an actor does with a take of clips, given by their places in the manifest."""

    def __init__(
        self, clips: Sequence[Clip], load: Callable[[], EncoderSource], **settings: Any
    ) -> None:
        self._clips, self._settings = clips, {"source": load(), **settings}

    def __call__(self, take: dict[str, Any]) -> dict[str, list[Any]]:
        fates = encode_clips([self._clips[i] for i in take["id"]], **self._settings)
        return {"fate": list(fates), "count": list(fates.values())}


def encode_on_ray(
    clips: Sequence[Clip],
    load: Callable[[], EncoderSource],
    cache: FeatureCache,
    guard: Guard,
    *,
    gpus: int = 0,
    progress: Progress | None = None,
    **settings: Any,
) -> Counter[Fate]:
    """As `encode_clips`, on the cluster that Ray is connected to, or on this machine's cores.

    Args:
        clips: paths are the same on all machines.
        load: gives the encoders, in each actor.
        cache: in a folder that all machines share.
        guard: limits of reading; its `workers` are the actors, each reading with one process.
        gpus: of each actor.
        progress: told how many of how many clips are done.
        **settings: others of `encode_clips`.

    Raises:
        MissingFileError: Ray is not installed.
        InputError: the cache cannot be written.
    """
    try:
        import ray
    except ImportError:
        raise MissingFileError(
            "Ray is not installed: pip install 'affectgpt-r1[scale]', or leave --engine out"
        ) from None
    fates: Counter[Fate] = Counter()
    if not clips:
        return fates
    load()  # what is at fault with encoders is told here, and not by an actor
    settings["guard"] = replace(guard, workers=1)
    settings["cache"] = FeatureCache(cache.folder.resolve())
    # Not `range`: reading that is a task, and waits for ever where the actors hold all cores.
    places = [{"id": i} for i in range(len(clips))]
    blocks = min(len(clips), max(len(clips) // _TAKE, guard.workers))
    takes = ray.data.from_items(places, override_num_blocks=blocks)
    done = takes.map_batches(
        _Encoding,
        fn_constructor_args=(clips, load),
        fn_constructor_kwargs=settings,
        batch_size=_TAKE,
        concurrency=guard.workers,
        num_gpus=gpus,
    )
    for row in done.iter_rows():
        fates[row["fate"]] += int(row["count"])
        if progress:
            progress(fates.total(), len(clips))
    return fates
