"""`crossfade up`: run the gateway in the foreground."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from router.cli.output import say
from router.cli.session import DEFAULT_DATA_DIR, ExitCode, Output, Session, report
from router.cli.sources import spec_source
from router.config import Ports, usual_registries_file
from router.domain.errors import CrossfadeError, Invalid

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
    ray_address: RayAddress = None,
    registries: Registries = None,
) -> None:
    """Run the gateway: Envoy, the control plane and a local Ray. Ctrl-C drains and ends everything.

    What was applied in an earlier run on the same data directory is served again; spec files are applied on top.

    \b
      crossfade up -f deploy/examples/filetype.yaml
      crossfade up --data-dir /var/lib/crossfade --bind 10.0.0.5
    """
    session = Session(Output.TABLE, f"http://127.0.0.1:{admin_port}", None, str(data_dir))
    try:
        raise typer.Exit(
            _run(files or [], data_dir, bind, (http_port, grpc_port, metrics_port, admin_port), ray_address, registries)
        )
    except CrossfadeError as error:
        raise typer.Exit(report(session, error)) from None


def _run(
    files: list[str],
    data_dir: Path,
    bind: str,
    ports: tuple[int, int, int, int],
    ray_address: str | None,
    registries: Path | None,
) -> int:
    from router.models.settings_file import settings_in
    from router.spec import read_specs, written_plain
    from router.up import Wanted, run_gateway

    try:
        ipaddress.ip_address(bind)
    except ValueError:
        raise Invalid("--bind", f"{bind!r} is not an IP address", "use an address of this machine") from None
    # A mistake in a file is told before anything is started.
    settings_in(registries or usual_registries_file(data_dir), is_required=registries is not None)
    specs = read_specs([spec_source(file) for file in files]) if files else ()
    documents = [written_plain(document) for document in specs]
    wanted = Wanted(
        data_dir.resolve(), bind, Ports(*ports), ray_address, documents, str(registries.resolve()) if registries else ""
    )
    try:
        return run_gateway(wanted, say)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
