"""`crossfade gateway`: what is asked of the gateway as a whole."""

from __future__ import annotations

import typer

from router.cli.session import Session, command


def register(app: typer.Typer) -> None:
    command(app, "show", show)


def show(session: Session) -> None:
    """Show the gateway as a spec.

    Where scoring is offered, and which endpoints exist there. What it prints can be changed and applied again. A
    gateway that no spec has described offers everything where `crossfade up` was told.

    \b
      crossfade gateway show > gateway.yaml
      crossfade apply -f gateway.yaml
    """
    from router.spec import read_documents, to_yaml

    with session.client() as client:
        reply = client.gateway()
    (document,) = read_documents([reply["spec"]])
    session.show(reply, lambda: to_yaml([document.content]).rstrip("\n"))
