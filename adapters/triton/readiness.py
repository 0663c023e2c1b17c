"""Where Tritons are and whether they are ready. Implements `router.tritons.TritonAsker`."""

from __future__ import annotations

import asyncio
import json
import socket

import httpx

from adapters.triton.secured import client_context, unusable, why_not_ready_over_grpc
from adapters.triton.tokens import shown_to
from router.domain.routing import TritonAddress
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_token import BadToken

_TIMEOUT_S = 3.0
_LONGEST_REASON = 200
_HEADERS = {"user-agent": "crossfade"}


class TritonReadiness:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        # Never through a proxy from the environment: the servers are this gateway's own.
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(verify=False),  # plain HTTP: nothing to verify
            timeout=_TIMEOUT_S,
            headers=_HEADERS,
        )

    async def addresses(self, server: TritonServer) -> tuple[TritonAddress, ...]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found = await asyncio.get_running_loop().getaddrinfo(
                    server.host, server.http_port, family=socket.AF_INET, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError, UnicodeError):
            return ()
        ips = sorted({str(address[0]) for *_, address in found})
        return tuple(TritonAddress(ip, server.http_port, server.grpc_port) for ip in ips)

    async def why_not_ready(self, address: TritonAddress, triton: RunningTriton) -> str:
        if triton.tls is None:
            return await _asked(self._client, "http", address, triton, {})
        reason = await why_not_ready_over_grpc(address, triton, triton.tls, _TIMEOUT_S)
        if reason or triton.is_grpc_only:
            return reason
        try:
            transport = httpx.AsyncHTTPTransport(verify=client_context(triton.tls))
        except OSError as error:
            return unusable(error)
        async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S, headers=_HEADERS) as client:
            return await _asked(client, "https", address, triton, {"sni_hostname": triton.tls.server_name})

    async def close(self) -> None:
        await self._client.aclose()


async def _asked(
    client: httpx.AsyncClient, scheme: str, address: TritonAddress, triton: RunningTriton, extensions: dict[str, str]
) -> str:
    url = f"{scheme}://{address.ip}:{address.http_port}{triton.path}/ready"
    try:
        answer = await client.get(url, headers=shown_to(triton, is_grpc=False), extensions=extensions)
    except BadToken as error:
        return str(error)
    except httpx.HTTPError as error:
        return f"no answer ({error or type(error).__name__})"
    if answer.status_code == 200:
        return ""
    return f"Triton says of model {triton.model!r}: {_said(answer)}"


def _said(answer: httpx.Response) -> str:
    try:
        text = str(json.loads(answer.text)["error"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP {answer.status_code}"
    return text[:_LONGEST_REASON]
