"""`crossfade up`: run the gateway in the foreground."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.output import say
from router.cli.session import DEFAULT_DATA_DIR, ExitCode, Output, Session, report
from router.cli.sources import spec_source
from router.cli.tls import TlsOptions, listener_tls, own_port
from router.config import LOOPBACK, Ports, checked_address, usual_registries_file
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
Bind = Annotated[str, typer.Option("--bind", help="Address for scoring. The admin API and metrics have their own.")]
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
AdminBind = Annotated[str, typer.Option("--admin-bind", help="Address of the admin API: off loopback only with TLS.")]
AdminCertificate = Annotated[
    str | None,
    typer.Option(
        "--admin-tls-certificate",
        metavar="FILE",
        help="Certificate (PEM) of the admin API; off loopback, else that of `crossfade tls init`.",
    ),
]
AdminKey = Annotated[str | None, typer.Option("--admin-tls-key", metavar="FILE", help="The certificate's private key.")]
AdminClientCa = Annotated[
    str | None,
    typer.Option(
        "--admin-tls-client-ca",
        metavar="FILE",
        help="Operators need a certificate of these CAs, and their token. `up` and the command line on this machine "
        "come in by a socket.",
    ),
]
AdminClientCrl = Annotated[
    str | None, typer.Option("--admin-tls-client-crl", metavar="FILE", help="Revocation lists of these CAs.")
]
MetricsBind = Annotated[str, typer.Option("--metrics-bind", help="Address of /metrics: off loopback only with TLS.")]
MetricsCertificate = Annotated[
    str | None,
    typer.Option("--metrics-tls-certificate", metavar="FILE", help="Certificate (PEM) of /metrics; as for admin."),
]
MetricsKey = Annotated[
    str | None, typer.Option("--metrics-tls-key", metavar="FILE", help="The certificate's private key.")
]
MetricsClientCa = Annotated[
    str | None,
    typer.Option("--metrics-tls-client-ca", metavar="FILE", help="Scrapers need a certificate of these."),
]
MetricsClientCrl = Annotated[
    str | None, typer.Option("--metrics-tls-client-crl", metavar="FILE", help="Revocation lists of these CAs.")
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
    bind: Bind = LOOPBACK,
    http_port: HttpPort = _DEFAULTS.http,
    grpc_port: GrpcPort = _DEFAULTS.grpc,
    metrics_port: MetricsPort = _DEFAULTS.metrics,
    admin_port: AdminPort = _DEFAULTS.admin,
    tls_certificates: Certificates = None,
    tls_keys: Keys = None,
    tls_client_ca: ClientCa = None,
    tls_client_crl: ClientCrl = None,
    redirect_http_port: RedirectPort = 0,
    admin_bind: AdminBind = LOOPBACK,
    admin_tls_certificate: AdminCertificate = None,
    admin_tls_key: AdminKey = None,
    admin_tls_client_ca: AdminClientCa = None,
    admin_tls_client_crl: AdminClientCrl = None,
    metrics_bind: MetricsBind = LOOPBACK,
    metrics_tls_certificate: MetricsCertificate = None,
    metrics_tls_key: MetricsKey = None,
    metrics_tls_client_ca: MetricsClientCa = None,
    metrics_tls_client_crl: MetricsClientCrl = None,
    ray_address: RayAddress = None,
    registries: Registries = None,
) -> None:
    """Run the gateway: Envoy, the control plane and a local Ray.

    Ctrl-C drains and ends everything; in a Ray that was joined, replicas go on.

    What was applied in an earlier run on the same data directory is served again; spec files are applied on top.

    \b
      crossfade up -f deploy/examples/filetype.yaml
      crossfade up --data-dir /var/lib/crossfade --bind 10.0.0.5
      crossfade up --tls-certificate server.pem --tls-key server.key
      crossfade up --admin-bind 10.0.0.5 --admin-tls-certificate a.pem --admin-tls-key a.key
    """
    from router.up import Wanted

    session, home = Session(Output.TABLE, data_dir=str(data_dir)), data_dir.resolve()
    try:
        ports = Ports(http_port, grpc_port, metrics_port, admin_port, redirect_http_port)
        checked_address("--bind", bind)
        tls = listener_tls(TlsOptions("", tls_certificates or (), tls_keys or (), tls_client_ca, tls_client_crl), home)
        of_admin = TlsOptions(
            "admin-", _one(admin_tls_certificate), _one(admin_tls_key), admin_tls_client_ca, admin_tls_client_crl
        )
        of_metrics = TlsOptions(
            "metrics-",
            _one(metrics_tls_certificate),
            _one(metrics_tls_key),
            metrics_tls_client_ca,
            metrics_tls_client_crl,
        )
        admin = own_port("admin", admin_bind, of_admin, home)
        metrics = own_port("metrics", metrics_bind, of_metrics, home)
        if ports.redirect_http and tls is None:
            raise Invalid("--redirect-http-port", "there is no TLS to send clients to", "give --tls-certificate too")
        named = str(registries.resolve()) if registries else ""
        wanted = Wanted(home, bind, ports, ray_address, [], named, tls, admin, metrics)
        raise typer.Exit(_run(wanted, files or []))
    except CrossfadeError as error:
        raise typer.Exit(report(session, error)) from None


def _one(file: str | None) -> tuple[str, ...]:
    return (file,) if file else ()


def _run(wanted: Wanted, files: list[str]) -> int:
    from router.models.settings_file import settings_in
    from router.spec import read_specs, written_plain
    from router.up import run_gateway

    # A mistake in a file is told before anything is started.
    registries = Path(wanted.registries) if wanted.registries else usual_registries_file(wanted.data_dir)
    settings_in(registries, is_required=bool(wanted.registries))
    specs = read_specs([spec_source(file) for file in files]) if files else ()
    documents = [written_plain(document) for document in specs]
    try:
        return run_gateway(replace(wanted, documents=documents), say)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
