"""How far a pull is, how fast, and how long it will still take."""

from __future__ import annotations

from router.models.progress import PullProgress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_rate_is_that_of_the_last_seconds() -> None:
    clock = Clock()
    progress = PullProgress(clock)
    progress.expects(10_000)
    for _ in range(20):
        clock.now_s += 0.5
        progress.has(100, is_new=True)
    clock.now_s += 0.5
    progress.has(1000, is_new=True)
    reading = progress.reading()
    assert (reading.done_bytes, reading.total_bytes) == (3000, 10_000)
    assert 200 < reading.bytes_per_s < 500
    assert reading.left_s == round(7000 / (reading.bytes_per_s), 1)


def test_what_lay_here_counts_as_done_and_not_as_fast() -> None:
    clock = Clock()
    progress = PullProgress(clock)
    progress.expects(1000)
    progress.has(900, is_new=False)
    clock.now_s += 1
    progress.has(50, is_new=True)
    reading = progress.reading()
    assert (reading.done_bytes, reading.fetched_bytes, reading.bytes_per_s, reading.left_s) == (950, 50, 50.0, 1.0)


def test_what_nobody_knows_is_not_made_up() -> None:
    clock = Clock()
    progress = PullProgress(clock)
    assert progress.reading().left_s == -1.0
    progress.has(10, is_new=True)
    clock.now_s += 1
    assert (progress.reading().total_bytes, progress.reading().left_s) == (-1, -1.0)


def test_what_a_source_had_to_fetch_to_know_the_files_does_not_count_as_files() -> None:
    clock = Clock()
    progress = PullProgress(clock)
    progress.expects(400)
    clock.now_s += 1
    progress.has(400, is_new=True)
    assert (progress.reading().done_bytes, progress.reading().left_s) == (400, 0.0)
    progress.expects(1000)
    progress.has(1000, is_new=False)
    reading = progress.reading()
    assert (reading.done_bytes, reading.total_bytes, reading.fetched_bytes) == (1000, 1000, 400)


def test_what_is_lost_is_fetched_again_and_a_wait_is_told() -> None:
    progress = PullProgress(Clock())
    progress.expects(100)
    progress.has(60, is_new=True)
    progress.lost(60)
    progress.waits("the connection was closed")
    assert (progress.reading().done_bytes, progress.reading().waiting) == (0, "the connection was closed")
