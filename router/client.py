"""The admin API from the caller's side: what the CLI and other tools use. Replies are plain JSON values."""

from __future__ import annotations

import getpass
import ipaddress
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote, urlsplit

import httpx

from router.domain.errors import CrossfadeError
from router.trust import is_https, tls_fault

_CONNECT_TIMEOUT_S = 5.0
_REPLY_TIMEOUT_S = 120.0  # applying hashes the models first
_VERIFY_TIMEOUT_S = 3600.0
_STREAM_TIMEOUT = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)  # models may be large, and are hashed
_STREAM_BYTES = 1024 * 1024
_MAX_CALLER_LENGTH = 64

UNIX = "unix:"  # what the URL of a socket begins with

Json = dict[str, Any]


class Unreachable(CrossfadeError):
    """Nobody who speaks the admin API answers, or there is no token to ask with."""


class LocalFile(CrossfadeError):
    """A file on the caller's side that cannot be read or written."""


class Refused(CrossfadeError):
    """The control plane said no. `code` is its stable word, `status` is HTTP's, `facts` is the whole error object."""

    def __init__(self, status: int, facts: Json) -> None:
        self.status = status
        self.code = str(facts.get("code", ""))
        self.hint = str(facts.get("hint", ""))
        self.facts = facts
        super().__init__(str(facts.get("message", f"HTTP {status}")))


def find_token(token_file: str | None, data_dir: str) -> str:
    """The admin token: from `token_file`, else CROSSFADE_TOKEN, else `<data_dir>/admin.token`. Raises `Unreachable`."""
    if token_file is None and (token := os.environ.get("CROSSFADE_TOKEN", "").strip()):
        return token
    path = Path(token_file) if token_file is not None else Path(data_dir, "admin.token")
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise Unreachable(
            f"no admin token: {path}: {reason}. Is `crossfade up` running with this data directory? "
            "Otherwise name another one with --data-dir, --token-file or CROSSFADE_TOKEN"
        ) from None
    if not token.isascii() or not token.isprintable() or not token:
        raise Unreachable(f"no admin token: {path} does not hold one")
    return token


def is_loopback(url: str) -> bool:
    """Whether the URL names this machine: such calls must never go through a proxy from the environment."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not a URL at all
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def is_on_a_network(url: str) -> bool:
    """Whether the URL names another machine, or may."""
    try:
        return bool(urlsplit(url).hostname) and not is_loopback(url)
    except ValueError:
        return False


def caller() -> str:
    """Who runs this process, as the header `x-crossfade-by` takes it; empty when that is not known."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in some containers
        return ""
    return name.encode("ascii", "replace").decode()[:_MAX_CALLER_LENGTH]


class AdminClient:
    """One connection to one control plane. Raises `Unreachable` and `Refused`."""

    def __init__(self, url: str, token: str, by: str = "", trust: ssl.SSLContext | None = None) -> None:
        """`url`: of an admin port, or unix:PATH. `by`: who asks, for the audit trail.

        `trust`: whose certificates are believed when the URL is https, and which one is shown.
        """
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}", **({"x-crossfade-by": by} if by else {})}
        timeout = httpx.Timeout(_REPLY_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
        try:
            if url.startswith(UNIX):
                here = httpx.HTTPTransport(uds=url.removeprefix(UNIX))
                self._http = httpx.Client(base_url="http://admin", headers=headers, timeout=timeout, transport=here)
            else:
                self._http = httpx.Client(
                    base_url=self._url,
                    headers=headers,
                    timeout=timeout,
                    trust_env=not is_loopback(url),
                    verify=trust or True,
                )
        except httpx.InvalidURL as error:
            raise Unreachable(f"{url} is not a URL: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def status(self) -> Json:
        return self._call("GET", "/api/v1/status")

    def apply(
        self,
        documents: Sequence[Json],
        *,
        is_dry_run: bool = False,
        is_forced: bool = False,
        is_signature_change_allowed: bool = False,
    ) -> Json:
        """`is_forced`: also while a rollout is under way; it is aborted first."""
        body = {
            "documents": list(documents),
            "dry_run": is_dry_run,
            "force": is_forced,
            "allow_signature_change": is_signature_change_allowed,
        }
        return self._call("POST", "/api/v1/apply", body)

    def gateway(self) -> Json:
        """`{"spec": …, "listeners": […]}`."""
        return self._call("GET", "/api/v1/gateway")

    def gateway_settled(self, timeout_s: float) -> Json:
        """As `settled`, of the listeners."""
        return self._call("GET", "/api/v1/gateway/settled", query={"timeout_s": f"{timeout_s:.3f}"})

    def endpoints(self) -> list[Json]:
        endpoints: list[Json] = self._call("GET", "/api/v1/endpoints")["endpoints"]
        return endpoints

    def endpoint(self, name: str) -> Json:
        return self._call("GET", _endpoint(name))

    def change_traffic(self, name: str, change: Json, revision: int | None = None, *, is_forced: bool = False) -> Json:
        """`change` holds `traffic`, `mirror_traffic` or both. With `revision`, only if the endpoint is still at it.

        `is_forced`: also while a rollout is under way; it is aborted first.
        """
        return self._call("PATCH", _endpoint(name), change, query=_forced(is_forced), revision=revision)

    def delete_endpoint(self, name: str, *, is_forced: bool = False, revision: int | None = None) -> Json:
        return self._call("DELETE", _endpoint(name), query=_forced(is_forced), revision=revision)

    def deployment(self, endpoint: str, name: str) -> Json:
        return self._call("GET", _deployment(endpoint, name))

    def scale(self, endpoint: str, name: str, instance_count: int, revision: int | None = None) -> Json:
        change = {"instance_count": instance_count}
        return self._call("PATCH", _deployment(endpoint, name), change, revision=revision)

    def delete_deployment(
        self, endpoint: str, name: str, revision: int | None = None, *, is_forced: bool = False
    ) -> Json:
        """`is_forced`: also while it has a part in a rollout, which is aborted first."""
        return self._call("DELETE", _deployment(endpoint, name), query=_forced(is_forced), revision=revision)

    def logs(self, endpoint: str, name: str, lines: int) -> list[str]:
        reply = self._call("GET", f"{_deployment(endpoint, name)}/logs", query={"lines": str(lines)})
        log_lines: list[str] = reply["lines"]
        return log_lines

    def lineage(self, endpoint: str, name: str) -> Json:
        """Where a deployment's model came from."""
        return self._call("GET", f"{_deployment(endpoint, name)}/lineage")

    def tritons(self, endpoint: str, name: str) -> list[Json]:
        """What the Tritons that serve a deployment tell of it."""
        tritons: list[Json] = self._call("GET", f"{_deployment(endpoint, name)}/tritons")["tritons"]
        return tritons

    def models(self) -> list[Json]:
        models: list[Json] = self._call("GET", "/api/v1/models")["models"]
        return models

    def model(self, digest: str) -> Json:
        """The first digits of the digest are enough."""
        return self._call("GET", _model(digest))

    def verify_model(self, digest: str) -> Json:
        """Takes a second for every gigabyte."""
        return self._call("POST", f"{_model(digest)}/verify", timeout_s=_VERIFY_TIMEOUT_S)

    def collect_models(self, keep_last: int, unused_for_s: float) -> Json:
        return self._call("POST", "/api/v1/models/collect", {"keep_last": keep_last, "unused_for_s": unused_for_s})

    def resolve_model(self, reference: str) -> Json:
        return self._call("POST", "/api/v1/models/resolve", {"reference": reference})

    def start_pull(self, reference: str, timeout_s: float, *, only_resolve: bool = False) -> Json:
        """The pull, after at most `timeout_s` (60 at most). `only_resolve`: what is needed to resolve the reference."""
        body = {"reference": reference} | ({"only_resolve": True} if only_resolve else {})
        query = {"timeout_s": f"{timeout_s:.3f}"}
        return self._call("POST", "/api/v1/models/pulls", body, query=query)

    def pull(self, pull_id: str, timeout_s: float) -> Json:
        """As it is when it has ended, or after at most `timeout_s` (60 at most)."""
        return self._call("GET", _pull(pull_id), query={"timeout_s": f"{timeout_s:.3f}"})

    def cancel_pull(self, pull_id: str) -> Json:
        return self._call("DELETE", _pull(pull_id))

    def settled(self, name: str, revision: int, timeout_s: float) -> Json:
        """`{"outcome": "in_force" | "failed" | "pending", "reason": …}`, after at most `timeout_s` (60 at most)."""
        query = {"revision": str(revision), "timeout_s": f"{timeout_s:.3f}"}
        return self._call("GET", f"{_endpoint(name)}/settled", query=query)

    def start_rollout(self, endpoint: str, rollout: Json) -> Json:
        """`rollout` is a document of kind Rollout; `kind` and `endpoint` may be missing."""
        return self._call("POST", f"{_endpoint(endpoint)}/rollouts", rollout)

    def rollout(self, endpoint: str) -> Json:
        """The present or last one."""
        return self._call("GET", f"{_endpoint(endpoint)}/rollout")

    def rollouts(self, endpoint: str) -> list[Json]:
        """All that are remembered, the latest first."""
        rollouts: list[Json] = self._call("GET", f"{_endpoint(endpoint)}/rollouts")["rollouts"]
        return rollouts

    def rollout_changed(self, endpoint: str, seen: str, timeout_s: float) -> Json:
        """The latest rollout: at once when its `version` is not `seen`, else after at most `timeout_s` (60 at most)."""
        query = {"seen": seen, "timeout_s": f"{timeout_s:.3f}"}
        return self._call("GET", f"{_endpoint(endpoint)}/rollout/changed", query=query)

    def pause_rollout(self, endpoint: str) -> Json:
        return self._call("POST", f"{_endpoint(endpoint)}/rollout/pause")

    def resume_rollout(self, endpoint: str) -> Json:
        return self._call("POST", f"{_endpoint(endpoint)}/rollout/resume")

    def promote_rollout(self, endpoint: str, *, is_full: bool = False) -> Json:
        return self._call("POST", f"{_endpoint(endpoint)}/rollout/promote", {"full": is_full})

    def abort_rollout(self, endpoint: str, reason: str = "") -> Json:
        return self._call("POST", f"{_endpoint(endpoint)}/rollout/abort", {"reason": reason})

    def undo_rollout(self, endpoint: str) -> Json:
        """A new rollout, back to where the traffic was."""
        return self._call("POST", f"{_endpoint(endpoint)}/rollout/undo")

    def rollout_trail(self, endpoint: str, limit: int) -> list[Json]:
        """The last `limit` entries of the audit trail, oldest first."""
        entries: list[Json] = self._call("GET", f"{_endpoint(endpoint)}/rollout/trail", query={"limit": str(limit)})[
            "entries"
        ]
        return entries

    def rollout_differences(self, endpoint: str, limit: int) -> Json:
        return self._call("GET", f"{_endpoint(endpoint)}/rollout/differences", query={"limit": str(limit)})

    def create_token(self, request: Json) -> Json:
        """The new token with its `secret`, which no later reply shows."""
        return self._call("POST", "/api/v1/tokens", request)

    def tokens(self) -> list[Json]:
        tokens: list[Json] = self._call("GET", "/api/v1/tokens")["tokens"]
        return tokens

    def revoke_token(self, name: str) -> Json:
        return self._call("DELETE", f"/api/v1/tokens/{quote(name, safe='')}")

    def set_quota(self, group: str, limits: Json) -> Json:
        return self._call("PUT", f"/api/v1/quotas/{quote(group, safe='')}", limits)

    def quotas(self) -> list[Json]:
        quotas: list[Json] = self._call("GET", "/api/v1/quotas")["quotas"]
        return quotas

    def remove_quota(self, group: str) -> list[Json]:
        quotas: list[Json] = self._call("DELETE", f"/api/v1/quotas/{quote(group, safe='')}")["quotas"]
        return quotas

    def audit(self, lines: int) -> list[Json]:
        """The last lines, oldest first."""
        found: list[Json] = self._call("GET", "/api/v1/audit", query={"limit": str(lines)})["lines"]
        return found

    def verify_audit(self) -> Json:
        return self._call("GET", "/api/v1/audit/verified")

    def watches(self) -> list[Json]:
        """Every watched reference."""
        watches: list[Json] = self._call("GET", "/api/v1/watches")["watches"]
        return watches

    def accept_model(self, endpoint: str, *, may_change_signature: bool = False) -> Json:
        body = {"allow_signature_change": may_change_signature}
        return self._call("POST", f"{_endpoint(endpoint)}/watch/accept", body)

    def export_models(self, models: Sequence[str], target: Path, told: Callable[[int], None]) -> int:
        """Write an archive of them. `target` appears when it is whole. Returns its size. Raises `LocalFile`.

        `told`: called with the size of every piece.
        """
        part = target.with_name(f".{target.name}.part")
        query = {"model": list(models)}
        try:
            with self._http.stream("GET", "/api/v1/model-archive", params=query, timeout=_STREAM_TIMEOUT) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise _refusal(reply)
                with part.open("wb") as file:
                    for chunk in reply.iter_raw():
                        file.write(chunk)
                        told(len(chunk))
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(target)
            return target.stat().st_size
        except httpx.RemoteProtocolError as error:
            raise LocalFile(f"the export ended early ({error}): the gateway's log tells why") from None
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except OSError as error:
            raise LocalFile(f"{target} cannot be written: {error.strerror or error}") from None
        finally:
            part.unlink(missing_ok=True)

    def import_models(self, source: Path, name: str, told: Callable[[int], None]) -> list[Json]:
        """Have the gateway keep the models of an archive. Raises `LocalFile`. `told`: as in `export_models`."""
        try:
            with source.open("rb") as file:
                reply = self._http.post(
                    "/api/v1/model-archive",
                    params={"name": name} if name else {},
                    content=_pieces(file, told),
                    headers={"content-length": str(source.stat().st_size), "content-type": "application/x-tar"},
                    timeout=_STREAM_TIMEOUT,
                )
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        except OSError as error:
            raise LocalFile(f"{source} cannot be read: {error.strerror or error}") from None
        if not reply.is_success:
            raise _refusal(reply)
        models: list[Json] = _decoded(reply)["models"]
        return models

    def keys(self, endpoint: str) -> list[Json]:
        keys: list[Json] = self._call("GET", f"{_endpoint(endpoint)}/keys")["keys"]
        return keys

    def create_key(self, endpoint: str) -> Json:
        return self._call("POST", f"{_endpoint(endpoint)}/keys")

    def regenerate_key(self, endpoint: str, slot: str) -> Json:
        return self._call("POST", f"{_endpoint(endpoint)}/keys/{slot}/regenerate")

    def revoke_key(self, endpoint: str, slot: str) -> Json:
        return self._call("DELETE", f"{_endpoint(endpoint)}/keys/{slot}")

    def follow_events(self, after: int = 0) -> Iterator[Json]:
        """Events with a greater id as they come; ends when the control plane closes the stream."""
        query = {"after": str(after), "follow": "true"}
        timeout = httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        try:
            with self._http.stream("GET", "/api/v1/events", params=query, timeout=timeout) as reply:
                if reply.status_code != 200:
                    reply.read()
                    raise _refusal(reply)
                for line in reply.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        revision: int | None = None,
        timeout_s: float = _REPLY_TIMEOUT_S,
    ) -> Json:
        headers = {} if revision is None else {"if-match": f'"{revision}"'}
        try:
            timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
            reply = self._http.request(method, path, json=body, params=query, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        if reply.is_success:
            return _decoded(reply)
        raise _refusal(reply)

    def _unreachable(self, error: Exception) -> Unreachable:
        if fault := tls_fault(error):
            return Unreachable(f"the control plane at {self._url}: {fault}")
        if is_https(self._url) and isinstance(error, httpx.ReadError | httpx.RemoteProtocolError):
            # TLS 1.3: the client has finished its handshake when the server turns its certificate down.
            return Unreachable(
                f"the control plane at {self._url} hung up ({error or type(error).__name__}). It may want a certificate"
                " of yours, or refuse the one it was shown: --client-certificate"
            )
        return Unreachable(
            f"the control plane at {self._url} cannot be reached ({error or type(error).__name__}). "
            "Is `crossfade up` running? --admin-url or CROSSFADE_ADMIN_URL names another one"
        )


def _decoded(reply: httpx.Response) -> Json:
    try:
        value = reply.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unreachable(f"{reply.url} answers, but it is not a Crossfade control plane")
    return value


def _refusal(reply: httpx.Response) -> CrossfadeError:
    facts = _decoded(reply).get("error")
    if not isinstance(facts, dict):
        return Unreachable(f"{reply.url} answers, but it is not a Crossfade control plane")
    return Refused(reply.status_code, facts)


def _forced(is_forced: bool) -> dict[str, str]:
    return {"force": "true"} if is_forced else {}


def _pieces(file: BinaryIO, told: Callable[[int], None]) -> Iterator[bytes]:
    while piece := file.read(_STREAM_BYTES):
        yield piece
        told(len(piece))


def _endpoint(name: str) -> str:
    return f"/api/v1/endpoints/{quote(name, safe='')}"


def _model(digest: str) -> str:
    return f"/api/v1/models/{quote(digest, safe='')}"


def _pull(pull_id: str) -> str:
    return f"/api/v1/models/pulls/{quote(pull_id, safe='')}"


def _deployment(endpoint: str, name: str) -> str:
    return f"{_endpoint(endpoint)}/deployments/{quote(name, safe='')}"
