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
        self._relays: tuple[TlsRelay, ...] = ()  # of the latest Triton

    async def start(self) -> RelayedTriton:
        self._close_relays()  # whoever was here is replaced
        triton = await self._home.start()
        keys, ip = self._certified.keys, self._certified.name.ip
        http, grpc = self._relays = TlsRelay(triton.address.http_port), TlsRelay(triton.address.grpc_port)
        try:
            address = TritonAddress(ip, await http.open(ip, keys.context), await grpc.open(ip, keys.http2_context))
        except OSError as error:
            self._close_relays()
            await triton.end()
            raise ModelUnavailable(f"cannot listen on {ip}: {error.strerror}") from error
        return RelayedTriton(triton, address, self._relays)

    async def close(self) -> None:
        """Whatever became of the Triton: one that drained, or whose start was broken off, nobody has ended."""
        self._certified.close()
        self._close_relays()
        await self._home.close()

    def _close_relays(self) -> None:
        for relay in self._relays:
            relay.close()


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
        self._close()

    async def end(self) -> None:
        self._close()
        await self.triton.end()

    def _close(self) -> None:
        for relay in self.relays:
            relay.close()
