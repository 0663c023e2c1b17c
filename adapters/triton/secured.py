"""Asking a Triton over TLS whether a model is ready: over gRPC, or over HTTPS where a proxy before it speaks that.

Triton's gRPC port says nothing in words of why it refuses a certificate; the handshake does, so it is made once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton
from router.domain.triton_tls import TritonTls


def client_context(tls: TritonTls) -> ssl.SSLContext:
    """Raises `OSError` (of which `ssl.SSLError` is one) when the files cannot be used."""
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.shown:
        context.load_cert_chain(tls.certificate, tls.key)
    return context


@contextlib.asynccontextmanager
async def calls_over_tls(address: TritonAddress, tls: TritonTls) -> AsyncIterator[Any]:
    """The calls of the protocol, on a connection of its own. Raises `OSError` when the files cannot be used."""
    options = (
        ("grpc.ssl_target_name_override", tls.server_name),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
    target = f"{address.ip}:{address.grpc_port}"
    async with grpc.aio.secure_channel(target, _credentials(tls), options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def why_not_ready_over_grpc(
    address: TritonAddress, triton: RunningTriton, tls: TritonTls, timeout_s: float
) -> str:
    """Empty when the model is ready; else a reason for operators."""
    question = service_pb2.ModelReadyRequest(name=triton.model, version=str(triton.version or ""))
    try:
        async with calls_over_tls(address, tls) as calls:
            answer = await calls.ModelReady(question, timeout=timeout_s)
    except OSError as error:
        return unusable(error)
    except grpc.aio.AioRpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return await _why_no_connection(address, tls, timeout_s)
        return f"Triton says of model {triton.model!r}: {error.details()}"
    return "" if answer.ready else f"Triton says of model {triton.model!r}: not ready"


def unusable(error: OSError) -> str:
    return f"the files of triton.tls cannot be used ({error.strerror or error})"


def _credentials(tls: TritonTls) -> Any:
    shown = (Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()) if tls.shown else (None, None)
    return grpc.ssl_channel_credentials(Path(tls.ca).read_bytes(), *shown)


async def _why_no_connection(address: TritonAddress, tls: TritonTls, timeout_s: float) -> str:
    try:
        context = client_context(tls)
    except OSError as error:
        return unusable(error)
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(timeout_s):
            return await _handshake(address, tls.server_name, context)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    except ssl.SSLError as error:
        return f"TLS fails: {_words(error)}"
    except (OSError, TimeoutError) as error:
        return f"no answer ({error or type(error).__name__})"


async def _handshake(address: TritonAddress, name: str, context: ssl.SSLContext) -> str:
    reader, writer = await asyncio.open_connection(address.ip, address.grpc_port, ssl=context, server_hostname=name)
    try:
        # In TLS 1.3 a client's certificate is judged when the client believes that all is well.
        if await reader.read(1):
            return "no answer over gRPC, though TLS is fine"
        return "it hangs up on our certificate"
    except ssl.SSLError as error:
        return f"it refuses our certificate: {_words(error)}"
    except ConnectionError:
        return "it hangs up on our certificate"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
