"""Who looks on while a model is resolved and fetched. Told by the few sources that move bytes before they can list any.

It goes with the task instead of through every call: of all sources one has something to tell when it resolves, and
those that hand on to others would have to pass it along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from router.models.cache_ports import Progress


class Silent:
    """Implements `Progress` where nobody looks."""

    def expects(self, total_bytes: int) -> None:
        return

    def has(self, byte_count: int, *, is_new: bool) -> None:
        return

    def lost(self, byte_count: int) -> None:
        return

    def waits(self, reason: str) -> None:
        return


_ONLOOKER: ContextVar[Progress] = ContextVar("onlooker", default=Silent())  # noqa: B039  (it has no state)


def onlooker() -> Progress:
    """Whoever looks on at what this task does."""
    return _ONLOOKER.get()


class Counted:
    """Implements `Progress`: hands on, and can take back what it told."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told = 0

    def expects(self, total_bytes: int) -> None:
        self._told = 0
        self._progress.expects(total_bytes)

    def has(self, byte_count: int, *, is_new: bool) -> None:
        self._told += byte_count
        self._progress.has(byte_count, is_new=is_new)

    def lost(self, byte_count: int) -> None:
        self._told -= byte_count
        self._progress.lost(byte_count)

    def waits(self, reason: str) -> None:
        self._progress.waits(reason)

    def take_back(self) -> None:
        self._progress.lost(self._told)
        self._told = 0


@contextmanager
def looked_on_by(progress: Progress) -> Iterator[None]:
    before = _ONLOOKER.set(progress)
    try:
        yield
    finally:
        _ONLOOKER.reset(before)
