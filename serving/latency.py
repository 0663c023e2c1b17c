"""How long one execution takes, by rows: measured in warm-up, kept up with every batch. Pure.

Between the measured sizes (1, 2, 4 … rows) the latency is taken to be a straight line; a GPU's staircase shows as far
as the sizes do. Every batch nudges the two sizes around its own by a few percent, up or down, whatever the distance:
such steps settle on a quantile, an outlier moves them no further than any other sample, and a model that became slower
or faster for good is followed within some dozen batches. The median plans, the 90th percentile promises.

Most of each step goes to the *pace*, which all sizes have in common: a busy neighbour slows every size down, also those
that are not run at the time. (When it only made those slower that ran, the others looked cheap beside them: after a
busy second, half batches in turns were the plan for good, or singles, at a third of what the model could do.) What is
left goes to the size itself. A size that has not run for long is tried now and then, and its sample counts at once: as
it is when it is faster than was thought, because neighbours make nothing faster, else half.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from math import sqrt

JOINING_PAYS_BELOW = 0.75  # of the cost of a row alone
_AS_GOOD_AS_BEST = 1.1

# Steps whose ratio makes an estimate settle where half, or nine tenths, of the samples are below it.
_PACE_UP, _PACE_DOWN = 1.035, 1 / 1.035
_MEDIAN_UP, _MEDIAN_DOWN = 1.005, 1 / 1.005
_HIGH_UP, _HIGH_DOWN = 1.072, 0.992
_HIGH_AT_MOST = 3.0  # times the median
_HIGH_AT_FIRST = 1.25  # times the median: what nobody has measured yet
_PLAN_EVERY = 16  # batches
_TRY_EVERY = 128  # batches
_DOUBT_EVERY = 8  # tries: then also a size that, by what is known, is worse
_TRY_UP_TO = 8  # times the rows that are joined


class LatencyTable:
    """For requests of one shape. `join_rows`: join up to this many rows (1: never); `row_s`: what a row then costs;
    `batch_s`: what such a batch takes.
    """

    __slots__ = (
        "_batches",
        "_can_join",
        "_high",
        "_in_time_for_s",
        "_pace",
        "_places",
        "_ran",
        "_rows",
        "_rows_in_time",
        "_tried",
        "_tries",
        "_typical",
        "batch_s",
        "join_rows",
        "row_s",
    )

    def __init__(self, measured_s: Mapping[int, float], max_rows: int) -> None:
        """`measured_s`: rows → seconds, for 1 row at least. `max_rows` 1: there is nothing to join."""
        self._can_join = max_rows > 1
        self._rows = sorted(measured_s)
        self._typical = [measured_s[rows] for rows in self._rows]
        while self._rows[-1] < max_rows:  # not tried yet: taken to be as good per row as the largest that was
            rows = min(2 * self._rows[-1], max_rows)
            self._typical.append(self._typical[-1] * rows / self._rows[-1])
            self._rows.append(rows)
        self._places: dict[int, tuple[int, float]] = {}
        self._pace = 1.0  # of which `_typical` and `_high` are multiples
        self._ran = [0] * len(self._rows)  # when each size did so last, in batches
        self._high = [seconds * _HIGH_AT_FIRST for seconds in self._typical]
        self._batches = 0
        self._tried = 0  # when, in batches
        self._tries = 0
        self._in_time_for_s = -1.0
        self._rows_in_time = 0  # for `_in_time_for_s`
        self._plan()

    def __repr__(self) -> str:
        known = ", ".join(
            f"{rows}: {s * self._pace * 1e3:.3g}" for rows, s in zip(self._rows, self._typical, strict=True)
        )
        return f"<LatencyTable join={self.join_rows} ms={{{known}}}>"

    def scaled(self, factor: float) -> LatencyTable:
        """The first guess for a shape that has `factor` times as many elements."""
        measured_s = {rows: s * self._pace * factor for rows, s in zip(self._rows, self._typical, strict=True)}
        return LatencyTable(measured_s, self._rows[-1])

    def typical_s(self, rows: int) -> float:
        return self._read(self._typical, rows)

    def high_s(self, rows: int) -> float:
        """What nine of ten executions stay below. At most three medians: so it recovers as fast as the median does."""
        typical_s = self._read(self._typical, rows)
        return min(max(self._read(self._high, rows), typical_s), _HIGH_AT_MOST * typical_s)

    def rows_in_time(self, seconds: float) -> int:
        """The size of batch with which the most requests are answered within `seconds` each, while more come than can
        be; 0 when that is too short for any.

        What runs is waited for, so a request is in time only if it comes late enough in it: when `seconds` are enough
        for what is left of that and for its own batch. More come meanwhile than the model can do, which is one every
        `row_s`.
        """
        if seconds != self._in_time_for_s:
            self._in_time_for_s = seconds
            self._rows_in_time, best = 0, 0.0
            for rows in _sizes(self.join_rows):
                batch_s = self.typical_s(rows)
                if batch_s >= seconds:
                    break
                in_time = min(rows, (seconds - batch_s) / self.row_s) / batch_s
                if in_time > best:
                    self._rows_in_time, best = rows, in_time
        return self._rows_in_time

    def observe(self, rows: int, seconds: float) -> None:
        """One execution of `rows` rows took `seconds`."""
        at, share = self._places.get(rows) or self._place(rows)
        self._batches += 1
        is_slower = seconds > self.typical_s(rows)
        pace_step = _PACE_UP if is_slower else _PACE_DOWN
        sample = seconds / self._pace
        typical, high = self._typical, self._high
        if share != 1.0:
            self._nudge_two(high, at, share, sample, _HIGH_UP / pace_step, _HIGH_DOWN / pace_step)
            self._nudge_two(typical, at, share, sample, _MEDIAN_UP, _MEDIAN_DOWN)
        elif self._batches - self._ran[at] > _TRY_EVERY:
            self._remember(at, sample)
            pace_step = 1.0
        else:
            high[at] *= (_HIGH_UP if sample > high[at] else _HIGH_DOWN) / pace_step
            typical[at] *= _MEDIAN_UP if is_slower else _MEDIAN_DOWN
        self._pace *= pace_step
        self._ran[at] = self._batches
        if not self._batches % _PLAN_EVERY:
            self._plan()

    def rows_to_try(self, waiting: int) -> int:
        """How many rows to join now, with `waiting` there: `join_rows`, and once in a while more or fewer, to see what
        they cost.

        More, only where it is not expected to make the rows that wait, taken together, slower than they would be; but
        once in a longer while the next size in any case, because what is expected may be wrong.
        """
        if waiting <= self.join_rows or not self._can_join or self._batches - self._tried < _TRY_EVERY:
            return self.join_rows
        self._tried = self._batches
        self._tries += 1
        at = bisect_left(self._rows, self.join_rows)
        if self._tries % _DOUBT_EVERY == 0:
            following = self._rows[min(at + 1, len(self._rows) - 1)]
            return following if following <= waiting else self.join_rows
        if at and self._tries % 2 == 0:
            return self._rows[self._tries // 2 % at]
        largest = min(waiting, self.join_rows * _TRY_UP_TO, self._rows[-1])
        rows = max((size for size in self._rows if size <= largest), default=self.join_rows)
        is_harmless = self.typical_s(rows) <= _AS_GOOD_AS_BEST * rows * self.row_s
        return rows if is_harmless and rows > self.join_rows else self.join_rows

    def _remember(self, at: int, sample: float) -> None:
        """`sample`, a multiple of the pace, is the first of this size for long."""
        if sample > self._typical[at]:
            sample = sqrt(sample * self._typical[at])
        self._high[at] *= sample / self._typical[at]
        self._typical[at] = sample

    def _plan(self) -> None:
        self.join_rows = rows_worth_joining(dict(zip(self._rows, self._typical, strict=True))) if self._can_join else 1
        self.batch_s = self.typical_s(self.join_rows)
        self.row_s = self.batch_s / self.join_rows
        self._in_time_for_s = -1.0  # out of date

    def _read(self, seconds: list[float], rows: int) -> float:
        at, share = self._places.get(rows) or self._place(rows)
        if share == 1.0:
            return seconds[at] * self._pace
        below = seconds[at - 1]
        return (below + (seconds[at] - below) * share) * self._pace

    def _place(self, rows: int) -> tuple[int, float]:
        """Which measured size is the next above `rows`, and how far `rows` is from the one below to it, 0 to 1. Beyond
        the largest (a big request, where nothing is joined), the share is above 1: the line goes on.
        """
        sizes = self._rows
        at = min(bisect_left(sizes, rows), len(sizes) - 1)
        share = 1.0 if at == 0 else (rows - sizes[at - 1]) / (sizes[at] - sizes[at - 1])
        place = self._places[rows] = (at, share)
        return place

    def _nudge_two(self, seconds: list[float], at: int, share: float, sample: float, up: float, down: float) -> None:
        factor = up if sample > seconds[at - 1] + (seconds[at] - seconds[at - 1]) * share else down
        share = min(share, 1.0)
        seconds[at] *= 1.0 + (factor - 1.0) * share
        seconds[at - 1] *= 1.0 + (factor - 1.0) * (1.0 - share)


def _sizes(most: int) -> Iterator[int]:
    """From 1 to `most`, in steps of about an eighth."""
    rows = 1
    while rows < most:
        yield rows
        rows += 1 + rows // 8
    yield most


def rows_worth_joining(latency_s: Mapping[int, float]) -> int:
    """The largest batch whose cost per row is within 10 % of the best; 1 when joining does not pay.

    It pays when the best is a quarter cheaper per row than one row alone: else n requests in one batch would all wait
    for the last, for nearly nothing. (Google's magika on one CPU thread: 23 ms for 1 row, 154 ms for 8.)
    """
    per_row = {rows: seconds / rows for rows, seconds in latency_s.items()}
    best = min(per_row.values())
    if best > JOINING_PAYS_BELOW * per_row[1]:
        return 1
    return max(rows for rows, cost in per_row.items() if cost <= _AS_GOOD_AS_BEST * best)
