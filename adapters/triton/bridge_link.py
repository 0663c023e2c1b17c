"""The way from a bridge to one Triton: a channel in clear, or by TLS with what is in the files of `triton.tls` now, and
the token that opens its restricted calls.

A replica is told where these files are, and reads them where it runs: no key and no token passes through Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from adapters.triton.bridge_words import is_restricted, why_not
from adapters.triton.secured import checked_credentials, unusable, why_no_connection
from adapters.triton.tokens import shown_to
from router.certificates import WatchedFiles
from router.domain.triton import RunningTriton, TritonServer
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import BadToken

log = logging.getLogger(__name__)

LONGEST_CALL_S = 120.0  # also without a deadline, as in the warm-up: an engine may be built at its first use
_HANDSHAKE_S = 1.0
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


class Link:
    """`stub` and `infer` (bytes in, bytes out) are there once `renew` has found nothing in the way. Whoever calls them
    gives them `metadata`.

    These three belong to everybody, the rest to one thread at a time.
    """

    def __init__(self, server: TritonServer, triton: RunningTriton) -> None:
        tls = triton.tls
        self._server = server
        self._triton = triton
        self._files = WatchedFiles(*(path for path in (tls.ca, tls.certificate, tls.key) if path) if tls else ())
        self._token_file = WatchedFiles(*((triton.restricted.file,) if triton.restricted else ()))
        self._channel: grpc.Channel | None = None
        self._retired: list[tuple[float, grpc.Channel]] = []  # when its last call has ended; the oldest first
        self._explained: tuple[str, str] = ("", "")
        self.stub: Any = None
        self.infer: Any = None
        self.metadata: tuple[tuple[str, str], ...] | None = None

    @property
    def is_open(self) -> bool:
        return self._channel is not None

    def renew(self) -> str:
        """Open it, or open it anew when there is something new and good in its files. Why there is none; else empty.

        Files that are broken change nothing: what was good before stays.
        """
        self._close_retired(monotonic())
        if self._triton.tls is not None:
            self._take(self._files, self._channel is None, partial(self._open_by_tls, self._triton.tls))
        elif self._channel is None:
            self._open(grpc.insecure_channel(self._target, _OPTIONS))
        if self._triton.restricted is not None:
            self._take(self._token_file, self.metadata is None, self._take_token)
        if self._channel is None:
            return self._files.refused
        return self._token_file.refused if self.metadata is None else ""

    def why_not(self, error: grpc.RpcError) -> str:
        """gRPC says nothing that an operator could use about a handshake that failed: it is made once more, once."""
        words = why_not(error)
        if self._triton.tls is None or error.code() is not grpc.StatusCode.UNAVAILABLE or is_restricted(words):
            return words
        if self._explained[0] != words:
            found = why_no_connection(self._server.host, self._server.grpc_port, self._triton.tls, _HANDSHAKE_S)
            self._explained = (words, found)
        return self._explained[1]

    def close(self) -> None:
        self._close_retired(float("inf"))
        if self._channel is not None:
            self._channel.close()

    @property
    def _target(self) -> str:
        return f"{self._server.host}:{self._server.grpc_port}"

    def _take(self, files: WatchedFiles, is_missing: bool, take: Callable[[], None]) -> None:
        if not files.is_new() and not is_missing:
            return
        try:
            take()
        except (OSError, BadToken) as error:
            # One of several files that are being replaced is no news; but nothing is worse than to be without any.
            if is_missing or files.has_settled:
                before = files.refused
                files.take(str(error))
                if files.refused != before:
                    log.warning("%s: %s", self._target, files.refused)
        else:
            files.take()
            self._explained = ("", "")

    def _open_by_tls(self, tls: TritonTls) -> None:
        try:
            credentials = checked_credentials(tls)
        except OSError as error:
            raise OSError(unusable(error)) from None
        override = ("grpc.ssl_target_name_override", tls.server_name)
        self._open(grpc.secure_channel(self._target, credentials, (*_OPTIONS, override)))

    def _take_token(self) -> None:
        self.metadata = tuple(shown_to(self._triton, is_grpc=True).items())

    def _open(self, channel: grpc.Channel) -> None:
        if self._channel is not None:
            self._retired.append((monotonic() + LONGEST_CALL_S, self._channel))
        self._channel = channel
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        self.infer = channel.unary_unary(_INFER)

    def _close_retired(self, now_s: float) -> None:
        while self._retired and self._retired[0][0] <= now_s:
            self._retired.pop(0)[1].close()
