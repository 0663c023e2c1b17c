"""`crossfade up`: run the gateway in the foreground."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.output import say
from router.cli.session import DEFAULT_DATA_DIR, ExitCode, Output, Session, report
from router.cli.sources import spec_source
from router.cli.tls import listener_tls
from router.config import Ports, usual_registries_file
from router.domain.errors import CrossfadeError, Invalid

if TYPE_CHECKING:
    from router.up import Wanted

_DEFAULTS = Ports()

Files = Annotated[
    list[str] | None, typer.Option("--file", "-f", metavar="SPEC", help="Spec file to apply at the start. Repeatable.")
]
DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="CROSSFADE_DATA_DIR", help="Where state, secrets and logs are kept.")
]
Bind = Annotated[str, typer.Option("--bind", help="Address for scoring and metrics. The admin API stays on loopback.")]
HttpPort = Annotated[int, typer.Option("--http-port", help="Scoring: HTTP/1.1, HTTP/2 and gRPC.")]
GrpcPort = Annotated[int, typer.Option("--grpc-port", help="Scoring again, on gRPC clients' habitual port.")]
MetricsPort = Annotated[int, typer.Option("--metrics-port", help="Prometheus metrics, at /metrics.")]
AdminPort = Annotated[int, typer.Option("--admin-port", help="Admin API, for this command line.")]
Certificates = Annotated[
    list[str] | None,
    typer.Option(
        "--tls-certificate",
        metavar="FILE",
        help="Certificate (PEM, intermediates behind it) for the scoring ports. Repeatable: a client gets the one for "
        "the name it asks for. Else <data-dir>/tls, where `crossfade tls init` makes one; else plain text.",
    ),
]
Keys = Annotated[
    list[str] | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's private key. Repeatable.")
]
ClientCa = Annotated[
    str | None,
    typer.Option("--tls-client-ca", metavar="FILE", help="CAs whose client certificates are taken (auth_mode: mtls)."),
]
ClientCrl = Annotated[
    str | None, typer.Option("--tls-client-crl", metavar="FILE", help="Revocation lists of these CAs, one of each.")
]
RedirectPort = Annotated[
    int, typer.Option("--redirect-http-port", help="With TLS: plain HTTP on this port is sent to --http-port. 0: none.")
]
RayAddress = Annotated[
    str | None,
    typer.Option("--ray-address", metavar="HOST:PORT", help="Join this Ray cluster instead of starting one."),
]
Registries = Annotated[
    Path | None,
    typer.Option(
        "--registries",
        metavar="FILE",
        help="Proxy, certificates, secrets and allowed hosts of model registries. [default: DATA-DIR/registries.yaml]",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    app.command("up")(up)


def up(
    files: Files = None,
    data_dir: DataDir = Path(DEFAULT_DATA_DIR),
    bind: Bind = "127.0.0.1",
    http_port: HttpPort = _DEFAULTS.http,
    grpc_port: GrpcPort = _DEFAULTS.grpc,
    metrics_port: MetricsPort = _DEFAULTS.metrics,
    admin_port: AdminPort = _DEFAULTS.admin,
    tls_certificates: Certificates = None,
    tls_keys: Keys = None,
    tls_client_ca: ClientCa = None,
    tls_client_crl: ClientCrl = None,
    redirect_http_port: RedirectPort = 0,
    ray_address: RayAddress = None,
    registries: Registries = None,
) -> None:
    """Run the gateway: Envoy, the control plane and a local Ray. Ctrl-C drains and ends everything.

    What was applied in an earlier run on the same data directory is served again; spec files are applied on top.

    \b
      crossfade up -f deploy/examples/filetype.yaml
      crossfade up --data-dir /var/lib/crossfade --bind 10.0.0.5
      crossfade up --tls-certificate server.pem --tls-key server.key
    """
    from router.up import Wanted

    session = Session(Output.TABLE, f"http://127.0.0.1:{admin_port}", None, str(data_dir))
    try:
        ports = Ports(http_port, grpc_port, metrics_port, admin_port, redirect_http_port)
        tls = listener_tls(tls_certificates or [], tls_keys or [], tls_client_ca, tls_client_crl, data_dir.resolve())
        if ports.redirect_http and tls is None:
            raise Invalid("--redirect-http-port", "there is no TLS to send clients to", "give --tls-certificate too")
        named = str(registries.resolve()) if registries else ""
        wanted = Wanted(data_dir.resolve(), bind, ports, ray_address, [], named, tls)
        raise typer.Exit(_run(wanted, files or []))
    except CrossfadeError as error:
        raise typer.Exit(report(session, error)) from None


def _run(wanted: Wanted, files: list[str]) -> int:
    from router.models.settings_file import settings_in
    from router.spec import read_specs, written_plain
    from router.up import run_gateway

    try:
        ipaddress.ip_address(wanted.bind)
    except ValueError:
        raise Invalid("--bind", f"{wanted.bind!r} is not an IP address", "use an address of this machine") from None
    # A mistake in a file is told before anything is started.
    registries = Path(wanted.registries) if wanted.registries else usual_registries_file(wanted.data_dir)
    settings_in(registries, is_required=bool(wanted.registries))
    specs = read_specs([spec_source(file) for file in files]) if files else ()
    documents = [written_plain(document) for document in specs]
    try:
        return run_gateway(replace(wanted, documents=documents), say)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
