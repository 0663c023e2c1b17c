"""Which requests are refused at once, because they would wait in vain. Pure.

A request is refused in three cases, each time with the seconds after which trying again makes sense:

1. the queue is full;
2. its deadline (what the client, Envoy or the request itself set) would pass before its answer, by what is known of the
   model and of those before it;
3. the replica is *overloaded*, and the answer would miss the deployment's objective (`batching.latency_slo_ms`).

The objective alone refuses nobody. A burst, or many clients that wait for one another, make requests late, and late
answers are answers. But when a request had to be refused for the first reason, or for the second although its deadline
was beyond the objective, or when three quarters of the queue are taken, more comes in than the model can answer:
somebody must be refused, whoever it is. From then on those are accepted that can be answered within the objective, so
that the model's whole capacity goes into answers that are of use, and the others know at once. Those who wait already
and are late keep a small share of the model (`LATE_LEVEL`). It is over when nobody had to be refused for a second.
"""

from __future__ import annotations

_OVERLOAD_LASTS_S = 1.0  # after the last refusal
_OVERLOADED_AT = 0.75  # of the queue's bound


class Admission:
    """`max_waiting`: requests. Remembers only until when the replica counts as overloaded."""

    __slots__ = ("_max_waiting", "crowded", "overloaded_until_s")

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self.crowded = max(1, int(max_waiting * _OVERLOADED_AT))
        self.overloaded_until_s = 0.0

    def is_overloaded(self, now_s: float, waiting: int) -> bool:
        """Whether requests that would miss the objective are refused."""
        if waiting >= self.crowded:
            self.overloaded_until_s = now_s + _OVERLOAD_LASTS_S
        return now_s < self.overloaded_until_s

    def is_full(self, waiting: int) -> bool:
        return waiting >= self._max_waiting

    def refuse(self, now_s: float) -> None:
        """Somebody had to be refused."""
        self.overloaded_until_s = now_s + _OVERLOAD_LASTS_S
