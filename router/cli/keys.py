"""`crossfade keys`: the two keys of an endpoint with `auth_mode: key`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from router.cli.output import say, table
from router.cli.session import ExitCode, Session, command
from router.domain.callers import KeySlot

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The endpoint.", show_default=False)]
Slot = Annotated[KeySlot, typer.Argument(metavar="KEY", help="Which of the two.", show_default=False)]


def register(app: typer.Typer) -> None:
    command(app, "list", list_keys)
    command(app, "create", create)
    command(app, "regenerate", regenerate)
    command(app, "revoke", revoke)


def list_keys(session: Session, endpoint: Endpoint) -> None:
    """List an endpoint's keys: which there are, never what they are.

    The fingerprint is the beginning of a key's sha256.

    \b
      crossfade keys list fraud
    """
    with session.client() as client:
        keys = client.keys(endpoint)
    rows = [(item["slot"], item["fingerprint"], item["created_at"][:19], item["created_by"]) for item in keys]
    session.show({"keys": keys}, lambda: table(("key", "fingerprint", "created (UTC)", "by"), rows))


def create(session: Session, endpoint: Endpoint) -> int:
    """Make a key: the primary one first, then the secondary. It is shown once, on stdout.

    \b
      crossfade keys create fraud > fraud.key
      crossfade endpoint invoke fraud --key-file fraud.key --sample
    """
    with session.client() as client:
        made = client.create_key(endpoint)
        if (mode := client.endpoint(endpoint)["auth_mode"]) != "key":
            say(f"note: nobody is asked for it yet: {endpoint} has auth_mode {mode}, set auth_mode: key in its spec")
        return _show(session, endpoint, made)


def regenerate(session: Session, endpoint: Endpoint, slot: Slot) -> int:
    """Replace a key; the old one stops at once.

    To rotate without a refused request: move the callers to the other key, then regenerate this one.

    \b
      crossfade keys regenerate fraud primary
    """
    with session.client() as client:
        return _show(session, endpoint, client.regenerate_key(endpoint, slot))


def revoke(session: Session, endpoint: Endpoint, slot: Slot) -> int:
    """Take a key away. It has stopped when this command ends.

    \b
      crossfade keys revoke fraud secondary
    """
    with session.client() as client:
        reply = client.revoke_key(endpoint, slot)
    session.show(reply, lambda: f"the {slot} key of {endpoint} is revoked")
    return _code(reply)


def _show(session: Session, endpoint: str, reply: Mapping[str, Any]) -> int:
    say(
        f"the {reply['kept']['slot']} key of {endpoint}, shown this once; send it as x-api-key or Authorization: Bearer"
    )
    session.show(reply, lambda: str(reply["key"]))
    return _code(reply)


def _code(reply: Mapping[str, Any]) -> int:
    if reply["in_force"]:
        return ExitCode.DONE
    say("not every proxy has acknowledged it yet; `crossfade status` shows them")
    return ExitCode.TIMED_OUT
