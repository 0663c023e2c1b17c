"""kill -9, under steady load: of one replica of two, of the control plane, of Envoy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import psutil

from benchmarks.changes import Splits
from benchmarks.crossfade import CONTROL_PLANE_KIND, Admin, ChangeFailed, Gateway
from benchmarks.payloads import Payload
from benchmarks.processes import kind_of
from benchmarks.progress import say
from benchmarks.report import Row
from benchmarks.steady import Failure, SteadyLoad

REQUESTS_PER_SECOND = 300
AFTERMATH_S = 3.0  # the load goes on for so long after everything is back, so that late failures are counted too
TRAFFIC = {"blue": 70, "green": 30}
ENVOY_BACK_WITHIN_S = 2.0
NEW_REPLICA_WITHIN_S = 60.0


async def kill_everything(gateway: Gateway, payload: Payload) -> list[Row]:
    """The gateway has two replicas of blue, and green. Raises `ChangeFailed` when something does not come back."""
    async with (
        Admin(gateway) as admin,
        SteadyLoad(gateway.url, gateway.grpc_address, payload, REQUESTS_PER_SECOND) as load,
    ):
        await admin.set_traffic(TRAFFIC)
        await load.split(REQUESTS_PER_SECOND)
        return [
            await _kill_a_replica(gateway, admin, load),
            await _kill_the_control_plane(gateway, admin, load),
            await _kill_envoy(gateway, admin, load),
        ]


async def _kill_a_replica(gateway: Gateway, admin: Admin, load: SteadyLoad) -> Row:
    before = _replicas_of_blue(gateway)
    killed_s = _kill(before[0])
    while len(set(_replicas_of_blue(gateway)) - set(before)) < 1:
        if time.monotonic() > killed_s + NEW_REPLICA_WITHIN_S:
            raise ChangeFailed("Ray did not start another replica")
        await asyncio.sleep(0.2)
    await admin.wait_until_replicas_are_ready()
    back_s = time.monotonic() - killed_s
    await asyncio.sleep(AFTERMATH_S)
    failures = load.failures_since(killed_s - 1)
    return _row("kill -9 of one replica of two", failures, load, f"a new one ready after {back_s:.1f} s")


async def _kill_the_control_plane(gateway: Gateway, admin: Admin, load: SteadyLoad) -> Row:
    killed_s = _kill(gateway.server.child.find(CONTROL_PLANE_KIND)[0])
    await admin.wait_until_up_to_date()
    back_s = time.monotonic() - killed_s
    await admin.set_traffic({"blue": 60, "green": 40})
    await admin.set_traffic(TRAFFIC)
    await asyncio.sleep(AFTERMATH_S)
    failures = load.failures_since(killed_s - 1)
    return _row("kill -9 of the control plane", failures, load, f"back after {back_s:.1f} s")


async def _kill_envoy(gateway: Gateway, admin: Admin, load: SteadyLoad) -> Row:
    killed_s = _kill(gateway.server.child.find("envoy")[0])
    await admin.wait_until_up_to_date()
    await asyncio.sleep(AFTERMATH_S)
    failures = load.failures_since(killed_s - 1)
    last_failure_s = max((failure.at_s for failure in failures), default=killed_s)
    back_s = last_failure_s - killed_s
    splits = Splits()
    splits.add(await load.split(2 * REQUESTS_PER_SECOND), TRAFFIC)
    is_same = splits.are_right
    return Row(
        title="kill -9 of Envoy, under load",
        bar=f"back in ≤ {ENVOY_BACK_WITHIN_S:g} s, same configuration",
        crossfade=f"back after {back_s:.2f} s, {len(failures)} failed; split {'as before' if is_same else 'changed'}",
        is_met=back_s <= ENVOY_BACK_WITHIN_S and is_same,
        details={"failures": _reasons(failures), "splits_outside_3_sigma": splits.outside},
    )


def _replicas_of_blue(gateway: Gateway) -> list[psutil.Process]:
    """A replica's title names its deployment between tildes."""
    return [process for process in gateway.server.child.find("ServeReplica") if "~blue~" in process.cmdline()[0]]


def _kill(process: psutil.Process) -> float:
    """Returns the moment of the kill."""
    say(f"  kill -9 {kind_of(process)}")
    process.kill()
    return time.monotonic()


def _row(title: str, failures: Sequence[Failure], load: SteadyLoad, what: str) -> Row:
    return Row(
        title=f"{title}, under load",
        bar="0 failed",
        crossfade=f"{len(failures)} failed at {REQUESTS_PER_SECOND} requests/s; {what}",
        is_met=not failures,
        details={"failures": _reasons(failures)},
    )


def _reasons(failures: Sequence[Failure]) -> list[str]:
    return [f"{failure.protocol}: {failure.reason}" for failure in failures[:20]]
