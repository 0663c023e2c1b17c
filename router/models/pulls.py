"""Pulls as operations with an id: started, looked at while they run, ended early. They outlive whoever asked."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from router.domain.errors import Conflict, CrossfadeError, NotFound
from router.domain.model_ref import ModelRef
from router.events import EventLog
from router.models.progress import PullProgress, Reading
from router.models.pulling import Model, Pulling

log = logging.getLogger(__name__)

MAX_AT_ONCE = 4  # hashing is bound by the disk and by cores
MAX_WAITING = 64
_KEPT = 100  # finished ones that can still be asked for


class PullState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Pull:
    """One pull. `model` when it is done, `reason` when it failed. `is_look_up`: its source says what the model is, and
    the model stays there; of an image the layers come for that, and are kept for whoever pulls it next."""

    id: str
    ref: ModelRef
    by: str
    started_at: datetime
    progress: PullProgress
    state: PullState = PullState.RUNNING
    model: Model | None = None
    reason: str = ""
    is_look_up: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def reading(self) -> Reading:
        return self.progress.reading()


class Pulls:
    """Belongs to one event loop."""

    def __init__(self, pulling: Pulling, events: EventLog, now: Callable[[], datetime]) -> None:
        self._pulling = pulling
        self._events = events
        self._now = now
        self._limit = asyncio.Semaphore(MAX_AT_ONCE)
        self._pulls: dict[str, Pull] = {}

    def start(self, ref: ModelRef, by: str, *, is_look_up: bool = False) -> Pull:
        """Raises `Conflict` when far too many are under way."""
        if sum(pull.state is PullState.RUNNING for pull in self._pulls.values()) >= MAX_WAITING:
            raise Conflict(f"{MAX_WAITING} pulls are under way: wait for one of them, or cancel it")
        pull = Pull(secrets.token_hex(6), ref, by, self._now(), PullProgress(time.monotonic), is_look_up=is_look_up)
        self._pulls[pull.id] = pull
        pull.task = asyncio.create_task(self._run(pull), name=f"pull {pull.id}")
        self._forget_old_ones()
        return pull

    def find(self, pull_id: str) -> Pull:
        """Raises `NotFound`."""
        try:
            return self._pulls[pull_id]
        except KeyError:
            raise NotFound("pull", pull_id, tuple(self._pulls)) from None

    def all(self) -> tuple[Pull, ...]:
        """Oldest first."""
        return tuple(self._pulls.values())

    async def ended(self, pull: Pull, timeout_s: float) -> None:
        """Wait until it has ended, or the time is over."""
        if pull.task:
            await asyncio.wait({pull.task}, timeout=timeout_s)

    async def cancel(self, pull_id: str) -> Pull:
        """What came so far is kept for the next try. One that has ended stays as it is. Raises `NotFound`."""
        pull = self.find(pull_id)
        if pull.task:
            pull.task.cancel()
            await asyncio.wait({pull.task})
        if pull.state is PullState.RUNNING:  # it had not even begun
            pull.state, pull.reason = PullState.CANCELLED, "cancelled"
        return pull

    async def close(self) -> None:
        tasks = [pull.task for pull in self._pulls.values() if pull.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, pull: Pull) -> None:
        pull.progress.waits("other pulls")
        try:
            async with self._limit:
                pull.progress.waits("")
                if pull.is_look_up:
                    await self._pulling.look_up(pull.ref, pull.progress)
                else:
                    pull.model = await self._pulling.pull(pull.ref, pull.by, pull.progress)
            pull.state = PullState.DONE
            if pull.model and pull.model.is_fetched:
                digest = pull.model.resolved.short_digest
                self._events.publish("model_pulled", f"model {pull.ref} is here: {digest}")
        except asyncio.CancelledError:
            pull.state, pull.reason = PullState.CANCELLED, "cancelled"
        except CrossfadeError as error:
            pull.state, pull.reason = PullState.FAILED, str(error)
        except Exception as error:
            log.exception("a pull failed")
            pull.state, pull.reason = PullState.FAILED, f"an unexpected error, see the log: {error!r}"

    def _forget_old_ones(self) -> None:
        ended = [key for key, pull in self._pulls.items() if pull.state is not PullState.RUNNING]
        for key in ended[:-_KEPT]:
            del self._pulls[key]
