"""How the control plane comes into Ray, and what it does there when it ends."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from router.ports import RuntimeUnavailable
from router.ray_membership import RayMembership
from tests.fake_world import FakeRay


class LostRay(FakeRay):
    async def leave(self) -> None:
        raise RuntimeUnavailable("the cluster is gone")


class SilentRay(FakeRay):
    async def leave(self) -> None:
        await asyncio.Event().wait()


async def test_what_takes_seconds_does_not_hold_the_event_loop_up() -> None:
    ray, threads = FakeRay(), []

    def made() -> FakeRay:
        threads.append(threading.current_thread())
        return ray

    assert await RayMembership(made, is_ray_ours=False).begin() is ray
    assert threads != [threading.current_thread()]


@pytest.mark.parametrize(("is_ray_ours", "log"), [(False, ["leave"]), (True, [])])
async def test_a_ray_of_others_is_left_and_our_own_ends_with_us(is_ray_ours: bool, log: list[str]) -> None:
    ray = FakeRay()
    membership = RayMembership(lambda: ray, is_ray_ours)
    await membership.leave()  # before it was there, there is nothing to leave
    assert ray.log == []
    await membership.begin()
    await membership.leave()
    assert ray.log == log


@pytest.mark.parametrize(("ray", "words"), [(LostRay(), "the cluster is gone"), (SilentRay(), "Ray does not answer")])
async def test_a_ray_that_is_gone_is_said_and_keeps_nobody_from_leaving(
    ray: FakeRay, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    membership = RayMembership(lambda: ray, is_ray_ours=False, leave_timeout_s=0)
    await membership.begin()
    with caplog.at_level(logging.WARNING):
        await membership.leave()
    assert words in caplog.text
