"""Which requests are refused at once, because they would wait in vain. Pure.

A request is refused in three cases, each time with the seconds after which trying again makes sense:

1. the queue is full;
2. its deadline (what the client, Envoy or the request itself set) would pass before its answer, by what is known of the
   model and of those before it;
3. the replica is *overloaded*, and the answer would miss the deployment's objective (`batching.latency_slo_ms`).

The objective alone refuses nobody. A burst, or many clients that wait for one another, make requests late, and late
answers are answers. But when a request had to be refused for the first reason, or for the second although its deadline
was beyond the objective, or when half of the queue is taken, more comes in than the model can answer: somebody must be
refused, whoever it is. From then on those are accepted that can be answered within the objective, so that the model's
whole capacity goes into answers that are of use, and the others know at once. Those who wait already and are late keep
a small share of the model (`LATE_LEVEL`). It is over when for a second nobody had to be refused, or only for the
objective, and no more came in than the model can do.
"""

from __future__ import annotations

_OVERLOAD_LASTS_S = 1.0  # after the last refusal
# Of the queue's bound, and not near to it: Envoy lets only so many through at a time, and it also counts those that run
# and those that nobody has read yet. On a busy machine these are hundreds, and Envoy alone would refuse.
_OVERLOADED_AT = 0.5
_WINDOW_S = 0.25  # over which it is counted how much comes in


class Admission:
    """`max_waiting`: requests. Remembers until when the replica counts as overloaded, and how much came in lately."""

    __slots__ = ("_is_too_much", "_max_waiting", "_offered_s", "_since_s", "crowded", "overloaded_until_s")

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self.crowded = max(1, int(max_waiting * _OVERLOADED_AT))
        self.overloaded_until_s = 0.0
        self._offered_s = 0.0  # seconds of work that came since `_since_s`
        self._since_s = 0.0
        self._is_too_much = True

    def is_overloaded(self, now_s: float, waiting: int, work_s: float) -> bool:
        """Whether requests that would miss the objective are refused. `work_s`: what the one that comes costs in full
        batches, divided among the slots.
        """
        if now_s >= self.overloaded_until_s:  # it may begin now
            self._offered_s, self._since_s, self._is_too_much = 0.0, now_s, True
        elif now_s - self._since_s >= _WINDOW_S:
            self._is_too_much = self._offered_s > now_s - self._since_s
            self._offered_s, self._since_s = 0.0, now_s
        self._offered_s += work_s
        if waiting >= self.crowded:
            self.refuse(now_s)
        return now_s < self.overloaded_until_s

    def is_full(self, waiting: int) -> bool:
        return waiting >= self._max_waiting

    def refuse(self, now_s: float) -> None:
        """Somebody had to be refused, or will have to be soon."""
        self.overloaded_until_s = now_s + _OVERLOAD_LASTS_S

    def refuse_late(self, now_s: float) -> None:
        """Somebody was refused for the objective. That prolongs the overload only while more comes in than the model
        can do in full batches: small ones, which are soon answered, do less, and would be overloaded for ever by what
        full ones do with ease.
        """
        if self._is_too_much:
            self.refuse(now_s)
