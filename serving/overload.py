"""Whether more comes in than can be answered: a state with two ways in, and a way out. Pure.

*For good*: the queue is half full, or somebody had to be refused although the objective would have allowed it. Then
somebody must be refused, whoever it is.

*For the objective*, where the user has set one (`BatchLimits.is_binding`): it is counted, in windows of two objectives
(a tenth of a second at least), how much of the work that comes will miss the objective. A burst is late and gone; but
when it was a quarter of the work in two windows one after the other, it is no burst. (Below that, the late cost less
than refusals would: those are by forecasts, and hit some who would have been in time after all.) Nor does it count when
little comes: then it is the machine that makes requests late, and refusing some of them helps nobody.

Out of it again a second (two windows, if that is longer) after the last window in which it was still needed: in which
enough came and a twelfth of it was refused (a binding objective), or anything was while more came than the model can do
in full batches. (Full ones: an objective that nobody has set must not keep refusing what small batches, which are all
that it allows, cannot do, and full ones do with ease.)
"""

from __future__ import annotations

from math import inf

from serving.queue_limits import BatchLimits

_LASTS_S, _WINDOWS_IT_LASTS = 1.0, 2.0  # the longer one
# Of the queue's bound, and not near to it: Envoy lets only so many through at a time, and it also counts those that run
# and those that nobody has read yet. On a busy machine these are hundreds, and Envoy alone would refuse.
_CROWDED_AT = 0.5
_WINDOW_S = 0.25
_OBJECTIVES_A_WINDOW, _SHORTEST_WINDOW_S = 2.0, 0.1
_BEGINS_AT, _ENDS_BELOW = 0.25, 0.08  # of the work that came in a window
_LEAST_LOAD = 0.5  # of what batches can do that are in time; with less, something else makes requests late


class Overload:
    """`until_s`: until when it lasts, if nothing prolongs it. `crowded`: so many waiting requests bring it about.

    `load`: how much came in lately, as a multiple of what the model can do in full batches. The queue adds to
    `offered_s` what each request costs in full batches, also if it is refused; and calls `look` when one comes at
    `calm_until_s` or later, which in overload is at once.
    """

    __slots__ = (
        "_is_binding",
        "_last_load",
        "_lasts_s",
        "_late_in_time_s",
        "_late_s",
        "_look_s",
        "_since_s",
        "_slots",
        "_was_late",
        "_window_s",
        "calm_until_s",
        "crowded",
        "load",
        "offered_s",
        "until_s",
    )

    def __init__(self, limits: BatchLimits) -> None:
        self._is_binding = limits.is_binding
        self._slots = limits.slots
        bound_s = max(_SHORTEST_WINDOW_S, _OBJECTIVES_A_WINDOW * limits.objective_s)
        self._window_s = bound_s if limits.is_binding else _WINDOW_S
        self._lasts_s = max(_LASTS_S, _WINDOWS_IT_LASTS * self._window_s)
        self.crowded = max(1, int(limits.max_waiting * _CROWDED_AT))
        self.until_s = 0.0
        self.load = self._last_load = 1.0
        self.offered_s = 0.0
        self._look_s = self.calm_until_s = 0.0 if limits.is_binding else inf
        self._late_s = 0.0  # of `offered_s`
        self._late_in_time_s = 0.0  # the same work, in batches that are in time
        self._since_s = -inf
        self._was_late = False

    def begin(self, now_s: float) -> None:
        """For good; or it goes on."""
        if now_s >= self.until_s:
            self.load = max(self.load, 1.0)
            if not self._is_binding:
                self._count_anew(now_s)
        self.until_s = now_s + self._lasts_s
        self.calm_until_s = -inf

    def is_late(self, work_s: float, in_time_s: float) -> None:
        """A request of `work_s` will miss the objective, or is refused because it would. `in_time_s`: what it costs in
        batches that are in time.
        """
        self._late_s += work_s
        self._late_in_time_s += in_time_s

    def look(self, now_s: float) -> None:
        """How things are now."""
        if now_s >= self._look_s:
            self._end_window(now_s)
        self.calm_until_s = self._look_s if now_s >= self.until_s else -inf

    def _end_window(self, now_s: float) -> None:
        seconds = now_s - self._since_s
        share = self._late_s / self.offered_s if self.offered_s > 0.0 else 0.0
        if seconds > 2 * self._window_s:  # hardly anybody came
            share = 0.0
        load = self.offered_s / seconds / self._slots
        self.load, self._last_load = max(load, self._last_load), load
        if not self._is_binding:
            is_needed = share > 0.0 and self.load > 1.0
        else:
            is_loaded = self.load * self._late_in_time_s >= _LEAST_LOAD * self._late_s
            is_late = share >= _BEGINS_AT and is_loaded
            is_overloaded = now_s < self.until_s
            is_needed = (share >= _ENDS_BELOW and is_loaded) if is_overloaded else (is_late and self._was_late)
            self._was_late = is_late
        if is_needed:
            self.until_s = now_s + self._lasts_s
        self._count_anew(now_s)
        if not self._is_binding and now_s >= self.until_s:
            self._look_s = inf

    def _count_anew(self, now_s: float) -> None:
        self.offered_s = self._late_s = self._late_in_time_s = 0.0
        self._since_s = now_s
        self._look_s = now_s + self._window_s
