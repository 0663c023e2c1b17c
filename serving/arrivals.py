"""When waiting for more requests is cheaper than running at once. Pure.

Late binding needs no waiting: while one batch runs, the next one gathers. But clients that wait for their answers come
back together, just after a batch has ended, when the slot is free; the first to arrive would run alone, and all the
others would wait for it. So it is counted, each time that the slot is free and somebody waits, how many rows come
within the next moment. Waiting for them pays when the time that it costs those who are there is less than the time that
it saves those who come, which is nearly a whole execution each.
"""

from __future__ import annotations

from serving.latency import LatencyTable

_SHORTEST_S = 1e-3  # the event loop's timers know milliseconds
_OF_ONE_ROW = 0.25  # of the latency of one row: the longest that a lone request is made to wait for company
_WEIGHT_OF_NEWEST = 0.25
_CHEAPER = 0.9  # per row, or it is not worth the trouble


class Arrivals:
    """Rows that come within a moment of the slot being free, on average."""

    __slots__ = ("_came", "_expected", "_window_s", "until_s")

    def __init__(self) -> None:
        self._expected = 0.0
        self._came = 0
        self.until_s = 0.0
        self._window_s = 0.0

    def came(self, rows: int) -> None:
        """Call it for what comes before `until_s`."""
        self._came += rows

    def expected(self, now_s: float, window_s: float) -> float:
        """Rows that should come within `window_s`. The slot is free now: from now on it is counted how many do."""
        if self._window_s > 0.0:
            if now_s < self.until_s:  # asked again before the moment had passed: the rest of it is not known
                self._came += round(self._expected * (self.until_s - now_s) / self._window_s)
            self._expected += (self._came * window_s / self._window_s - self._expected) * _WEIGHT_OF_NEWEST
        self._came = 0
        self._window_s = window_s
        self.until_s = now_s + window_s
        return self._expected


def is_worth_a_thought(table: LatencyTable) -> bool:
    """Not where a full batch takes less than half the shortest wait: nothing that waiting saves can make up for it."""
    return table.batch_s > _SHORTEST_S / 2


def patience_s(table: LatencyTable) -> float:
    """How long it may be worth while to wait, at most."""
    return max(_SHORTEST_S, _OF_ONE_ROW * table.typical_s(1))


def rows_worth_waiting_for(table: LatencyTable, rows: int, expected: float, window_s: float, slack_s: float) -> int:
    """Run when so many rows are there; 0: run now. `slack_s`: until the first of those who wait wants its answer."""
    more = min(round(expected), table.join_rows - rows)
    if more < 1 or more < rows:  # many who wait and few who come: two halves in turns are as good
        return 0
    now_s, then_s = table.typical_s(rows), table.typical_s(rows + more)
    if then_s / (rows + more) > _CHEAPER * now_s / rows:
        return 0
    if rows * (window_s + then_s - now_s) >= more * (now_s - window_s / 2):
        return 0
    return rows + more if window_s + table.high_s(rows + more) <= slack_s else 0
