"""One Triton, as a bridge asks it over gRPC."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.triton.bridge_memory import Region
from adapters.triton.bridge_signature import ServedModel, read_model
from adapters.triton.bridge_words import plain_words
from router.domain.triton import RunningTriton, TritonServer

ASK_TIMEOUT_S = 2.0
_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)  # which says nothing about memory
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Never through a proxy from the environment: the servers are this gateway's own.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # Of a name that has several addresses, each is a server.
    ("grpc.lb_policy_name", "round_robin"),
    # One that was away is found again within a second.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def open_channel(server: TritonServer) -> grpc.Channel:
    return grpc.insecure_channel(f"{server.host}:{server.grpc_port}", _OPTIONS)


class Server:
    """`trouble`: why it is not to be asked now. `in_flight`: calls under way. Both belong to the pool.

    Thread-safe. What it raises is `grpc.RpcError`, unless said otherwise.
    """

    def __init__(self, server: TritonServer, triton: RunningTriton) -> None:
        self._triton = triton
        self._version = str(triton.version) if triton.version else ""
        self._host = server.host
        self._name = f"{server.host}:{server.grpc_port}"
        self._channel = open_channel(server)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._infer = self._channel.unary_unary(_INFER)  # bytes in, bytes out
        self._regions: set[str] = set()
        self._unregistering: set[Any] = set()  # a call that nobody holds is cancelled
        self.shares_memory = True  # until it says otherwise
        self.trouble = "it was not asked yet"
        self.in_flight = 0
        self.late = 0

    def __str__(self) -> str:
        return self._name

    def infer(self, request: bytes, timeout_s: float) -> bytes:
        reply: bytes = self._infer(request, timeout=timeout_s)
        return reply

    def ask_ready(self) -> Any:
        """A future of a `ModelReadyResponse`."""
        request = service_pb2.ModelReadyRequest(name=self._triton.model, version=self._version)
        return self._stub.ModelReady.future(request, timeout=ASK_TIMEOUT_S)

    def model(self) -> ServedModel:
        """What it serves now. Raises `ModelUnavailable` too, when no bridge can stand before it."""
        name, version = self._triton.model, self._version
        metadata = self._stub.ModelMetadata(
            service_pb2.ModelMetadataRequest(name=name, version=version), timeout=ASK_TIMEOUT_S
        )
        config = self._stub.ModelConfig(
            service_pb2.ModelConfigRequest(name=name, version=version), timeout=ASK_TIMEOUT_S
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
            self._stub.SystemSharedMemoryRegister(request, timeout=min(within_s, ASK_TIMEOUT_S))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:  # it does, when an earlier try only seemed too late
                self.shares_memory = error.code() in _AWAY
                return False
        self._regions.add(region.name)
        return True

    def unregister(self, region: str) -> None:
        """As far as it can be reached. Nobody but `close` waits for it."""
        self._regions.discard(region)
        request = service_pb2.SystemSharedMemoryUnregisterRequest(name=region)
        call = self._stub.SystemSharedMemoryUnregister.future(request, timeout=ASK_TIMEOUT_S)
        self._unregistering.add(call)
        call.add_done_callback(self._unregistering.discard)

    def was_started_again(self) -> bool:
        """Whether it has forgotten the regions that it knew: so it has, if it ever knew any."""
        if not self._regions:
            return True
        status = self._stub.SystemSharedMemoryStatus(
            service_pb2.SystemSharedMemoryStatusRequest(), timeout=ASK_TIMEOUT_S
        )
        return not self._regions & set(status.regions)

    def forget_regions(self) -> None:
        self._regions.clear()
        self.shares_memory = True

    def close(self) -> None:
        for call in tuple(self._unregistering):
            with contextlib.suppress(grpc.RpcError, grpc.FutureCancelledError):
                call.result()
        self._channel.close()


def _is_one(host: str) -> bool:
    """Of several Tritons behind a name, one would be told of a region and another be asked to use it."""
    try:
        found = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return len({address for *_, address in found}) == 1


def why_not(error: grpc.RpcError) -> str:
    return plain_words(error.details() or "") or error.code().name
