"""The admin API from the caller's side: what the CLI and other tools use. Replies are plain JSON values."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from router.admin_connection import AdminConnection, Json

_VERIFY_TIMEOUT_S = 3600.0


class AdminClient:
    """One connection to one control plane. Raises `Unreachable` and `Refused`."""

    def __init__(self, url: str, token: str, by: str = "", trust: ssl.SSLContext | None = None) -> None:
        """`url`: of an admin port, or unix:PATH. `by`: who asks, for the audit trail.

        `trust`: whose certificates are believed when the URL is https, and which one is shown.
        """
        self._connection = AdminConnection(url, token, by, trust)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()

    def status(self) -> Json:
        return self._connection.call("GET", "/api/v1/status")

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
        return self._connection.call("POST", "/api/v1/apply", body)

    def gateway(self) -> Json:
        """`{"spec": …, "listeners": […]}`."""
        return self._connection.call("GET", "/api/v1/gateway")

    def gateway_settled(self, timeout_s: float) -> Json:
        """As `settled`, of the listeners."""
        return self._connection.call("GET", "/api/v1/gateway/settled", query={"timeout_s": f"{timeout_s:.3f}"})

    def endpoints(self) -> list[Json]:
        endpoints: list[Json] = self._connection.call("GET", "/api/v1/endpoints")["endpoints"]
        return endpoints

    def endpoint(self, name: str) -> Json:
        return self._connection.call("GET", _endpoint(name))

    def change_traffic(self, name: str, change: Json, revision: int | None = None, *, is_forced: bool = False) -> Json:
        """`change` holds `traffic`, `mirror_traffic` or both. With `revision`, only if the endpoint is still at it.

        `is_forced`: also while a rollout is under way; it is aborted first.
        """
        return self._connection.call("PATCH", _endpoint(name), change, query=_forced(is_forced), revision=revision)

    def delete_endpoint(self, name: str, *, is_forced: bool = False, revision: int | None = None) -> Json:
        return self._connection.call("DELETE", _endpoint(name), query=_forced(is_forced), revision=revision)

    def deployment(self, endpoint: str, name: str) -> Json:
        return self._connection.call("GET", _deployment(endpoint, name))

    def scale(self, endpoint: str, name: str, instance_count: int, revision: int | None = None) -> Json:
        change = {"instance_count": instance_count}
        return self._connection.call("PATCH", _deployment(endpoint, name), change, revision=revision)

    def delete_deployment(
        self, endpoint: str, name: str, revision: int | None = None, *, is_forced: bool = False
    ) -> Json:
        """`is_forced`: also while it has a part in a rollout, which is aborted first."""
        return self._connection.call("DELETE", _deployment(endpoint, name), query=_forced(is_forced), revision=revision)

    def logs(self, endpoint: str, name: str, lines: int) -> list[str]:
        reply = self._connection.call("GET", f"{_deployment(endpoint, name)}/logs", query={"lines": str(lines)})
        log_lines: list[str] = reply["lines"]
        return log_lines

    def lineage(self, endpoint: str, name: str) -> Json:
        """Where a deployment's model came from."""
        return self._connection.call("GET", f"{_deployment(endpoint, name)}/lineage")

    def tritons(self, endpoint: str, name: str) -> list[Json]:
        """What the Tritons that serve a deployment tell of it."""
        tritons: list[Json] = self._connection.call("GET", f"{_deployment(endpoint, name)}/tritons")["tritons"]
        return tritons

    def models(self) -> list[Json]:
        models: list[Json] = self._connection.call("GET", "/api/v1/models")["models"]
        return models

    def model(self, digest: str) -> Json:
        """The first digits of the digest are enough."""
        return self._connection.call("GET", _model(digest))

    def verify_model(self, digest: str) -> Json:
        """Takes a second for every gigabyte."""
        return self._connection.call("POST", f"{_model(digest)}/verify", timeout_s=_VERIFY_TIMEOUT_S)

    def collect_models(self, keep_last: int, unused_for_s: float) -> Json:
        return self._connection.call(
            "POST", "/api/v1/models/collect", {"keep_last": keep_last, "unused_for_s": unused_for_s}
        )

    def resolve_model(self, reference: str) -> Json:
        return self._connection.call("POST", "/api/v1/models/resolve", {"reference": reference})

    def start_pull(self, reference: str, timeout_s: float, *, only_resolve: bool = False) -> Json:
        """The pull, after at most `timeout_s` (60 at most). `only_resolve`: what is needed to resolve the reference."""
        body = {"reference": reference} | ({"only_resolve": True} if only_resolve else {})
        query = {"timeout_s": f"{timeout_s:.3f}"}
        return self._connection.call("POST", "/api/v1/models/pulls", body, query=query)

    def pull(self, pull_id: str, timeout_s: float) -> Json:
        """As it is when it has ended, or after at most `timeout_s` (60 at most)."""
        return self._connection.call("GET", _pull(pull_id), query={"timeout_s": f"{timeout_s:.3f}"})

    def cancel_pull(self, pull_id: str) -> Json:
        return self._connection.call("DELETE", _pull(pull_id))

    def settled(self, name: str, revision: int, timeout_s: float) -> Json:
        """`{"outcome": "in_force" | "failed" | "pending", "reason": …}`, after at most `timeout_s` (60 at most)."""
        query = {"revision": str(revision), "timeout_s": f"{timeout_s:.3f}"}
        return self._connection.call("GET", f"{_endpoint(name)}/settled", query=query)

    def start_rollout(self, endpoint: str, rollout: Json) -> Json:
        """`rollout` is a document of kind Rollout; `kind` and `endpoint` may be missing."""
        return self._connection.call("POST", f"{_endpoint(endpoint)}/rollouts", rollout)

    def rollout(self, endpoint: str) -> Json:
        """The present or last one."""
        return self._connection.call("GET", f"{_endpoint(endpoint)}/rollout")

    def rollouts(self, endpoint: str) -> list[Json]:
        """All that are remembered, the latest first."""
        rollouts: list[Json] = self._connection.call("GET", f"{_endpoint(endpoint)}/rollouts")["rollouts"]
        return rollouts

    def rollout_changed(self, endpoint: str, seen: str, timeout_s: float) -> Json:
        """The latest rollout: at once when its `version` is not `seen`, else after at most `timeout_s` (60 at most)."""
        query = {"seen": seen, "timeout_s": f"{timeout_s:.3f}"}
        return self._connection.call("GET", f"{_endpoint(endpoint)}/rollout/changed", query=query)

    def pause_rollout(self, endpoint: str) -> Json:
        return self._connection.call("POST", f"{_endpoint(endpoint)}/rollout/pause")

    def resume_rollout(self, endpoint: str) -> Json:
        return self._connection.call("POST", f"{_endpoint(endpoint)}/rollout/resume")

    def promote_rollout(self, endpoint: str, *, is_full: bool = False) -> Json:
        return self._connection.call("POST", f"{_endpoint(endpoint)}/rollout/promote", {"full": is_full})

    def abort_rollout(self, endpoint: str, reason: str = "") -> Json:
        return self._connection.call("POST", f"{_endpoint(endpoint)}/rollout/abort", {"reason": reason})

    def undo_rollout(self, endpoint: str) -> Json:
        """A new rollout, back to where the traffic was."""
        return self._connection.call("POST", f"{_endpoint(endpoint)}/rollout/undo")

    def rollout_trail(self, endpoint: str, limit: int) -> list[Json]:
        """The last `limit` entries of the audit trail, oldest first."""
        entries: list[Json] = self._connection.call(
            "GET", f"{_endpoint(endpoint)}/rollout/trail", query={"limit": str(limit)}
        )["entries"]
        return entries

    def rollout_differences(self, endpoint: str, limit: int) -> Json:
        return self._connection.call("GET", f"{_endpoint(endpoint)}/rollout/differences", query={"limit": str(limit)})

    def create_token(self, request: Json) -> Json:
        """The new token with its `secret`, which no later reply shows."""
        return self._connection.call("POST", "/api/v1/tokens", request)

    def tokens(self) -> list[Json]:
        tokens: list[Json] = self._connection.call("GET", "/api/v1/tokens")["tokens"]
        return tokens

    def revoke_token(self, name: str) -> Json:
        return self._connection.call("DELETE", f"/api/v1/tokens/{quote(name, safe='')}")

    def set_quota(self, group: str, limits: Json) -> Json:
        return self._connection.call("PUT", f"/api/v1/quotas/{quote(group, safe='')}", limits)

    def quotas(self) -> list[Json]:
        quotas: list[Json] = self._connection.call("GET", "/api/v1/quotas")["quotas"]
        return quotas

    def remove_quota(self, group: str) -> list[Json]:
        quotas: list[Json] = self._connection.call("DELETE", f"/api/v1/quotas/{quote(group, safe='')}")["quotas"]
        return quotas

    def audit(self, lines: int) -> list[Json]:
        """The last lines, oldest first."""
        found: list[Json] = self._connection.call("GET", "/api/v1/audit", query={"limit": str(lines)})["lines"]
        return found

    def verify_audit(self) -> Json:
        return self._connection.call("GET", "/api/v1/audit/verified")

    def watches(self) -> list[Json]:
        """Every watched reference."""
        watches: list[Json] = self._connection.call("GET", "/api/v1/watches")["watches"]
        return watches

    def accept_model(self, endpoint: str, *, may_change_signature: bool = False) -> Json:
        body = {"allow_signature_change": may_change_signature}
        return self._connection.call("POST", f"{_endpoint(endpoint)}/watch/accept", body)

    def export_models(self, models: Sequence[str], target: Path, told: Callable[[int], None]) -> int:
        """Write an archive of them. `target` appears when it is whole. Returns its size. Raises `LocalFile`.

        `told`: called with the size of every piece.
        """
        return self._connection.download("/api/v1/model-archive", {"model": list(models)}, target, told)

    def import_models(self, source: Path, name: str, told: Callable[[int], None]) -> list[Json]:
        """Have the gateway keep the models of an archive. Raises `LocalFile`. `told`: as in `export_models`."""
        reply = self._connection.upload("/api/v1/model-archive", {"name": name} if name else {}, source, told)
        models: list[Json] = reply["models"]
        return models

    def keys(self, endpoint: str) -> list[Json]:
        keys: list[Json] = self._connection.call("GET", f"{_endpoint(endpoint)}/keys")["keys"]
        return keys

    def create_key(self, endpoint: str) -> Json:
        return self._connection.call("POST", f"{_endpoint(endpoint)}/keys")

    def regenerate_key(self, endpoint: str, slot: str) -> Json:
        return self._connection.call("POST", f"{_endpoint(endpoint)}/keys/{slot}/regenerate")

    def revoke_key(self, endpoint: str, slot: str) -> Json:
        return self._connection.call("DELETE", f"{_endpoint(endpoint)}/keys/{slot}")

    def follow_events(self, after: int = 0) -> Iterator[Json]:
        """Events with a greater id as they come; ends when the control plane closes the stream."""
        yield from self._connection.lines("/api/v1/events", {"after": str(after), "follow": "true"})


def _forced(is_forced: bool) -> dict[str, str]:
    return {"force": "true"} if is_forced else {}


def _endpoint(name: str) -> str:
    return f"/api/v1/endpoints/{quote(name, safe='')}"


def _model(digest: str) -> str:
    return f"/api/v1/models/{quote(digest, safe='')}"


def _pull(pull_id: str) -> str:
    return f"/api/v1/models/pulls/{quote(pull_id, safe='')}"


def _deployment(endpoint: str, name: str) -> str:
    return f"{_endpoint(endpoint)}/deployments/{quote(name, safe='')}"
