"""One thread for work that would block the event loop. It sleeps in a queue when idle and wakes the loop when done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")
A = TypeVar("A")

_Step = Callable[[Any], tuple[Any, Any]]
_Job = tuple[_Step, Any, Callable[[Any], None]]


class Worker:
    """Runs functions one after the other, in a thread of its own, named `name`. Use it from one event loop only.

    A plain queue and `call_soon_threadsafe` instead of an executor: no Future per batch.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        # A daemon: a model that hangs must not keep a stopping process alive.
        self._thread = Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[A], T], argument: A, on_done: Callable[[T], None]) -> None:
        """Run `function(argument)` in the thread, then `on_done(result)` on the loop. `function` must not raise.

        If it does, the loop's exception handler is told, `on_done` is not called, and the thread goes on.
        """
        self._jobs.put((partial(_once, function), argument, on_done))

    def submit_chain(self, step: Callable[[A], tuple[T, A | None]], argument: A, on_done: Callable[[T], None]) -> None:
        """Run `step(argument)` in the thread, then `on_done(result)` on the loop; and meanwhile the step with the
        argument that this one returned, until one returns None. What comes next need not wait for the loop.

        `step` must not raise, as for `submit`.
        """
        self._jobs.put((step, argument, on_done))

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` in the thread and wait for it. Its exception is raised here."""
        future: asyncio.Future[T] = self._loop.create_future()

        def finished(outcome: tuple[T, None] | tuple[None, Exception]) -> None:
            result, error = outcome
            if future.done():  # the caller was cancelled
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # None only when T is

        self.submit(_captured, function, finished)
        return await future

    def stop(self) -> None:
        """End the thread when it has finished what was submitted. Does not wait."""
        self._jobs.put(None)

    async def join(self) -> None:
        """Stop, and wait until the thread has ended. Submit nothing more."""
        await self.call(lambda: None)
        self.stop()
        self._thread.join()  # it has nothing left to do: this is a matter of microseconds

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            step, argument, on_done = job
            del job
            while argument is not None:
                try:
                    result, argument = step(argument)
                except Exception as error:
                    argument = None
                    told = self._loop_told(self._report, error)
                else:
                    told = self._loop_told(on_done, result)
                    del result  # or the last batch's arrays would live until the next one has run
                if not told:
                    return
            del step, on_done

    def _loop_told(self, callback: Callable[[Any], None], argument: Any) -> bool:
        """False when the loop is closed: nobody waits for anything any more."""
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:
            return False
        return True

    def _report(self, error: Exception) -> None:
        self._loop.call_exception_handler({"message": "a worker's function raised", "exception": error})


def _once(function: Callable[[A], T], argument: A) -> tuple[T, None]:
    return function(argument), None


def _captured(function: Callable[[], T]) -> tuple[T, None] | tuple[None, Exception]:
    try:
        return function(), None
    except Exception as error:
        return None, error
