"""The ADS server: the streams of all connected Envoys over gRPC on a unix socket. Decides nothing; stream.py does."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from router.domain.listening import Offer
from router.domain.routing import Routing
from router.domain.tls import CertificatePair, ClientTrust, Secret
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken
from router.ports import Acknowledged, Outcome, ProxyStatus, Rejected, Unconfirmed
from router.xds.gateway import Gateway
from router.xds.names import GATEWAY_GROUP, LISTENER, SCOPE, SEND_ORDER, Key, group_of
from router.xds.refusals import Refusals
from router.xds.replica_tls import replica_secrets
from router.xds.revocation import revocation_list
from router.xds.secrets import certificate_secret, trust_secret
from router.xds.snapshot import Snapshot
from router.xds.stream import Stream
from router.xds.stream_watch_service import StreamWatch
from router.xds.upstream_tls import upstream_pair_secret, upstream_secret_keys, upstream_trust_secret
from router.xds.wire import decoded, encoded

log = logging.getLogger(__name__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
# An Envoy whose host vanished without a goodbye is noticed after 15 s.
_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Envoy pings every 10 s (bootstrap.py). A server that counts them hangs up after the fourth one in a row.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # In what Envoy says of a stream is its caller's certificate.
    ("grpc.max_metadata_size", 256 * 1024),
    ("grpc.absolute_max_metadata_size", 256 * 1024),
    ("grpc.so_reuseport", 0),
)

# How long the connections of a listener that is gone still find what it showed.
_LINGER_S = 10.0


@dataclass(slots=True)
class Pushed:
    """What was sent to all Envoys so far, by type URL."""

    resources: Counter[str] = field(default_factory=Counter)
    num_bytes: Counter[str] = field(default_factory=Counter)


class _Connection:
    """One Envoy's stream: its state, and the wish to look at it again."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.proxy = "unknown"
        self.refusals = Refusals()
        self._is_due = asyncio.Event()
        self._trying: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        self._is_due.set()

    def listeners_answered(self) -> None:
        """Those that it refused are tried again (refusals.py)."""
        if not any(key.type_url == LISTENER for key in self.stream.rejections()):
            self.refusals.forget()
            self.close()
        elif self._trying is None:
            self._trying = asyncio.get_running_loop().call_later(self.refusals.next_pause_s(), self._try_again)

    def listeners_changed(self) -> None:
        """What it refused before is news again, and tried again soon."""
        self.refusals.forget()
        self.close()
        self.listeners_answered()

    def close(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            self._trying = None

    def _try_again(self) -> None:
        self._trying = None
        self.stream.try_again(LISTENER)
        self.wake()

    async def due(self) -> None:
        await self._is_due.wait()
        self._is_due.clear()


class XdsServer:
    """Implements `router.ports.DataPlane`.

    It begins on hold: Envoys may connect, and are told nothing until `release`, which is called when the configuration
    of every endpoint was set. A control plane that starts again therefore never empties an Envoy.

    What changes who is let in, the `watch` of begun streams is told as well.
    """

    def __init__(self, gateway: Gateway, watch: StreamWatch) -> None:
        self._snapshot = Snapshot(gateway)
        self._watch = watch
        self._connections: set[_Connection] = set()
        self._released = asyncio.Event()
        self._progress = asyncio.Event()  # replaced each time it is set
        self._server: Any = None
        self._forgetting: asyncio.TimerHandle | None = None
        self._triton_secrets: frozenset[Key] = frozenset()
        self.pushed = Pushed()

    async def start(self, socket_path: str, *services: Any) -> None:
        """Listen on a unix socket that only this user may open. Raises `OSError` when it cannot be made.

        `services`: gRPC handlers of what else Envoys may call there.
        """
        _remove_stale(socket_path)
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve, request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": handler}),
                self._watch.service(),
                *services,
            ]
        )
        with _only_for_me():
            try:
                server.add_insecure_port(f"unix:{socket_path}")
            except RuntimeError as error:
                raise OSError(f"cannot listen on {socket_path}: {error}") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Close every stream. Envoys keep their configuration and connect again to whoever comes next."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._watch.close()
        if self._server is not None:
            await self._server.stop(grace=None)  # streams never end by themselves
            self._server = None

    def release(self) -> None:
        """Answer the Envoys from now on."""
        self._watch.release()
        self._released.set()

    # -- DataPlane

    def set_endpoint(self, routing: Routing) -> None:
        self._changed(self._snapshot.set_endpoint(routing))
        self._recede()
        self._watch.set_endpoint(routing)

    def remove_endpoint(self, name: str) -> None:
        self._changed(self._snapshot.remove_endpoint(name))
        self._recede()
        self._watch.remove_endpoint(name)

    def set_certificate(self, index: int, pair: CertificatePair) -> None:
        """Implements `router.certificates.Secrets`, as the next does."""
        self._changed(self._snapshot.set_secret(certificate_secret(index, pair)))

    def set_client_trust(self, trust: ClientTrust) -> None:
        self._changed(self._snapshot.set_secret(trust_secret(trust)))
        self._changed(self._snapshot.set_secret(revocation_list(trust)))
        self._watch.set_client_trust(trust)

    def set_listeners(self, offers: tuple[Offer, ...]) -> None:
        self._changed(self._snapshot.set_listeners(offers))
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(_LINGER_S, self._forget_listeners)

    def _forget_listeners(self) -> None:
        self._forgetting = None
        self._changed(self._snapshot.forget_listeners())

    def set_triton_certificate(self, tls: TritonTls, pair: CertificatePair) -> None:
        """Implements `router.triton_certificates.Secrets`, as the next two do."""
        self._changed(self._snapshot.set_secret(upstream_pair_secret(tls, pair)))

    def set_triton_trust(self, tls: TritonTls, trust: ClientTrust) -> None:
        self._changed(self._snapshot.set_secret(upstream_trust_secret(tls, trust)))

    def keep_triton_secrets(self, wanted: Iterable[TritonTls]) -> None:
        """Forget those of all others."""
        kept = frozenset(key for tls in wanted for key in upstream_secret_keys(tls))
        self._changed(self._snapshot.remove_secrets(self._triton_secrets - kept))
        self._triton_secrets = kept

    def set_replica_tls(self, pair: CertificatePair, trust: ClientTrust) -> None:
        """Implements `router.replica_certificates.Secrets`."""
        for secret in replica_secrets(pair, trust):
            self._changed(self._snapshot.set_secret(secret))

    def set_triton_token(self, token: TritonToken, value: Secret) -> None:
        """Implements `router.triton_tokens.TokenKeeper`, as the next does."""
        self._changed(self._snapshot.set_token(token, value))

    def keep_triton_tokens(self, wanted: Iterable[TritonToken]) -> None:
        self._snapshot.keep_tokens(wanted)

    async def applied(self, endpoint: str, timeout_s: float) -> Outcome:
        try:
            async with asyncio.timeout(timeout_s):
                while (outcome := self._outcome(endpoint)) is None:
                    await self._progress.wait()
        except TimeoutError:
            return self._explain(endpoint, timeout_s)
        return outcome

    def proxies(self) -> tuple[ProxyStatus, ...]:
        return tuple(
            ProxyStatus(
                proxy=connection.proxy,
                is_up_to_date=connection.stream.is_up_to_date,
                rejected=tuple((key.name, reason) for key, reason in sorted(connection.stream.rejections().items())),
            )
            for connection in self._ordered()
        )

    # -- outcomes

    def _outcome(self, endpoint: str) -> Outcome | None:
        """None: not known yet."""
        if not self._connections:
            return None
        for connection in self._ordered():
            if rejected := _rejection(connection, endpoint):
                return rejected
        return Acknowledged() if all(_is_settled(c.stream, endpoint) for c in self._connections) else None

    def _explain(self, endpoint: str, timeout_s: float) -> Outcome:
        if not self._connections:
            return Unconfirmed("no Envoy is connected")
        for connection in self._ordered():
            if rejected := _rejection(connection, GATEWAY_GROUP):
                return rejected
        silent = [c.proxy for c in self._ordered() if not _is_settled(c.stream, endpoint)]
        return Unconfirmed(f"no answer within {timeout_s:g} s from {', '.join(silent)}")

    def _recede(self) -> None:
        """There need not be more room than what is in force needs (room.py)."""
        for name in self._snapshot.receding:
            if self._outcome(name) == Acknowledged():
                self._changed(self._snapshot.recede(name))

    def _ordered(self) -> list[_Connection]:
        return sorted(self._connections, key=lambda connection: connection.proxy)

    # -- streams

    def _changed(self, keys: frozenset[Key]) -> None:
        if not keys:
            return
        has_new_listeners = any(key.type_url == LISTENER for key in keys)
        for connection in self._connections:
            connection.stream.changed(keys)
            if has_new_listeners:
                connection.listeners_changed()
            connection.wake()

    async def _serve(self, _requests: Any, context: Any) -> None:
        await self._released.wait()
        connection = _Connection(Stream(self._snapshot.wanted))
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(connection, context))
                await self._read(connection, context)
                writer.cancel()
        finally:
            connection.close()
            self._connections.discard(connection)
            self._advanced()
            log.info("envoy disconnected", extra={"proxy": connection.proxy})

    async def _read(self, connection: _Connection, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            if message.node.id and message.node.id != connection.proxy:
                connection.proxy = message.node.id
                log.info("envoy connected", extra={"proxy": connection.proxy})
            if message.type_url not in SEND_ORDER:
                log.warning("envoy asks for what is not served", extra={"type_url": message.type_url})
                continue
            request = decoded(message)
            is_about_listeners = request.type_url == LISTENER
            if request.error is not None and (not is_about_listeners or connection.refusals.is_news(request.error)):
                log.error("envoy rejected", extra={"proxy": connection.proxy, "reason": request.error})
            connection.stream.receive(request)
            self._advanced()
            connection.wake()
            if is_about_listeners:
                connection.listeners_answered()

    async def _write(self, connection: _Connection, context: Any) -> None:
        """One writer a stream: a slow Envoy delays only itself, and finds the changes since then merged."""
        while True:
            await connection.due()
            for response in connection.stream.responses():
                message = encoded(response)
                self.pushed.resources[response.type_url] += len(response.resources) + len(response.removed)
                self.pushed.num_bytes[response.type_url] += len(message)
                await context.write(message)
            self._advanced()

    def _advanced(self) -> None:
        self._recede()
        self._progress.set()
        self._progress = asyncio.Event()


def _is_settled(stream: Stream, group: str) -> bool:
    """What listeners show is said by scopes of the endpoints."""
    return stream.is_settled(group) and (group != GATEWAY_GROUP or stream.has_answered(SCOPE))


def _rejection(connection: _Connection, group: str) -> Rejected | None:
    for key, reason in sorted(connection.stream.rejections().items()):
        if group_of(key) == group:
            return Rejected(connection.proxy, reason)
    return None


def _remove_stale(socket_path: str) -> None:
    """A socket whose server was killed stays behind and cannot be bound again."""
    Path(socket_path).unlink(missing_ok=True)


@contextmanager
def _only_for_me() -> Iterator[None]:
    """Files and sockets made inside have mode 0600 from the first moment."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
