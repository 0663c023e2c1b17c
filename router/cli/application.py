"""Puts the commands together."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from router.cli import (
    apply,
    deployment,
    doctor,
    endpoint,
    gateway,
    invoke,
    keys,
    model,
    oversight,
    rollout,
    schema,
    status,
    tls,
    transfer,
    up,
    watch,
)

_HELP = """Serve models, and crossfade live traffic from one version to the next.

\b
  crossfade up -f deploy/examples/filetype.yaml     start a gateway
  crossfade status                                  see what runs
  crossfade endpoint update filetype --traffic "blue=90 green=10"
  crossfade rollout start filetype --to green       move by evidence, and back by itself

\b
Exit codes: 0 done, 1 failed, 2 wrong usage or invalid spec, 3 rolled back or aborted,
4 timed out waiting, 5 cannot reach the control plane.
"""


def build() -> typer.Typer:
    """The whole application. rich's markup and tracebacks stay off: they cost start-up time and hide plain errors."""
    app = _group(_HELP)
    app.callback()(_root)
    endpoints = _group("Endpoints: the stable names that clients call.")
    deployments = _group("Deployments: the model versions behind an endpoint.")
    rollouts = _group("Rollouts: traffic that moves by itself, and back if it must.")
    models = _group("Models: fetched once, verified, kept by digest. Deployments run from here.")
    credentials = _group("Keys: what callers of a protected endpoint show.")
    gateways = _group("The gateway: where it listens, and for which endpoints.")
    certificates = _group("TLS: certificates of your own, for a start.")
    up.register(app)
    apply.register(app)
    app.add_typer(gateways, name="gateway")
    app.add_typer(endpoints, name="endpoint")
    app.add_typer(deployments, name="deployment")
    app.add_typer(rollouts, name="rollout")
    app.add_typer(models, name="model")
    app.add_typer(credentials, name="keys")
    app.add_typer(certificates, name="tls")
    gateway.register(gateways)
    endpoint.register(endpoints)
    invoke.register(endpoints)
    deployment.register(deployments)
    rollout.register(rollouts)
    for name, what, register in (
        ("token", "Tokens: who may use the admin API, for what.", oversight.register_tokens),
        ("quota", "Quotas: how much the endpoints of a group may use together.", oversight.register_quotas),
        ("audit", "The audit log: who did what.", oversight.register_audit),
    ):
        group = _group(what)
        app.add_typer(group, name=name)
        register(group)
    model.register(models)
    watch.register(models)
    transfer.register(models)
    keys.register(credentials)
    tls.register(certificates)
    status.register(app)
    doctor.register(app)
    schema.register(app)
    return app


def _group(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def main() -> None:
    """The console script."""
    try:
        build()()
    except KeyboardInterrupt:
        sys.exit(130)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        print(f"crossfade {version('crossfade')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options before any command."""
