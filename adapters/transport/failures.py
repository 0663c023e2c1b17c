"""What went wrong on the way to a host, in words that say what to do. httpx's errors are translated here, once."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from router.models.ports import SourceUnavailable
from router.models.settings import Timeouts

# X509_V_ERR_… of OpenSSL's x509_vfy.h
_NOT_YET_VALID, _EXPIRED, _WRONG_NAME = 9, 10, {62, 64}


class ConnectionFailed(SourceUnavailable):
    """`is_passing`: trying again at once may help."""

    def __init__(self, message: str, is_passing: bool) -> None:
        super().__init__(message)
        self.is_passing = is_passing


@dataclass(frozen=True, slots=True)
class Way:
    """How a host is reached. `asked`: its authority; `proxy`: the proxy's URL, or ""."""

    asked: str
    proxy: str

    def __str__(self) -> str:
        return f"{self.asked} (through the proxy {self.proxy})" if self.proxy else self.asked


@contextmanager
def translated(way: Way, timeouts: Timeouts) -> Iterator[None]:
    """Raises `ConnectionFailed` for everything that httpx and the network raise."""
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError, OSError) as error:
        message, is_passing = _words(error, way, timeouts)
        raise ConnectionFailed(f"{way}: {message}", is_passing) from None


def _words(error: Exception, way: Way, timeouts: Timeouts) -> tuple[str, bool]:
    match error:  # first, for what they interrupted is among their causes
        case httpx.ConnectTimeout():
            hint = "" if way.proxy else ", or only through a proxy (`proxy` in registries.yaml)"
            return f"no connection within {timeouts.connect_s:g} s: is it reachable from here{hint}?", True
        case httpx.ReadTimeout() | httpx.WriteTimeout():
            return f"silent for {timeouts.read_s:g} s: try again later, or raise timeouts.read", True
        case httpx.PoolTimeout():
            return "too many connections to it are in use: try again later", True
    causes = list(_causes(error))
    for cause in causes:
        match cause:
            case ssl.SSLCertVerificationError():
                return _certificate_words(cause, way.asked), False
            case ssl.SSLWantReadError():
                continue  # how TLS waits; not what failed
            case ssl.SSLError():
                return _tls_words(cause, way.asked), False
            case socket.gaierror():
                name = "the proxy's name" if way.proxy else "its name"
                is_passing = cause.errno == socket.EAI_AGAIN
                return f"{name} cannot be resolved: check the spelling, and this machine's DNS", is_passing
            case ConnectionRefusedError():
                who = "the proxy refuses connections" if way.proxy else "it refuses connections"
                return f"{who}: is it running, and is the port right?", True
    match error:
        case httpx.ProxyError():
            status = str(error)[:80]  # the proxy's status line
            hint = f"give username and password under hosts, for {way.proxy.partition('://')[2]}"
            if status.startswith(("407", "401")):  # tinyproxy says 401 to a wrong password
                return f"the proxy wants to know who asks: {hint}", False
            return f"the proxy refuses to connect to it ({status}): allow it there, or name the host in no_proxy", False
        case httpx.ConnectError():
            return f"cannot be reached: {_reason(causes)}", True
        case httpx.RemoteProtocolError():
            return "broke off in the middle of its answer, or does not speak HTTP: try again", True
    is_tls = any(isinstance(cause, ssl.SSLError) for cause in causes)
    # With TLS 1.3 a missing certificate is told after the handshake, and the telling may be lost.
    hint = f", or give hosts.{way.asked}.client_certificate and client_key if it wants to see one" if is_tls else ""
    return f"the connection broke ({_reason(causes)}): try again{hint}", True


def _certificate_words(error: ssl.SSLCertVerificationError, asked: str) -> str:
    code = error.verify_code
    if code == _EXPIRED:
        return "its certificate has expired: have it renewed there (and check this machine's clock)"
    if code == _NOT_YET_VALID:
        return "its certificate is not valid yet: check this machine's clock"
    if code in _WRONG_NAME:
        return "its certificate is for another name: ask for the host by the name in the certificate"
    words = error.verify_message or "cannot be verified"
    return f"its certificate is not trusted ({words}): name the authority in hosts.{asked}.ca_bundle, or in ca_bundle"


def _tls_words(error: ssl.SSLError, asked: str) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "hung up while TLS was agreed on: does it speak TLS on this port?"
    reason = (error.reason or "no reason given").replace("_", " ").lower()
    if "wrong version" in reason or "http request" in reason or "record layer" in reason:
        return f"does not speak TLS on this port: check the port, or allow hosts.{asked}.plain_http"
    if "certificate required" in reason or "handshake failure" in reason or "bad certificate" in reason:
        return f"wants a certificate of this machine ({reason}): give hosts.{asked}.client_certificate and client_key"
    return f"TLS failed ({reason})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what led to it, and what those hold together."""
    waiting = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [one.__cause__, one.__context__]


def _reason(causes: list[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return type(causes[0]).__name__
