"""The meter: reports of any number of Envoys become totals that only grow."""

import asyncio

import pytest

from router.domain.measurement import Latencies, Totals
from router.telemetry import AttemptMeter, Increment

BOUNDS_MS = (1.0, 10.0)


def seen(deployment: str, requests: int, errors: int = 0, counts: tuple[int, ...] = ()) -> Increment:
    latencies = Latencies(BOUNDS_MS, counts) if counts else Latencies()
    return Increment("fraud", deployment, Totals(requests, errors, latencies))


def test_reports_add_up_whoever_sends_them() -> None:
    meter = AttemptMeter()

    meter.take([seen("blue", 10, counts=(7, 2, 1)), seen("green", 3, errors=2)])
    meter.take([seen("blue", 5, errors=1, counts=(0, 4, 0))])

    assert meter.totals("fraud") == {
        "blue": Totals(15, 1, Latencies(BOUNDS_MS, (7, 6, 1))),
        "green": Totals(3, 2),
    }


def test_an_endpoint_that_nobody_asked_has_no_totals() -> None:
    meter = AttemptMeter()
    meter.take([seen("blue", 1)])

    assert meter.totals("spam") == {}


def test_totals_that_were_read_do_not_change_any_more() -> None:
    meter = AttemptMeter()
    meter.take([seen("blue", 1, counts=(1, 0, 0))])
    before = meter.totals("fraud")

    meter.take([seen("blue", 1, counts=(1, 0, 0))])

    assert before == {"blue": Totals(1, 0, Latencies(BOUNDS_MS, (1, 0, 0)))}


async def test_who_waits_for_a_report_is_told_of_the_next_one() -> None:
    meter = AttemptMeter()
    meter.take([])
    waiting = asyncio.ensure_future(meter.reported(60))
    await asyncio.sleep(0)
    assert not waiting.done()

    meter.take([])

    assert await waiting


@pytest.mark.parametrize("timeout_s", [0, -1])
async def test_no_report_in_time_is_false(timeout_s: float) -> None:
    assert not await AttemptMeter().reported(timeout_s)
