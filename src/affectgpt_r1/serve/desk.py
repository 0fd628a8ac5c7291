"""Where clips are asked about: read in guarded processes, answered by one model, in batches.

Requests that wait while a batch is at work make up the next one. HTTP is not known here.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pebble import ProcessPool
from starlette.concurrency import run_in_threadpool

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.errors import MediaError
from affectgpt_r1.evaluation.predict import BATCH, Prediction, Predictor, predict
from affectgpt_r1.evaluation.render import json_row
from affectgpt_r1.media import ClipMedia
from affectgpt_r1.media.worker import Guard, outcome
from affectgpt_r1.perception.features import encoded, look


class Desk:
    """One model, asked by many at once.

    Args:
        predictor: the model.
        pool: of `media.worker.processes`.
        guard: the limits that it was made with.
        max_duration_s: of a clip.
    """

    def __init__(
        self, predictor: Predictor, pool: ProcessPool, guard: Guard, max_duration_s: float
    ) -> None:
        self._predictor, self._pool, self._guard = predictor, pool, guard
        self._max_duration_s, self._turn = max_duration_s, asyncio.Lock()
        #: By mode, the batch that is forming, and the task that will answer it.
        self._forming: dict[Mode, tuple[list[tuple[Clip, ClipMedia]], Any]] = {}

    async def ask(self, clip: Clip, mode: Mode) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a clip and ask the model about it.

        Returns:
            The prediction as a JSON object, with the clip's `duration_s`, and in `timing_s` what
            reading took, and waiting and answering; and the clip as `media.attach.portrait`.

        Raises:
            MediaError: it cannot be read, or is too long.
        """
        began_s = time.perf_counter()
        what = self._predictor.encoders.eyes(), self._max_duration_s, clip
        reading = self._pool.schedule(look, what, timeout=self._guard.wall_s)
        await asyncio.wait([heard := asyncio.wrap_future(reading)])
        heard.exception()  # or asyncio would complain that nobody asked; `outcome` tells it
        found, fault = outcome(reading, self._guard)
        if found is None:
            raise MediaError(str(fault))
        read_s = time.perf_counter()
        media, shown = found
        if mode not in self._forming:
            fresh: list[tuple[Clip, ClipMedia]] = []
            self._forming[mode] = fresh, asyncio.create_task(self._answer(fresh, mode))
        batch, task = self._forming[mode]
        batch.append((clip, media))
        place = len(batch) - 1
        if len(batch) == BATCH:
            del self._forming[mode]
        answers = await asyncio.shield(task)
        timing_s = {"reading": read_s - began_s, "answering": time.perf_counter() - read_s}
        facts = {"duration_s": media.duration_s, "timing_s": timing_s}
        return json_row(answers[place]) | facts, shown

    async def _answer(
        self, batch: list[tuple[Clip, ClipMedia]], mode: Mode
    ) -> Sequence[Prediction]:
        async with self._turn:
            if self._forming.get(mode, (None,))[0] is batch:
                del self._forming[mode]
            return await run_in_threadpool(self._predict, batch, mode)

    def _predict(self, batch: Sequence[tuple[Clip, ClipMedia]], mode: Mode) -> list[Prediction]:
        media = {str(place): media for place, (_, media) in enumerate(batch)}
        features = encoded(media, self._predictor.encoders)
        clips = [clip for clip, _ in batch]
        return list(predict(self._predictor, zip(clips, features, strict=True), mode=mode))
