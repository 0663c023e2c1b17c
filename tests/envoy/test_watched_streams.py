"""Streams that have begun end when their callers are no longer let in, in a real Envoy before a whole replica."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.certificates import PemFiles
from adapters.key_sets import parsed_key_set
from router.certificates import Certificates
from router.domain.callers import Access, CertificateHolders, KeyHolders, KeySlot, TokenHolders
from router.domain.listening import Clients
from router.domain.routing import Shield, UnixAddress, Upstream
from router.domain.tls import CertificateFiles, ListenerTls
from router.domain.tokens import KeySetFile, TokenRules
from router.domain.traffic import Mirror
from router.events import EventLog
from router.keys import hashed, new_key
from router.waiting_room import WaitingRoom
from router.xds.doorkeeper import NOT_ADMITTED
from tests.certificates import TestCa
from tests.envoy.data_plane import EVERYBODY, DataPlane, data_plane, routing, xds_server
from tests.envoy.replica import MAX_BODY_BYTES, TOKEN
from tests.envoy.test_client_certificates import take_over
from tests.envoy.test_meter import counted
from tests.envoy.test_streams import answer, blue, end, replica_of, request
from tests.envoy.test_waiting_room import sleeper
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.identity import AUDIENCE, ISSUER, Provider, SigningKey, key_set

pytestmark = pytest.mark.asyncio(loop_scope="module")

Call = grpc.aio.StreamStreamCall
KEY, OTHER_KEY = new_key(), new_key()
PROVIDER, OTHER_PROVIDER = Provider(SigningKey("k1")), Provider(SigningKey("k2"))
WATCHED, ASKED = "cluster.watch.upstream_rq_active", "cluster.watch.upstream_rq_total"
# Envoy has begun its reply, and can only reset the stream.
RESET = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED)


def holders(*keys: str) -> KeyHolders:
    return KeyHolders(tuple((slot, hashed(key)) for slot, key in zip(KeySlot, keys, strict=False)))


def token_holders(*keys: SigningKey) -> TokenHolders:
    rules = TokenRules(ISSUER, KeySetFile("/keys.json"), (AUDIENCE,), clock_skew_s=1)
    return TokenHolders(rules, parsed_key_set("keys.json", key_set(*keys).encode()).content)


@dataclass(slots=True)
class Streams:
    """One replica behind the endpoint `locked`, whose access each test sets."""

    plane: DataPlane
    ca: TestCa
    address: UnixAddress
    exits: contextlib.AsyncExitStack

    async def let_in(self, access: Access, clients: Clients | None = None) -> None:
        await self.plane.endpoint("locked", blue(self.address), access=access, clients=clients or Clients())

    def channel(self, client: CertificateFiles | None = None) -> grpc.aio.Channel:
        if self.plane.gateway.tls is None:
            return grpc.aio.insecure_channel(self.plane.grpc_address)
        shown = [self.ca.key(client), self.ca.chain(client)] if client else [None, None]
        credentials = grpc.ssl_channel_credentials(self.ca.file.read_bytes(), *shown)
        return grpc.aio.secure_channel(f"localhost:{self.plane.gateway.grpc_port}", credentials)

    async def opened(
        self, key: str = "", token: str = "", client: CertificateFiles | None = None, endpoint: str = "locked"
    ) -> Call:
        """A stream on a connection of its own, that was asked something."""
        channel = await self.exits.enter_async_context(self.channel(client))
        metadata = [("x-api-key", key)] if key else []
        metadata += [("authorization", f"Bearer {token}")] if token else []
        return await opened_on(channel, metadata, endpoint)

    async def begun(self, key: str = "", token: str = "", client: CertificateFiles | None = None) -> Call:
        """Such a stream that was answered."""
        call = await self.opened(key, token, client)
        assert answer(await call.read()) == ("first", "", [2.0])
        return call

    async def watched(self) -> int:
        return await self.plane.stat(WATCHED)


async def opened_on(channel: grpc.aio.Channel, metadata: list[tuple[str, str]], endpoint: str = "locked") -> Call:
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    call = stub.ModelStreamInfer(timeout=4 * DEADLINE_S, metadata=metadata)
    await call.write(request(endpoint, "first", 1))
    return call


async def goes_on(call: Call) -> None:
    await call.write(request("locked", "again", 2))
    assert answer(await call.read()) == ("again", "", [4.0])


async def is_ended(call: Call) -> None:
    assert (await end(call))[0] in RESET


async def is_refused(call: Call) -> None:
    assert (await end(call))[0] in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


@pytest.fixture(scope="module")
def plane(plane_for_certificates: DataPlane) -> DataPlane:
    return plane_for_certificates


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(plane: DataPlane) -> AsyncIterator[UnixAddress]:
    async with contextlib.AsyncExitStack() as exits:
        yield (await replica_of(plane, "locked", "blue", exits))[1]


@pytest_asyncio.fixture(loop_scope="module")
async def streams(plane: DataPlane, ca: TestCa, address: UnixAddress) -> AsyncIterator[Streams]:
    async with contextlib.AsyncExitStack() as exits:
        yield Streams(plane, ca, address, exits)
    await eventually(lambda: plane.stat(WATCHED), 0)


async def test_a_revoked_key_ends_its_streams_and_another_keys_go_on(streams: Streams) -> None:
    await streams.let_in(holders(KEY, OTHER_KEY))
    revoked, kept = await streams.begun(KEY), await streams.begun(OTHER_KEY)
    await eventually(streams.watched, 2)
    await streams.let_in(KeyHolders(((KeySlot.SECONDARY, hashed(OTHER_KEY)),)))
    await is_ended(revoked)
    await goes_on(kept)
    await is_refused(await streams.opened(KEY))
    upstream_active = "cluster.locked/blue.upstream_rq_active"
    await eventually(lambda: streams.plane.stat(upstream_active), 1)  # the replica has been told
    await kept.done_writing()
    assert (await end(kept))[0] is grpc.StatusCode.OK


async def test_what_is_ended_is_not_the_deployments_failure(streams: Streams) -> None:
    plane = streams.plane
    own = blue((await replica_of(plane, "counted", "blue", streams.exits))[1])
    for key, next_key in ((KEY, OTHER_KEY), (OTHER_KEY, KEY)):
        await plane.endpoint("counted", own, access=holders(key))
        call = await streams.opened(key, endpoint="counted")
        assert answer(await call.read()) == ("first", "", [2.0])
        await plane.endpoint("counted", own, access=holders(next_key))
        await is_ended(call)
    call = await streams.opened(KEY, endpoint="counted")
    assert answer(await call.read()) == ("first", "", [2.0])
    call.cancel()  # as little as when a client goes away
    assert (await counted(plane.meter, "counted", 3))["blue"].errors == 0


async def test_before_anything_was_answered_the_reason_is_said(streams: Streams) -> None:
    room = WaitingRoom(streams.plane.folder, TOKEN)
    try:
        door = await room.open(sleeper("asleep", 10, 60), lambda _: None)
        held = Upstream("blue", "1", (door,), 60_000, 1000, MAX_BODY_BYTES, is_held=True)
        await streams.plane.endpoint("asleep", held, access=holders(KEY))
        call = await streams.opened(KEY, endpoint="asleep")
        await eventually(streams.watched, 1)
        await streams.plane.endpoint("asleep", held, access=holders(OTHER_KEY))
        assert await end(call) == (grpc.StatusCode.UNAUTHENTICATED, NOT_ADMITTED)
    finally:
        await room.close()


@pytest.mark.parametrize("blue_percent", [0, 50])
async def test_streams_end_in_the_middle_of_a_rollout_too(streams: Streams, blue_percent: int) -> None:
    green = Upstream("green", "1", (streams.address,), 5000, 1000, MAX_BODY_BYTES)
    upstreams, traffic = (blue(streams.address), green), {"blue": blue_percent, "green": 100 - blue_percent}
    shield = Shield("green", "blue")
    mirror = None if blue_percent else Mirror("blue", 100)
    await streams.plane.endpoint(
        "locked", *upstreams, traffic=traffic, shield=shield, mirror=mirror, access=holders(KEY, OTHER_KEY)
    )
    revoked, kept = [await streams.begun(KEY) for _ in range(8)], await streams.begun(OTHER_KEY)
    await eventually(streams.watched, 9)
    only_other = KeyHolders(((KeySlot.SECONDARY, hashed(OTHER_KEY)),))
    await streams.plane.endpoint("locked", *upstreams, traffic=traffic, shield=shield, mirror=mirror, access=only_other)
    for call in revoked:
        await is_ended(call)
    await goes_on(kept)


async def test_streams_end_with_their_endpoint(streams: Streams) -> None:
    await streams.let_in(holders(KEY))
    call = await streams.begun(KEY)
    streams.plane.xds.remove_endpoint("locked")
    await is_ended(call)


async def test_streams_of_addresses_that_are_denied_end(streams: Streams) -> None:
    await streams.let_in(EVERYBODY, Clients(allow=("127.0.0.0/8", "::1/128")))
    call = await streams.begun()
    await streams.let_in(EVERYBODY, Clients(deny=("127.0.0.0/8", "::1/128")))
    await is_ended(call)


async def test_a_revoked_certificate_ends_its_streams_and_anothers_go_on(streams: Streams) -> None:
    ca = streams.ca
    leaver, stayer = ca.client("leaver", ["app.example"]), ca.client("stayer", ["spiffe://bank/app"])
    await streams.let_in(CertificateHolders(("app.example", "spiffe://bank/app")))
    revoked, kept = await streams.begun(client=leaver), await streams.begun(client=stayer)
    ca.revoke("leaver")
    await take_over(streams.plane)
    await is_ended(revoked)
    await goes_on(kept)
    await streams.let_in(CertificateHolders(("app.example",)))
    await is_ended(kept)
    ca.revoke()
    await take_over(streams.plane)


async def test_streams_end_when_the_ca_of_their_certificates_is_replaced(streams: Streams) -> None:
    plane, ca = streams.plane, streams.ca
    await streams.let_in(CertificateHolders(("app.example",)))
    call = await streams.begun(client=ca.client("app", ["app.example"]))
    own, lists = ca.file.read_bytes(), ca.folder / "crl.pem"
    (ca.folder / "new").mkdir()
    new = TestCa.in_folder(ca.folder / "new", "another CA")
    own_list, new_list = lists.read_bytes(), new.revoke().read_bytes()
    try:
        lists.write_bytes(own_list + new_list)
        ca.file.write_bytes(own + new.file.read_bytes())
        await take_over(plane)
        await goes_on(call)
        ca.file.write_bytes(new.file.read_bytes())
        await take_over(plane)
        await is_ended(call)
    finally:
        lists.write_bytes(own_list)
        ca.file.write_bytes(own)
        await take_over(plane)


async def test_a_ca_that_was_taken_out_lets_nobody_begin_on_an_old_connection_of_a_new_control_plane(
    address: UnixAddress, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    ca, new, bundle = TestCa.in_folder(tmp_path), TestCa.in_folder(tmp_path / "new", "another CA"), tmp_path / "bundle"
    bundle.write_bytes(ca.file.read_bytes() + new.file.read_bytes())
    tls, access = ListenerTls((ca.server("server"),), str(bundle)), CertificateHolders(("app.example",))
    async with data_plane(tls=tls, authority=ca.file) as plane, contextlib.AsyncExitStack() as exits:
        streams = Streams(plane, ca, address, exits)
        await streams.let_in(access)
        old, kept = [
            await exits.enter_async_context(streams.channel(one.client("app", ["app.example"]))) for one in (ca, new)
        ]
        begun = [await opened_on(channel, []) for channel in (old, kept)]
        for call in begun:
            assert answer(await call.read()) == ("first", "", [2.0])
        bundle.write_bytes(new.file.read_bytes())
        await take_over(plane)
        await is_ended(begun[0])
        await goes_on(begun[1])
        await plane.xds.stop()
        await eventually(streams.watched, 0)

        plane.xds = xds_server(plane.gateway)
        plane.xds.set_endpoint(routing("locked", blue(address), access=access))
        plane.certificates = Certificates(tls, PemFiles(), plane.xds, EventLog(lambda: datetime.now(UTC)))
        plane.certificates.look()
        await plane.xds.start(plane.xds_socket)
        plane.xds.release()
        await eventually(lambda: plane.xds.proxies() and plane.xds.proxies()[0].is_up_to_date)
        await is_refused(await opened_on(old, []))
        assert answer(await (await opened_on(kept, [])).read()) == ("first", "", [2.0])


async def soon_expiring(streams: Streams) -> Call:
    """A stream that has begun with such a token, however long that takes here."""
    for life_s in (2, 5, 15):
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await streams.begun(token=PROVIDER.token(exp=int(time.time()) + life_s))
    raise AssertionError("no token lives long enough to begin a stream")


async def test_an_expired_token_ends_its_streams(streams: Streams) -> None:
    await streams.let_in(token_holders(PROVIDER.key))
    kept = await streams.begun(token=PROVIDER.token())
    expiring = await soon_expiring(streams)
    await is_ended(expiring)
    await eventually(streams.watched, 1)
    await goes_on(kept)


async def test_a_key_that_its_provider_withdraws_ends_the_streams_of_its_tokens(streams: Streams) -> None:
    await streams.let_in(token_holders(PROVIDER.key, OTHER_PROVIDER.key))
    withdrawn = await streams.begun(token=PROVIDER.token())
    kept = await streams.begun(token=OTHER_PROVIDER.token())
    await streams.let_in(token_holders(OTHER_PROVIDER.key, SigningKey("k3")))
    await is_ended(withdrawn)
    await goes_on(kept)


async def test_streams_need_no_control_plane(address: UnixAddress, ca: TestCa) -> None:
    async with data_plane() as plane, contextlib.AsyncExitStack() as exits:
        streams = Streams(plane, ca, address, exits)
        await streams.let_in(holders(KEY))
        begun = await streams.begun(KEY)
        await plane.xds.stop()
        await eventually(streams.watched, 0)
        await goes_on(begun)
        meanwhile = await streams.begun(KEY)

        plane.xds = xds_server(plane.gateway)
        plane.xds.set_endpoint(routing("locked", blue(address), access=holders(KEY)))
        await plane.xds.start(plane.xds_socket)
        plane.xds.release()
        await goes_on(meanwhile)
        await goes_on(begun)
        await eventually(lambda: plane.xds.proxies() and plane.xds.proxies()[0].is_up_to_date)
        later = await streams.begun(KEY)
        await streams.let_in(holders(OTHER_KEY))
        await is_ended(later)
        await goes_on(begun)


async def test_other_requests_and_open_endpoints_are_not_told_of(streams: Streams) -> None:
    before = await streams.plane.stat(ASKED)
    await streams.let_in(holders(KEY))
    stub = service_pb2_grpc.GRPCInferenceServiceStub(await streams.exits.enter_async_context(streams.channel()))
    metadata = (("x-api-key", KEY),)
    await stub.ModelInfer(request("locked", "1", 1), timeout=DEADLINE_S, metadata=metadata)
    await stub.ModelReady(service_pb2.ModelReadyRequest(name="locked"), timeout=DEADLINE_S, metadata=metadata)
    reply = await streams.plane.http.get("/v2/models/locked/ready", headers={"x-api-key": KEY})
    assert reply.status_code == 200
    await streams.let_in(EVERYBODY)
    await streams.begun()
    assert await streams.plane.stat(ASKED) == before
    await streams.let_in(holders(KEY))
    await streams.begun(KEY)
    assert await streams.plane.stat(ASKED) == before + 1
