"""What the control plane answers an Envoy that tells of a stream: whoever cannot be judged is refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2

from router.domain.begun_streams import PeerCertificate
from router.domain.callers import CertificateHolders
from router.domain.routing import Routing
from router.domain.tls import BadCertificate
from router.domain.traffic import Traffic
from router.xds.doorkeeper import NOT_ADMITTED
from router.xds.stream_watch import end, go_on
from router.xds.stream_watch_service import StreamWatch
from tests.unit.xds.test_doorkeeper import FakeMemory, FakePeers
from tests.unit.xds.world import upstream

NOW = datetime(2025, 1, 1, tzinfo=UTC)
NAMED = CertificateHolders(("app",))


@dataclass(frozen=True, slots=True)
class FailingPeers(FakePeers):
    fault: Exception

    def read(self, shown: str) -> PeerCertificate:
        raise self.fault


@dataclass(slots=True)
class FakeCall:
    """An Envoy tells of a stream with a certificate, and of its end."""

    answers: list[bytes] = field(default_factory=list)
    left: list[Any] = field(default_factory=lambda: [external_processor_pb2.ProcessingRequest()])

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        told = {"endpoint": "fraud", "terms": "older", "address": "192.0.2.7", "certificate": "A"}
        return tuple((f"x-crossfade-{key}", value) for key, value in told.items())

    async def read(self) -> Any:
        return self.left.pop() if self.left else grpc.aio.EOF

    async def write(self, message: bytes) -> None:
        self.answers.append(message)


async def answers_of(peers: FakePeers) -> list[bytes]:
    watch = StreamWatch(peers, FakeMemory(), lambda: NOW)
    watch.set_endpoint(Routing("fraud", Traffic.of({"blue": 100}), None, (upstream("blue"),), access=NAMED))
    watch.release()
    process = watch.service().service(SimpleNamespace(method="/envoy.service.ext_proc.v3.ExternalProcessor/Process"))
    call = FakeCall()
    await process.stream_stream(None, call)
    watch.close()
    return call.answers


async def test_whoever_is_let_in_is_told_to_go_on() -> None:
    assert await answers_of(FakePeers()) == [go_on()]


@pytest.mark.parametrize("fault", [BadCertificate("cannot be read"), RuntimeError("nobody thought of this")])
async def test_a_fault_of_ours_refuses_the_stream_for_envoy_would_let_it_begin(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert await answers_of(FailingPeers(fault)) == [end(NOT_ADMITTED)]
    assert [record.message for record in caplog.records] == ["stream refused"]
