"""What ends and comes back: replicas, the control plane, Envoy. Clients notice nothing of the first two."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from router.domain.routing import Routing, UnixAddress, Upstream
from router.domain.traffic import Traffic
from router.ports import Acknowledged, Unconfirmed
from router.xds.names import ROUTES
from tests.envoy.data_plane import (
    data_plane,
    listening,
    process_of,
    routing,
    short_folder,
    started_envoy,
    upstream,
    xds_server,
)
from tests.envoy.load import under_load
from tests.envoy.replica import MAX_BODY_BYTES
from tests.envoy.waiting import DEADLINE_S, eventually


@asynccontextmanager
async def replica_process(path: Path, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.envoy.replica_process", path, name)
    try:
        await eventually(path.exists)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def deployment(name: str, *paths: Path) -> Upstream:
    return Upstream(name, "1", tuple(UnixAddress(str(path)) for path in sorted(paths)), 5000, 1000, 2**20)


async def test_a_replica_killed_with_work_under_way_fails_nothing() -> None:
    async with short_folder() as folder:
        first, second = folder / "first", folder / "second"
        async with replica_process(first, "first") as victim, replica_process(second, "second"):
            endpoint = Routing("fraud", Traffic.of({"blue": 100}), None, (deployment("blue", first, second),))
            async with data_plane([endpoint]) as plane:
                assert await plane.xds.applied("fraud", DEADLINE_S) == Acknowledged()
                async with under_load(plane, "fraud", clients=16) as load:
                    await load.more(200)
                    victim.kill()
                    await victim.wait()
                    await load.more(600)


async def test_a_control_plane_that_starts_again_pushes_nothing_and_goes_on_from_there() -> None:
    async with data_plane() as plane:
        blue, green = await plane.replica("blue"), await plane.replica("green")
        upstreams = upstream("blue", blue, max_request_bytes=4 * MAX_BODY_BYTES), upstream("green", green)
        await plane.endpoint("fraud", *upstreams)
        await plane.endpoint("other", upstream("blue", blue))
        async with under_load(plane, "fraud") as load:
            await plane.xds.stop()
            await load.more(50)

            plane.xds = again = xds_server(plane.gateway)
            await again.start(plane.xds_socket)
            again.set_endpoint(routing("other", upstream("blue", blue)))
            assert await again.applied("other", 0.2) == Unconfirmed("no Envoy is connected")
            again.set_endpoint(routing("fraud", *upstreams))
            again.release()
            assert await again.applied("fraud", DEADLINE_S) == Acknowledged()
            await eventually(lambda: again.proxies()[0].is_up_to_date)
            assert again.pushed.resources == {}

            await plane.endpoint("fraud", *upstreams, traffic={"green": 100})
            assert again.pushed.resources == {ROUTES: 1}
            await load.more(50)


async def test_what_changed_while_the_control_plane_was_away_is_caught_up() -> None:
    async with data_plane() as plane:
        blue, green = await plane.replica("blue"), await plane.replica("green")
        await plane.endpoint("changed", upstream("blue", blue))
        await plane.endpoint("deleted", upstream("blue", blue))
        await plane.xds.stop()

        plane.xds = again = xds_server(plane.gateway)
        await again.start(plane.xds_socket)
        again.set_endpoint(routing("changed", upstream("green", green)))
        again.release()
        assert await again.applied("changed", DEADLINE_S) == Acknowledged()
        await eventually(lambda: again.proxies()[0].is_up_to_date)

        assert (await plane.infer("changed")).json()["model_name"] == "green"
        assert (await plane.infer("deleted")).status_code == 404
        clusters = await plane.admin("/clusters")
        assert "deleted/blue" not in clusters
        assert "changed/blue" not in clusters


async def test_an_envoy_that_starts_again_has_everything_before_it_listens() -> None:
    async with data_plane() as plane:
        replica = await plane.replica("blue")
        await plane.endpoint("first", upstream("blue", replica))
        await plane.endpoint("last", upstream("blue", replica))
        plane.envoy.kill()
        await plane.envoy.wait()

        async with started_envoy(process_of(plane.folder), plane.folder / "envoy-again.log"):
            await listening(plane.gateway.http_port)
            assert (await plane.infer("first")).status_code == 200
            assert (await plane.infer("last")).status_code == 200


async def test_the_sockets_are_for_their_owner_only() -> None:
    async with data_plane() as plane:
        for name in ("xds", "admin"):
            assert stat.S_IMODE(os.stat(plane.folder / name).st_mode) == 0o600
