"""Tritons of a replica whose Envoy is on another host: they stay on loopback, and Envoy reaches them over TLS.

Triton's HTTP port has no TLS, and its gRPC port takes new certificates only when it starts. So requests pass through
this process, as bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.domain.errors import ModelUnavailable
from router.domain.routing import TritonAddress
from serving.certified import CertifiedReplica
from serving.load import WorkDone
from serving.tls_relay import TlsRelay
from serving.triton_ports import Ending, RunningTriton, TritonHome


class RelayedHome:
    """Implements `TritonHome` over one whose Tritons listen on loopback."""

    def __init__(self, home: TritonHome, certified: CertifiedReplica) -> None:
        self._home = home
        self._certified = certified

    async def start(self) -> RelayedTriton:
        triton = await self._home.start()
        keys, ip = self._certified.keys, self._certified.name.ip
        http, grpc = TlsRelay(triton.address.http_port), TlsRelay(triton.address.grpc_port)
        try:
            address = TritonAddress(ip, await http.open(ip, keys.context), await grpc.open(ip, keys.http2_context))
        except OSError as error:
            http.close()
            await triton.end()
            raise ModelUnavailable(f"cannot listen on {ip}: {error.strerror}") from error
        return RelayedTriton(triton, address, (http, grpc))

    async def close(self) -> None:
        self._certified.close()
        await self._home.close()


@dataclass(frozen=True, slots=True)
class RelayedTriton:
    """Implements `RunningTriton`."""

    triton: RunningTriton
    address: TritonAddress
    relays: tuple[TlsRelay, ...]

    async def loaded(self) -> None:
        await self.triton.loaded()

    async def why_not_ready(self) -> str:
        return await self.triton.why_not_ready()

    async def work_done(self) -> WorkDone:
        return await self.triton.work_done()

    async def ended(self) -> Ending:
        return await self.triton.ended()

    async def drain(self) -> None:
        await self.triton.drain()

    async def end(self) -> None:
        for relay in self.relays:
            relay.close()
        await self.triton.end()
