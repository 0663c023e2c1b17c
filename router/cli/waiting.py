"""Waiting until what was asked for is in force, with a word now and then about what is missing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.cli.output import say
from router.cli.session import TimedOut
from router.domain.errors import CrossfadeError

if TYPE_CHECKING:
    from router.client import AdminClient

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the change is in force.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="How long to wait.")]
IfRevision = Annotated[
    int | None,
    typer.Option("--if-revision", min=0, metavar="N", help="Only if the endpoint is still at this revision."),
]
DEFAULT_TIMEOUT_S = 120.0

_SLICE_S = 2.0  # one call waits this long at most, so that news is told while it is news


class DidNotSettle(CrossfadeError):
    """The change is stored, but it cannot come into force as it is."""


def wait_for(
    client: AdminClient, revisions: Mapping[str, int], timeout_s: float, *, is_traffic_only: bool = False
) -> None:
    """Wait for every endpoint. Raises `DidNotSettle` at the first that failed, `TimedOut` when the time is over.

    `is_traffic_only`: traffic and mirror are what was changed. Whether a deployment without any is well does not
    matter then: moving away from a broken one must not look like a failure.
    """
    deadline_s = time.monotonic() + timeout_s
    for name, revision in sorted(revisions.items()):
        reply = _settled(client, name, revision, deadline_s, is_traffic_only)
        if reply["outcome"] == "failed":
            raise DidNotSettle(f"endpoint {name}: {reply['reason']}")
        if reply["outcome"] == "pending":
            raise TimedOut(
                f"endpoint {name}: not in force after {timeout_s:g} s: {reply['reason']}. "
                f"It goes on by itself: see `crossfade endpoint show {name}`"
            )
        say(f"endpoint {name}: revision {revision} is in force" if revision else f"endpoint {name} is gone")


def wait_for_listeners(client: AdminClient, timeout_s: float) -> None:
    """Wait until every proxy has the listeners. Raises `DidNotSettle` when one cannot have them, and `TimedOut`."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        left_s = max(0.0, deadline_s - time.monotonic())
        reply = client.gateway_settled(min(_SLICE_S, left_s))
        match reply["outcome"]:
            case "in_force":
                say("gateway: the listeners are in force")
                return
            case "failed":
                raise DidNotSettle(f"gateway: {reply['reason']}")
        if time.monotonic() >= deadline_s:
            raise TimedOut(f"gateway: the listeners are not in force after {timeout_s:g} s: {reply['reason']}")


def _settled(client: AdminClient, name: str, revision: int, deadline_s: float, is_traffic_only: bool) -> dict[str, Any]:
    told = ""
    while True:
        left_s = max(0.0, deadline_s - time.monotonic())
        reply = client.settled(name, revision, min(_SLICE_S, left_s))
        if (
            is_traffic_only
            and reply["outcome"] != "in_force"
            and _has_traffic_asked_for(client.endpoint(name), revision)
        ):
            return {"outcome": "in_force", "reason": ""}
        if reply["outcome"] != "pending" or time.monotonic() >= deadline_s:
            return reply
        if reply["reason"] != told:
            told = reply["reason"]
            say(f"endpoint {name}: waiting: {told}")


def _has_traffic_asked_for(endpoint: Mapping[str, Any], revision: int) -> bool:
    in_force = endpoint["in_force"]
    return bool(
        in_force["revision"] >= revision
        and in_force["traffic"] == {name: percent for name, percent in endpoint["traffic"].items() if percent}
        and in_force["mirror_traffic"] == endpoint["mirror_traffic"]
    )
