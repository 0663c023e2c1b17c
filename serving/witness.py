"""Sees what a replica answers, while it is asked to: keeps records, and has some requests answered a second time.

What a model answers to the same input may vary by itself (order of sums, batch neighbours, randomness). The second
answer shows by how much. It is asked for only when nothing else waits or runs, and so that repeats take at most one
part in `1 + _PAUSE` of the time; it counts in the model's statistics like any other request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from serving.answers import Answer, Answered, Failed, Key, Repeat, Unanswered, recorded
from serving.errors import Cancelled, DeadlinePassed, Overloaded, ScoringError, Unavailable
from serving.messages import InferReply, InferRequest
from serving.ports import ScoringModel
from serving.sampling import Batch, Order, Sampling

log = logging.getLogger(__name__)

_PAUSE = 50  # after a repeat that took t seconds there is none for 50 t
_PATIENCE_S = 60.0


class Witness:
    """Belongs to the event loop that answers the requests. `now_s` is the clock of the model's deadlines."""

    def __init__(self, model: ScoringModel, now_s: Callable[[], float]) -> None:
        self.sampling = Sampling()
        self._model = model
        self._now_s = now_s
        self._lease: asyncio.TimerHandle | None = None
        self._is_repeating = False
        self._no_repeat_before_s = 0.0

    def renew(self, order: Order) -> Batch:
        """Sample as ordered until the lease ends."""
        if self._lease is not None:
            self._lease.cancel()
        self._lease = asyncio.get_running_loop().call_later(order.lease_s, self.sampling.end)
        return self.sampling.renew(order, self._now_s())

    def saw(self, key: Key, request: InferRequest | None, outcome: InferReply | ScoringError) -> None:
        """A chosen request was answered; the reply is on its way. `request` is None when it could not be read."""
        what = _what(outcome)
        if what is None:
            return
        now_s = self._now_s()
        self.sampling.keep(Answer(key, what), now_s)
        if not self.sampling.has_repeats or self._is_repeating or now_s < self._no_repeat_before_s:
            return
        if request is not None and isinstance(what, Answered):
            self._is_repeating = True
            asyncio.get_running_loop().call_soon(self._repeat, key, request, what)

    def _repeat(self, key: Key, request: InferRequest, first: Answered) -> None:
        if self._model.pending:
            self._is_repeating = False
            return
        started_s = self._now_s()

        def answered(outcome: InferReply | ScoringError) -> None:
            now_s = self._now_s()
            self._is_repeating = False
            self._no_repeat_before_s = now_s + _PAUSE * (now_s - started_s)
            second = _what(outcome)
            if isinstance(second, Answered):
                self.sampling.keep(Repeat(key, first, second), now_s)

        self._model.infer(request, started_s + _PATIENCE_S, answered)


def _what(outcome: InferReply | ScoringError) -> Answered | Failed | Unanswered | None:
    """None leaves no record: the request is sent elsewhere, or nobody waits for it any more."""
    match outcome:
        case InferReply():
            try:
                return recorded(outcome)
            except Exception as error:  # the replies that share this batch must not suffer for a record
                log.error("an answer could not be recorded", exc_info=error)
                return None
        case Unavailable() | Cancelled():
            return None
        case Overloaded() | DeadlinePassed():
            return Unanswered()
        case _:
            return Failed(type(outcome).__name__)
