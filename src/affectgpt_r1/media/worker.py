"""Work on untrusted files in processes of its own: one that hangs, grows or crashes is replaced.

The limits hold a file at a time. Whatever goes wrong with it ends as a reason; the parent goes on.
"""

import ctypes
import logging
import resource
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from affectgpt_r1.errors import InputError

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Guard:
    """The limits.

    Attributes:
        workers: processes.
        wall_s: a file may take, from when its process turns to it.
        memory_bytes: of address space a process may have.
    """

    workers: int = 2
    wall_s: float = 120.0
    memory_bytes: int = 4 << 30


@contextmanager
def processes(guard: Guard) -> Iterator[ProcessPool]:
    """Spawned processes under the guard's limits; give `outcome` what they are scheduled to do."""
    limits = (guard.memory_bytes,)
    spawn = get_context("spawn")
    pool = ProcessPool(guard.workers, initializer=_limit, initargs=limits, context=spawn)
    try:
        yield pool
    finally:
        pool.stop()
        pool.join()


def guarded(
    work: Callable[[Item], Result], items: Iterable[Item], guard: Guard
) -> Generator[tuple[Item, Result | None, str | None], None, None]:
    """Do `work` on every item in spawned processes.

    Args:
        work: a module's function; what it takes and gives can be pickled.
        items: read as they are needed, a few ahead.
        guard: the limits.

    Yields:
        Each item with its result, or with the reason why there is none, as they are done.
    """
    rest = iter(items)
    running: dict[Future[Result], Item] = {}
    with processes(guard) as pool:
        while True:
            for item in islice(rest, 2 * guard.workers - len(running)):
                running[pool.schedule(work, (item,), timeout=guard.wall_s)] = item
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), *outcome(future, guard)


def _limit(memory_bytes: int) -> None:
    import cv2

    cv2.setNumThreads(1)  # the processes are the parallelism
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    least = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (least, least))
    if sys.platform == "linux":  # else a process that hangs would outlive a parent that is killed
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def outcome(future: Future[Any], guard: Guard) -> tuple[Any, str | None]:
    """What came of work that is done: its result, or the reason why there is none.

    Raises:
        InputError: no process can be started.
    """
    try:
        return future.result(), None
    except InputError as error:
        return None, str(error)
    except TimeoutError:
        return None, f"took longer than {guard.wall_s:g} s"
    except BrokenExecutor as error:
        raise InputError(f"no process can read clips here ({error}): raise their memory") from None
    except ProcessExpired as error:
        return None, f"its process died (exit {error.exitcode})"
    except MemoryError:
        return None, f"needs more than {guard.memory_bytes >> 20} MiB of memory"
    except Exception as error:  # a decoder's own: one file must not end the run
        _log.debug("unforeseen", exc_info=error)
        return None, " ".join(f"{type(error).__name__}: {error}".split())
