"""One Triton, as a bridge asks it over gRPC."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import grpc
from tritonclient.grpc import service_pb2

from adapters.triton.bridge_link import Link
from adapters.triton.bridge_memory import Region
from adapters.triton.bridge_signature import ServedModel, read_model
from router.domain.triton import RunningTriton, TritonServer

ASK_TIMEOUT_S = 2.0
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)  # which says nothing about memory


class Server:
    """`trouble`: why it is not to be asked now. `in_flight`: calls under way. Both belong to the pool.

    Thread-safe. What it raises is `grpc.RpcError`, unless said otherwise.
    """

    def __init__(self, server: TritonServer, triton: RunningTriton) -> None:
        self._triton = triton
        self._link = Link(server, triton)
        self._version = str(triton.version) if triton.version else ""
        self._host = server.host
        self._name = f"{server.host}:{server.grpc_port}"
        self._regions: set[str] = set()
        self._unregistering: set[Any] = set()  # a call that nobody holds is cancelled
        self.shares_memory = True  # until it says otherwise
        self.trouble = "it was not asked yet"
        self.in_flight = 0
        self.late = 0

    def __str__(self) -> str:
        return self._name

    def renew(self) -> str:
        """Take what is new in the files of its TLS. Why it cannot be asked at all; empty when it can."""
        return self._link.renew()

    def infer(self, request: bytes, timeout_s: float) -> bytes:
        reply: bytes = self._link.infer(request, timeout=timeout_s, metadata=self._link.metadata)
        return reply

    def ask_ready(self) -> Any:
        """A future of a `ModelReadyResponse`."""
        request = service_pb2.ModelReadyRequest(name=self._triton.model, version=self._version)
        return self._link.stub.ModelReady.future(request, timeout=ASK_TIMEOUT_S, metadata=self._link.metadata)

    def model(self) -> ServedModel:
        """What it serves now. Raises `ModelUnavailable` too, when no bridge can stand before it."""
        name, version = self._triton.model, self._version
        metadata = self._link.stub.ModelMetadata(
            service_pb2.ModelMetadataRequest(name=name, version=version),
            timeout=ASK_TIMEOUT_S,
            metadata=self._link.metadata,
        )
        config = self._link.stub.ModelConfig(
            service_pb2.ModelConfigRequest(name=name, version=version),
            timeout=ASK_TIMEOUT_S,
            metadata=self._link.metadata,
        )
        return read_model(metadata, config.config)

    def register(self, region: Region, within_s: float) -> bool:
        """Whether it knows the region now. One that cannot open it is on another host, or may not."""
        if region.name in self._regions:
            return True
        if not _is_one(self._host):
            self.shares_memory = False
            return False
        request = service_pb2.SystemSharedMemoryRegisterRequest(
            name=region.name, key=region.key, offset=0, byte_size=region.size
        )
        try:
            self._link.stub.SystemSharedMemoryRegister(
                request, timeout=min(within_s, ASK_TIMEOUT_S), metadata=self._link.metadata
            )
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:  # it does, when an earlier try only seemed too late
                self.shares_memory = error.code() in _AWAY
                return False
        self._regions.add(region.name)
        return True

    def unregister(self, region: str) -> None:
        """As far as it can be reached. Nobody but `close` waits for it."""
        self._regions.discard(region)
        if not self._link.is_open:
            return
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=region)
        call = self._link.stub.SystemSharedMemoryUnregister.future(
            request, timeout=ASK_TIMEOUT_S, metadata=self._link.metadata
        )
        self._unregistering.add(call)
        call.add_done_callback(self._unregistering.discard)

    def was_started_again(self) -> bool:
        """Whether it has forgotten the regions that it knew: so it has, if it ever knew any."""
        if not self._regions:
            return True
        status = self._link.stub.SystemSharedMemoryStatus(
            service_pb2.SystemSharedMemoryStatusRequest(), timeout=ASK_TIMEOUT_S, metadata=self._link.metadata
        )
        return not self._regions & set(status.regions)

    def forget_regions(self) -> None:
        self._regions.clear()
        self.shares_memory = True

    def close(self) -> None:
        for call in tuple(self._unregistering):
            with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
                call.result()
        self._link.close()

    def why_not(self, error: grpc.RpcError) -> str:
        """Why it did not answer. May ask it once more how TLS fails."""
        return self._link.why_not(error)


def _is_one(host: str) -> bool:
    """Of several Tritons behind a name, one would be told of a region and another be asked to use it."""
    try:
        found = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return len({address for *_, address in found}) == 1
