"""`crossfade tls`: certificates of one's own, for a start, and the CA between hosts."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.output import listing
from router.cli.session import Session, command
from router.config import OwnPort, checked_address, is_loopback
from router.domain.errors import Conflict, Invalid
from router.domain.tls import CertificateFiles, ListenerTls
from router.tls_folder import TlsFolder

if TYPE_CHECKING:
    from adapters.certificate_authority import Authority

Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="NAME", help="DNS name or address that clients use. Repeatable; beside this host's."
    ),
]
Renew = Annotated[bool, typer.Option("--renew", help="Replace the server's certificate; the CA stays.")]
Client = Annotated[
    str, typer.Argument(metavar="NAME", help="The client: a DNS name, or a URI such as spiffe://bank/app.")
]


def register(app: typer.Typer) -> None:
    command(app, "init", init)
    command(app, "client", client)
    command(app, "replace-internal-ca", replace_internal_ca)


def init(session: Session, names: Names = None, renew: Renew = False) -> None:
    """Make a CA and a server's certificate.

    They lie in <data-dir>/tls, and the next `crossfade up` on this data directory speaks TLS with them. A gateway that
    runs with them takes a renewed certificate at once. For a real CA, give its files to `crossfade up --tls-certificate
    FILE --tls-key FILE` instead.

    \b
      crossfade tls init --name scoring.example.com
      crossfade tls init --renew --name scoring.example.com
    """
    from adapters.certificate_authority import issued, key_pem, new_authority, pem
    from adapters.certificates import read_pair
    from router.private_files import write_private

    folder, now = TlsFolder.of(Path(session.data_dir)), datetime.now(UTC)
    if folder.authority.exists() and not renew:
        raise Conflict(f"{folder.authority} is there already: --renew replaces the server's certificate, the CA stays")
    if renew:
        authority = _authority(folder)
    else:
        folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority = new_authority(f"Crossfade CA of {socket.gethostname()}"[:64], now)
        write_private(folder.authority_key, key_pem(authority.key))
        folder.authority.write_bytes(pem(authority.certificate))
    wanted = _server_names(names or [])
    certificate, key = issued(authority, wanted, now)
    write_private(Path(folder.server.key), key)
    Path(folder.server.certificate).write_bytes(certificate)
    facts = read_pair(folder.server).facts
    result = {
        "ca": str(folder.authority),
        "certificate": folder.server.certificate,
        "key": folder.server.key,
        "names": list(facts.names),
        "not_after": facts.not_after.isoformat(),
    }
    session.show(result, lambda: _text(folder, facts.names, facts.not_after))


def client(session: Session, name: Client) -> None:
    """Make a client's certificate, signed by your own CA.

    That is the CA of `tls init`. For endpoints with `auth_mode: mtls`, on a gateway that runs with `--tls-client-ca
    <data-dir>/tls/ca.pem`.

    \b
      crossfade tls client spiffe://bank/batch-scoring
    """
    from adapters.certificate_authority import issued
    from router.private_files import write_private

    folder = TlsFolder.of(Path(session.data_dir))
    files = folder.client(name)
    certificate, key = issued(_authority(folder), [_checked(name)], datetime.now(UTC), is_client=True)
    Path(files.key).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(Path(files.key), key)
    Path(files.certificate).write_bytes(certificate)
    result = {"name": name, "certificate": files.certificate, "key": files.key}
    session.show(result, lambda: listing(list(result.items())))


def replace_internal_ca(session: Session) -> None:
    """Give the CA between hosts a successor.

    It is the one between this gateway and replicas on other hosts. The gateway does this by itself long before its CA
    runs out; do it when the CA's key may be known to somebody. A gateway that runs takes the new one within a minute,
    no request fails, and the old one is dropped after two days.

    It works on the files of --data-dir, on the gateway's own machine; --admin-url means nothing here.
    """
    from adapters.internal_authority import replace_authority

    home = Path(session.data_dir)
    try:
        gateway = (home / "gateway.id").read_text().strip()
    except OSError:
        raise Conflict(f"{home} is no data directory of a gateway: name it with --data-dir") from None
    signs, alone = replace_authority(home / "internal-ca", gateway, datetime.now(UTC))
    result = {"signs_from": signs.isoformat(), "alone_from": alone.isoformat()}
    session.show(
        result,
        lambda: (
            f"a new CA is trusted beside the old one, signs from {signs:%Y-%m-%d %H:%M} UTC,"
            f" and is the only one from {alone:%Y-%m-%d %H:%M} UTC"
        ),
    )


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """What was given of the options `--tls-certificate`, `--tls-key`, `--tls-client-ca`, `--tls-client-crl`.

    `prefix` stands before each: "" for the scoring ports', "admin-" for those of the admin API.
    """

    prefix: str = ""
    certificates: Sequence[str] = ()
    keys: Sequence[str] = ()
    client_ca: str | None = None
    client_crl: str | None = None

    def option(self, name: str) -> str:
        return f"--{self.prefix}tls-{name}"

    @property
    def is_given(self) -> bool:
        return bool(self.certificates or self.keys or self.client_ca or self.client_crl)


def listener_tls(options: TlsOptions, data_dir: Path) -> ListenerTls | None:
    """What `crossfade up` shall speak on its scoring ports. None: plain text.

    Raises `Invalid`, also for files that cannot be used.
    """
    made_here = TlsFolder.of(data_dir).listener()
    return _listener(options, made_here.certificates if made_here else ())


def own_port(name: str, bind: str, options: TlsOptions, data_dir: Path) -> OwnPort:
    """Where `crossfade up` shall listen with the port `name` of its own. Raises `Invalid`.

    Off loopback it takes the certificate of `crossfade tls init` by itself; on loopback, only what is named.
    """
    checked_address(f"--{name}-bind", bind)
    made_here = TlsFolder.of(data_dir).listener()
    usual = made_here.certificates if made_here and (options.is_given or not is_loopback(bind)) else ()
    return OwnPort(name, bind, _listener(options, usual))


def _listener(options: TlsOptions, usual: tuple[CertificateFiles, ...]) -> ListenerTls | None:
    """`usual`: what is taken when no certificate is named."""
    if len(options.certificates) != len(options.keys):
        raise Invalid(
            options.option("certificate"),
            "certificates and keys come in pairs",
            f"give as many {options.option('key')}, in the same order",
        )
    named = zip(options.certificates, options.keys, strict=True)
    pairs = tuple(CertificateFiles(_absolute(one), _absolute(other)) for one, other in named) or usual
    if not pairs and not options.is_given:
        return None
    if not pairs:
        hint = "`crossfade tls init` makes one for a start"
        raise Invalid(options.option("certificate"), "TLS needs a certificate", hint)
    if options.client_crl and not options.client_ca:
        hint = f"give {options.option('client-ca')} as well"
        raise Invalid(options.option("client-crl"), "revokes certificates of no CA", hint)
    tls = ListenerTls(pairs, _absolute(options.client_ca), _absolute(options.client_crl))
    _check(tls)
    return tls


def _check(tls: ListenerTls) -> None:
    """Files that cannot be used are told before anything is started."""
    from adapters.certificates import read_pair, read_trust
    from router.domain.tls import BadCertificate

    try:
        for files in tls.certificates:
            read_pair(files)
        if tls.has_client_ca:
            read_trust(tls.client_ca, tls.client_crl)
    except BadCertificate as error:
        raise Invalid("", str(error), "`crossfade tls init` makes a certificate for a start") from None


def _authority(folder: TlsFolder) -> Authority:
    from adapters.certificate_authority import read_authority

    if not folder.authority.exists():
        raise Conflict(f"there is no CA in {folder.path}: `crossfade tls init` makes one")
    return read_authority(folder.authority, folder.authority_key)


def _server_names(asked: list[str]) -> list[str]:
    names = [*(_checked(name) for name in asked), "localhost", socket.gethostname(), "127.0.0.1", "::1"]
    return list(dict.fromkeys(names))


def _checked(name: str) -> str:
    if not name or not name.isascii() or any(letter.isspace() for letter in name):
        raise Invalid(
            "NAME", f"{name!r} is no DNS name, address or URI", "write an international name in its xn-- form"
        )
    return name


def _absolute(path: str | None) -> str:
    """Links are followed when the files are read: replacing a link replaces the certificate."""
    return str(Path(path).absolute()) if path else ""


def _text(folder: TlsFolder, names: tuple[str, ...], not_after: datetime) -> str:
    facts = [
        ("certificate", f"{folder.server.certificate}, for {', '.join(names)}"),
        ("valid until", f"{not_after:%Y-%m-%d} (crossfade tls init --renew makes the next one)"),
        ("give clients", f"{folder.authority}"),
        ("keep to yourself", f"{folder.authority_key}: whoever has it can pose as this gateway"),
    ]
    examples = [
        "",
        "`crossfade up` on this data directory now speaks TLS. Clients name the CA:",
        f"  curl --cacert {folder.authority} https://{names[0]}:8000/v2/health/live",
        f"  tritonclient.http:  InferenceServerClient('{names[0]}:8000', ssl=True,",
        f"      ssl_context_factory=lambda: ssl.create_default_context(cafile='{folder.authority}'))",
        f"  tritonclient.grpc:  InferenceServerClient('{names[0]}:8001', ssl=True,",
        f"      root_certificates='{folder.authority}')",
    ]
    return "\n".join([listing(facts), *examples])
