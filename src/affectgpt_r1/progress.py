"""Telling how far work has come."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, TypeVar

#: Told how many of how many are done.
Progress: TypeAlias = Callable[[int, int], None]
Item = TypeVar("Item")


def counted(items: Iterable[Item], total: int, progress: Progress | None) -> Iterator[Item]:
    """The items, each told to `progress` once it is worked on and the next is asked for."""
    for done, item in enumerate(items, 1):
        yield item
        if progress:
            progress(done, total)
