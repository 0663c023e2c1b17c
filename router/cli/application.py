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

_GATEWAY = """The gateway: where it listens, and for which endpoints.

A spec of kind Gateway says so; whoever applies one needs an admin's token.

\b
  crossfade gateway show > gateway.yaml     as it is, to be changed
  crossfade apply -f gateway.yaml
"""

_KEYS = """Keys: what callers of a protected endpoint show.

An endpoint asks for one when its spec has `auth_mode: key`. It has two, so that they can be rotated.

\b
  crossfade keys create fraud > fraud.key
  crossfade endpoint invoke fraud --sample --key-file fraud.key
"""

_TOKENS = """Tokens: who may use the admin API, for what.

For operators and programs. Callers of endpoints show keys, certificates, or tokens of an identity provider instead.

\b
  crossfade token create ci-fraud --group fraud-team --valid-for 90d > ci.token
  crossfade status --token-file ci.token
"""


def build() -> typer.Typer:
    """The whole application. rich's markup and tracebacks stay off: they cost start-up time and hide plain errors."""
    app = _group(_HELP)
    app.callback()(_root)
    endpoints = _group("Endpoints: the stable names that clients call.")
    deployments = _group("Deployments: the model versions behind an endpoint.")
    rollouts = _group("Rollouts: traffic that moves by itself, and back if it must.")
    models = _group("Models: fetched once, verified, kept by digest. Deployments run from here.")
    credentials = _group(_KEYS)
    gateways = _group(_GATEWAY)
    certificates = _group("TLS: certificates of your own, and the CA between hosts.")
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
        ("token", _TOKENS, oversight.register_tokens),
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
