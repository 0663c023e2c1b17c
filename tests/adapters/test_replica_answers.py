"""Records of answers over a replica's real listener."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.replica_answers import ReplicaAnswers
from router.agreement.ports import ReplicaSilent
from router.domain.routing import TcpAddress, UnixAddress
from serving.answers import Answer
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse, Reply
from serving.listener import Listener
from serving.sampling import Order
from tests.internal_ca import certified, client_of, client_without_tls, internal_ca
from tests.unit.serving.scripted_model import ScriptedModel, handler_of, infer, x

ORDER = Order(1.0, 60.0, 0, has_repeats=False)
MARKED = {b"x-crossfade-mirrored": b"1", b"x-request-id": b"r-1"}


@contextlib.asynccontextmanager
async def listening(handler: Handler, token: bytes = b"the-token") -> AsyncIterator[Listener]:
    listener = Listener(handler, token, max_body_bytes=1024)
    try:
        yield listener
    finally:
        await listener.close(grace_s=1.0)


@pytest.mark.parametrize("is_unix", [True, False])
async def test_a_replica_is_ordered_to_sample_and_hands_out_its_records(tmp_path: Path, is_unix: bool) -> None:
    handler = handler_of(ScriptedModel())
    ca = internal_ca()
    source = ReplicaAnswers(client_of(ca, "the-token"))
    async with listening(handler) as listener:
        if is_unix:
            address: UnixAddress | TcpAddress = UnixAddress(str(tmp_path / "s"))
            await listener.open_unix(address.path)
        else:
            address = TcpAddress("127.0.0.1", await listener.open_tcp("127.0.0.1", tls=certified(ca).context))
        assert (await source.collect(address, ORDER)).records == ()
        infer(handler, x(), MARKED)

        batch = await source.collect(address, ORDER)

    (sampled,) = batch.records
    assert isinstance(sampled.record, Answer)
    assert sampled.record.key.request_id == "r-1"
    assert sampled.age_s >= 0


async def test_whoever_does_not_know_the_token_gets_nothing(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    async with listening(handler_of(ScriptedModel())) as listener:
        await listener.open_unix(address.path)

        with pytest.raises(ReplicaSilent, match="403"):
            await ReplicaAnswers(client_without_tls("another-token")).collect(address, ORDER)


async def test_a_replica_that_is_gone_or_speaks_another_format_is_silent(tmp_path: Path) -> None:
    def other_format(request: HttpRequest, reply: Reply) -> Cancel | None:
        reply(HttpResponse(200, [], [b'{"records": 3}']))
        return None

    source = ReplicaAnswers(client_without_tls("the-token"))
    address = UnixAddress(str(tmp_path / "s"))
    with pytest.raises(ReplicaSilent, match="gives no samples"):
        await source.collect(address, ORDER)

    async with listening(other_format) as listener:
        await listener.open_unix(address.path)
        with pytest.raises(ReplicaSilent, match="not a batch"):
            await source.collect(address, ORDER)
