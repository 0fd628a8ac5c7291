"""Where clips are asked about: read in guarded processes, answered by one model, in batches.

Requests that wait while a batch is at work make up the next one. HTTP is not known here.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias, cast

from starlette.concurrency import run_in_threadpool

from affectgpt_r1.clips import Clip
from affectgpt_r1.dialogue import Mode
from affectgpt_r1.errors import MediaError
from affectgpt_r1.evaluation.predict import BATCH, Prediction, Predictor, predict
from affectgpt_r1.evaluation.render import json_row
from affectgpt_r1.media import ClipMedia
from affectgpt_r1.media.worker import Guard, Result, outcome, processes
from affectgpt_r1.perception.features import encoded, look

#: A clip, the key of its features, and what the encoders look at.
_Seen: TypeAlias = tuple[Clip, str, ClipMedia]


class Desk:
    """One model, asked by many at once.

    Args:
        predictor: the model.
        pools: takes the processes that read, and ends them.
        guard: their limits.
        max_duration_s: of a clip.
    """

    def __init__(
        self, predictor: Predictor, pools: ExitStack, guard: Guard, max_duration_s: float
    ) -> None:
        self._predictor, self._pools, self._guard = predictor, pools, guard
        self._pool = pools.enter_context(processes(guard))
        self._max_duration_s, self._turn = max_duration_s, asyncio.Lock()
        #: By mode, the batch that is forming, and the task that will answer it.
        self._forming: dict[Mode, tuple[list[_Seen], Any]] = {}

    async def guarded(self, work: Callable[..., Result], *what: Any) -> Result:
        """What a process that reads makes of something.

        Raises:
            MediaError: it cannot, or needs more than the guard lets it.
        """
        if not self._pool.active:  # it breaks where a process is killed that has nothing to do
            self._pools.close()
            self._pool = self._pools.enter_context(processes(self._guard))
        reading = self._pool.schedule(work, what, timeout=self._guard.wall_s)
        heard = asyncio.wrap_future(reading)
        try:
            await asyncio.wait([heard])
        finally:
            heard.cancel()  # nobody waits for it any longer
        heard.exception()  # or asyncio would complain that nobody asked; `outcome` tells it
        found, fault = outcome(reading, self._guard)
        if fault is not None:
            raise MediaError(fault)
        return cast(Result, found)

    async def ask(self, clip: Clip, mode: Mode, portrayed: bool) -> tuple[dict[str, Any], Any]:
        """Read a clip and ask the model about it.

        Returns:
            The prediction as a JSON object, with the clip's `duration_s`, and in `timing_s` what
            reading took, and waiting and answering; and the clip as `media.attach.portrait`, where
            it is wanted `portrayed`, else {}.

        Raises:
            MediaError: it cannot be read, or is too long.
        """
        began_s = time.perf_counter()
        eyes, longest_s = self._predictor.encoders.eyes(), self._max_duration_s
        key, media, shown = await self.guarded(look, eyes, longest_s, clip, portrayed)
        read_s = time.perf_counter()
        if mode not in self._forming:
            fresh: list[_Seen] = []
            self._forming[mode] = fresh, asyncio.create_task(self._answer(fresh, mode))
        batch, task = self._forming[mode]
        batch.append((clip, key, media))
        place = len(batch) - 1
        if len(batch) == BATCH:
            del self._forming[mode]
        answers = await asyncio.shield(task)
        timing_s = {"reading": read_s - began_s, "answering": time.perf_counter() - read_s}
        facts = {"duration_s": media.duration_s, "timing_s": timing_s}
        return json_row(answers[place]) | facts, shown

    async def _answer(self, batch: list[_Seen], mode: Mode) -> Sequence[Prediction]:
        async with self._turn:
            if self._forming.get(mode, (None,))[0] is batch:
                del self._forming[mode]
            return await run_in_threadpool(self._predict, batch, mode)

    def _predict(self, batch: Sequence[_Seen], mode: Mode) -> list[Prediction]:
        media = {key: media for _, key, media in batch}  # what two ask about is encoded once
        found = {one.key: one for one in encoded(media, self._predictor.encoders)}
        clips = [(clip, found[key]) for clip, key, _ in batch]
        return list(predict(self._predictor, clips, mode=mode))
