"""`crossfade token …`, `crossfade quota …` and `crossfade audit …`: what admins watch and decide."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from router.cli.output import say, table
from router.cli.session import ExitCode, Session, command
from router.domain.access import Role
from router.domain.errors import Invalid

TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Who or what it is for.", show_default=False)]
RoleOption = Annotated[Role, typer.Option("--role", help="What it may do.")]
Groups = Annotated[
    list[str] | None, typer.Option("--group", metavar="GROUP", help="Only endpoints of this group. May be repeated.")
]
ValidFor = Annotated[
    str | None, typer.Option("--valid-for", metavar="TIME", help="Such as 90d, 12h or 30m. Left out: it never expires.")
]
Group = Annotated[str, typer.Argument(metavar="GROUP", help="The group of endpoints.", show_default=False)]
MostWhole = Annotated[int | None, typer.Option(min=0, metavar="N", help="The most; left out: no limit.")]
Most = Annotated[float | None, typer.Option(min=0, metavar="N", help="The most; left out: no limit.")]
Lines = Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="How many lines at most.")]

_TIME = re.compile(r"([1-9][0-9]{0,5})([dhm])")
_SECONDS = {"d": 86400, "h": 3600, "m": 60}


def register_tokens(app: typer.Typer) -> None:
    command(app, "create", create_token)
    command(app, "list", list_tokens)
    command(app, "revoke", revoke_token)


def register_quotas(app: typer.Typer) -> None:
    command(app, "set", set_quota)
    command(app, "list", list_quotas)
    command(app, "remove", remove_quota)


def register_audit(app: typer.Typer) -> None:
    command(app, "list", list_audit)
    command(app, "verify", verify_audit)


def create_token(
    session: Session,
    name: TokenName,
    role: RoleOption = Role.OPERATOR,
    group: Groups = None,
    valid_for: ValidFor = None,
) -> None:
    """Make a token for an operator or a program. Its secret is shown this once; only its hash is kept.

    viewer: look. operator: change endpoints, deployments and rollouts. admin: everything.

    \b
      crossfade token create ci-fraud --group fraud-team --valid-for 90d > fraud.token
      crossfade status --token-file fraud.token
    """
    request = {"name": name, "role": role, "groups": group or [], "valid_for_s": _seconds(valid_for)}
    with session.client() as client:
        made = client.create_token(request)
    say(f"{made['role']}'s token {name!r}, for {_scope(made)}, {_until(made)}: keep it now, it is not shown again")
    session.show(made, lambda: str(made["secret"]))


def list_tokens(session: Session) -> None:
    """List the tokens, without their secrets. The one in the data directory is not among them.

    \b
      crossfade token list
    """
    with session.client() as client:
        tokens = client.tokens()
    columns = ("name", "role", "for", "created (UTC)", "expires (UTC)")
    rows = [
        (item["name"], item["role"], _scope(item), item["created_at"][:19], (item["expires_at"] or "")[:19] or None)
        for item in tokens
    ]
    session.show({"tokens": tokens}, lambda: table(columns, rows))


def revoke_token(session: Session, name: TokenName) -> None:
    """Refuse a token from now on.

    \b
      crossfade token revoke ci-fraud
    """
    with session.client() as client:
        token = client.revoke_token(name)
    session.show(token, lambda: f"token {name} is revoked")


def set_quota(
    session: Session,
    group: Group,
    deployments: MostWhole = None,
    replicas: MostWhole = None,
    cpus: Most = None,
    gpus: Most = None,
) -> None:
    """Limit what the endpoints of a group use together.

    Counted as if all had the most replicas that they may have. What runs already stays; only more is refused. An
    endpoint belongs to a group by `group:` in its spec.

    \b
      crossfade quota set fraud-team --replicas 20 --cpus 32 --gpus 2
    """
    limits = {"deployments": deployments, "replicas": replicas, "cpus": cpus, "gpus": gpus}
    if all(limit is None for limit in limits.values()):
        raise Invalid("", "no limit is given", "name one, such as --replicas 20, or use: crossfade quota remove")
    with session.client() as client:
        quota = client.set_quota(group, {name: limit for name, limit in limits.items() if limit is not None})
    session.show(quota, lambda: _quotas_table([quota]))


def list_quotas(session: Session) -> None:
    """List the groups of endpoints, what they use and what they may use.

    \b
      crossfade quota list
    """
    with session.client() as client:
        quotas = client.quotas()
    session.show({"quotas": quotas}, lambda: _quotas_table(quotas))


def remove_quota(session: Session, group: Group) -> None:
    """Remove the limits of a group.

    \b
      crossfade quota remove fraud-team
    """
    with session.client() as client:
        quotas = client.remove_quota(group)
    session.show({"quotas": quotas}, lambda: f"group {group} has no limits")


def list_audit(session: Session, lines: Lines = 50) -> None:
    """Print the last lines of the audit log: who did what, oldest first.

    \b
      crossfade audit list --lines 200
      crossfade audit list -o json
    """
    with session.client() as client:
        found = client.audit(lines)
    columns = ("line", "at", "who", "did", "what", "detail")
    rows = [
        (line["number"], line["at"][:19], line["actor"], line["action"], line["subject"], line["detail"])
        for line in found
    ]
    session.show({"lines": found}, lambda: table(columns, rows))


def verify_audit(session: Session) -> int:
    """Check that no line was altered, removed or slipped in.

    Every line carries a hash of itself and the line before. That the end was cut off shows only beside a head that was
    noted earlier.

    \b
      crossfade audit verify
    """
    with session.client() as client:
        result = client.verify_audit()
    words = f"{result['lines']} lines, unbroken; head {result['head']}" if result["is_whole"] else result["reason"]
    session.show(result, lambda: words)
    return ExitCode.DONE if result["is_whole"] else ExitCode.FAILED


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise Invalid("--valid-for", f"{text[:40]!r} is not a time", "write it like 90d, 12h or 30m")
    return float(int(match[1]) * _SECONDS[match[2]])


def _scope(token: Mapping[str, Any]) -> str:
    return ", ".join(token["groups"]) or "all endpoints"


def _until(token: Mapping[str, Any]) -> str:
    return f"until {token['expires_at'][:16]}" if token["expires_at"] else "without end"


def _quotas_table(quotas: list[dict[str, Any]]) -> str:
    names = ("deployments", "replicas", "cpus", "gpus")
    return table(
        ("group", *names),
        [(item["group"], *(_of(item["usage"][name], item["quota"][name]) for name in names)) for item in quotas],
    )


def _of(used: float, limit: float | None) -> str:
    return f"{used:g}" if limit is None else f"{used:g} of {limit:g}"
