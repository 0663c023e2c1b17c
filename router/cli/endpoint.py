"""`crossfade endpoint list|show|update|delete`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from router.cli.changes import conclude
from router.cli.output import listing, percents, table
from router.cli.rollout_text import one_line
from router.cli.session import Session, command
from router.cli.waiting import DEFAULT_TIMEOUT_S, IfRevision, Timeout, Wait
from router.cli.watch import watch_line
from router.domain.errors import Invalid

Name = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint.", show_default=False)]
Traffic = Annotated[
    str | None,
    typer.Option("--traffic", metavar="SHARES", help='Such as "blue=90 green=10"; "" takes all traffic away.'),
]
MirrorTraffic = Annotated[
    str | None, typer.Option("--mirror-traffic", metavar="SHARE", help='Such as "green=10"; "" ends mirroring.')
]
Force = Annotated[bool, typer.Option("--force", help="Also while it has live traffic.")]
EndRollout = Annotated[bool, typer.Option("--force", help="Also during a rollout: abort it first.")]


def register(app: typer.Typer) -> None:
    command(app, "list", list_all)
    command(app, "show", show)
    command(app, "update", update)
    command(app, "delete", delete)


def list_all(session: Session) -> None:
    """List the endpoints.

    \b
      crossfade endpoint list
      crossfade endpoint list -o json
    """
    with session.client() as client:
        endpoints = client.endpoints()
    session.show({"endpoints": endpoints}, lambda: endpoint_table(endpoints))


def show(session: Session, name: Name) -> None:
    """Show one endpoint: what was asked for, and what is in force.

    \b
      crossfade endpoint show filetype
    """
    with session.client() as client:
        endpoint = client.endpoint(name)
        watches = client.watches() if endpoint["watch"] else []
    endpoint["watched"] = next((watch for watch in watches if watch["endpoint"] == name), None)
    session.show(endpoint, lambda: _text(endpoint))


def update(
    session: Session,
    name: Name,
    traffic: Traffic = None,
    mirror_traffic: MirrorTraffic = None,
    force: EndRollout = False,
    if_revision: IfRevision = None,
    wait: Wait = True,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Change how live traffic is split, what is mirrored, or both.

    Shares are whole percents that sum to 100 (or to 0: nobody gets traffic); a deployment that is not named gets none.
    Refused while a rollout is under way, unless forced.

    \b
      crossfade endpoint update filetype --traffic "blue=90 green=10"
      crossfade endpoint update filetype --mirror-traffic "green=10"
    """
    change = {}
    if traffic is not None:
        change["traffic"] = shares("--traffic", traffic)
    if mirror_traffic is not None:
        change["mirror_traffic"] = shares("--mirror-traffic", mirror_traffic)
    if not change:
        raise Invalid(
            "", "there is nothing to change", 'give --traffic "blue=90 green=10" or --mirror-traffic "green=10"'
        )
    with session.client() as client:
        done = client.change_traffic(name, change, if_revision, is_forced=force)
        return conclude(session, client, done, timeout if wait else None, is_traffic_only=True)


def delete(
    session: Session,
    name: Name,
    force: Force = False,
    if_revision: IfRevision = None,
    wait: Wait = True,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Delete an endpoint and every deployment behind it. Refused while it has live traffic, unless forced.

    \b
      crossfade endpoint update filetype --traffic ""
      crossfade endpoint delete filetype
    """
    with session.client() as client:
        done = client.delete_endpoint(name, is_forced=force, revision=if_revision)
        return conclude(session, client, done, timeout if wait else None)


def shares(option: str, text: str) -> dict[str, int]:
    """`blue=90 green=10` → percents. Raises `Invalid`."""
    parsed: dict[str, int] = {}
    for word in text.split():
        name, separator, percent = word.partition("=")
        if not separator or not percent.isascii() or not percent.isdecimal() or len(percent) > 3:
            raise Invalid(option, f"{word!r} is not NAME=PERCENT", 'write it like "blue=90 green=10"')
        if name in parsed:
            raise Invalid(option, f"{name!r} is named twice", "name every deployment once")
        parsed[name] = int(percent)
    return parsed


def endpoint_table(endpoints: list[dict[str, Any]]) -> str:
    if not endpoints:
        return "There is no endpoint yet. Create one: crossfade apply -f SPEC"
    columns = ("name", "state", "traffic", "in force", "mirror", "deployments", "revision")
    shown = table(columns, [_row(endpoint) for endpoint in endpoints])
    rollouts = [one_line(endpoint["name"], endpoint["rollout"]) for endpoint in endpoints if endpoint["rollout"]]
    return "\n".join([shown, "", "Rollouts under way:", *(f"  {line}" for line in rollouts)]) if rollouts else shown


def _row(endpoint: Mapping[str, Any]) -> tuple[Any, ...]:
    return (
        endpoint["name"],
        endpoint["state"],
        percents(endpoint["traffic"]),
        percents(endpoint["in_force"]["traffic"]),
        percents(endpoint["mirror_traffic"]),
        " ".join(deployment["name"] for deployment in endpoint["deployments"]),
        endpoint["revision"],
    )


def _text(endpoint: Mapping[str, Any]) -> str:
    in_force = endpoint["in_force"]
    facts = [
        ("name", endpoint["name"]),
        ("state", endpoint["state"]),
        ("revision", f"{endpoint['revision']} (in force: {in_force['revision'] or 'none'})"),
        ("traffic", f"{percents(endpoint['traffic'])} (in force: {percents(in_force['traffic'])})"),
        ("mirror", f"{percents(endpoint['mirror_traffic'])} (in force: {percents(in_force['mirror_traffic'])})"),
        ("auth_mode", endpoint["auth_mode"]),
    ]
    if rules := endpoint["jwt"]:
        facts.append(("tokens of", rules["issuer"]))
        if "audiences" in rules:
            facts.append(("  for", ", ".join(rules["audiences"])))
        if "claims" in rules:
            facts.append(("  saying", json.dumps(rules["claims"])))
    if endpoint["rollout"]:
        facts.append(("rollout", one_line(endpoint["name"], endpoint["rollout"])))
    if endpoint["watched"]:
        facts.append(("watch", watch_line(endpoint["watched"])))
    if endpoint["error"]:
        facts.append(("error", endpoint["error"]))
    return f"{listing(facts)}\n\n{deployment_table(endpoint['deployments'])}"


def deployment_table(deployments: list[dict[str, Any]]) -> str:
    if not deployments:
        return "It has no deployment yet. Create one: crossfade apply -f SPEC"
    columns = ("endpoint", "name", "state", "ready", "traffic", "version", "model", "reason")
    return table(columns, [_deployment_row(deployment) for deployment in deployments])


def _deployment_row(item: Mapping[str, Any]) -> tuple[Any, ...]:
    ready = f"{item['replicas_ready']}/{item['replicas_wanted']}"
    if (limits := item["scale_settings"]) is not None:
        ready += f" ({limits['min_instances']} to {limits['max_instances']})"
    mirrored = f" (+{item['mirror_traffic']}% mirrored)" if item["mirror_traffic"] else ""
    traffic = f"{item['traffic']}%{mirrored}"
    version, model = item["model_version"], item["model"]
    return item["endpoint"], item["name"], item["state"], ready, traffic, version, model, item["reason"]
