"""Asking a Triton over TLS whether a model is ready: over gRPC, or over HTTPS where a proxy before it speaks that.

Triton's gRPC port says nothing in words of why it refuses a certificate; the handshake does, so it is made once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from adapters.triton.bridge_words import is_restricted
from adapters.triton.tokens import shown_to
from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import BadToken


def client_context(tls: TritonTls) -> ssl.SSLContext:
    """Raises `OSError` (of which `ssl.SSLError` is one) when the files cannot be used."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except OSError as error:
        raise OSError(f"{tls.ca}: {_words(error)}") from None
    if tls.shown:
        _show(context, tls)
    return context


def _show(context: ssl.SSLContext, tls: TritonTls) -> None:
    is_asked_for = False

    def no_passphrase() -> str:  # without it, OpenSSL would ask at the terminal
        nonlocal is_asked_for
        is_asked_for = True
        return ""

    try:
        context.load_cert_chain(tls.certificate, tls.key, no_passphrase)
    except OSError as error:
        if is_asked_for:
            raise OSError(f"{tls.key} is encrypted: a key without a passphrase is needed") from None
        raise OSError(f"{tls.certificate}, {tls.key}: {_words(error)}") from None


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
        shown = tuple(shown_to(triton, is_grpc=True).items())
        async with calls_over_tls(address, tls) as calls:
            answer = await calls.ModelReady(question, metadata=shown, timeout=timeout_s)
    except BadToken as error:
        return str(error)
    except OSError as error:
        return unusable(error)
    except grpc.aio.AioRpcError as error:
        is_away = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        if is_away and not is_restricted(error.details() or ""):
            return await asyncio.to_thread(why_no_connection, address.ip, address.grpc_port, tls, timeout_s)
        return f"Triton says of model {triton.model!r}: {error.details()}"
    return "" if answer.ready else f"Triton says of model {triton.model!r}: not ready"


def unusable(error: OSError) -> str:
    return f"the files of triton.tls cannot be used: {error.strerror or error}"


def checked_credentials(tls: TritonTls) -> grpc.ChannelCredentials:
    """Raises `OSError` when the files cannot be used, which gRPC itself tells nobody."""
    client_context(tls)
    return _credentials(tls)


def _credentials(tls: TritonTls) -> grpc.ChannelCredentials:
    shown = (Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()) if tls.shown else (None, None)
    return grpc.ssl_channel_credentials(Path(tls.ca).read_bytes(), *shown)


def why_no_connection(host: str, port: int, tls: TritonTls, timeout_s: float) -> str:
    """Why there is no connection over gRPC, in words for operators. Blocks, for a few times `timeout_s` at most."""
    try:
        context = client_context(tls)
    except OSError as error:
        return unusable(error)
    context.set_alpn_protocols(["h2"])
    try:
        return _handshake(host, port, tls.server_name, context, timeout_s)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    except ssl.SSLError as error:
        return f"TLS fails: {_words(error)}"
    except OSError as error:
        return f"no answer ({error or type(error).__name__})"


def _handshake(host: str, port: int, name: str, context: ssl.SSLContext, timeout_s: float) -> str:
    with (
        socket.create_connection((host, port), timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        # In TLS 1.3 a client's certificate is judged when the client believes that all is well.
        try:
            if secured.recv(1):
                return "no answer over gRPC, though TLS is fine"
            return "it hangs up on our certificate"
        except ssl.SSLError as error:
            return f"it refuses our certificate: {_words(error)}"
        except ConnectionError:
            return "it hangs up on our certificate"


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).lower().replace("_", " ")
    return (error.strerror or str(error)).lower()
