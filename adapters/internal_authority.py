"""The gateway's internal CA: kept in the data directory, followed by another one in time, and trusted by this gateway's
Envoy and replicas alone."""

from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from adapters.certificate_authority import Authority, key_pem, new_authority, pem, read_authority, signed
from adapters.certificates import facts_of
from router.domain.ca_succession import STANDS_ALONE_AFTER, Life, Line, is_due, lives_for, signs_from
from router.domain.errors import Conflict, Invalid
from router.domain.replica_tls import CERTIFICATE_LIVES, CertificateRequest, Certified, envoy_uri
from router.domain.tls import (
    BadCertificate,
    CertificateFacts,
    CertificateFiles,
    CertificatePair,
    CertificateStatus,
    ClientTrust,
    Secret,
)
from router.private_files import write_private

_MAX_REQUEST_BYTES = 8192
_UNFINISHED = ".making"
_MADE_AT = "%Y%m%dT%H%M%S"
_IS_MADE_WITHIN = timedelta(hours=1)  # in another process, on the same clock: seconds, if it is not killed
_CERTIFICATE, _KEY = "ca.pem", "ca.key"


@dataclass(frozen=True, slots=True)
class KeptAuthority:
    """A CA and the folder that its two files are in."""

    authority: Authority
    folder: Path

    @property
    def facts(self) -> CertificateFacts:
        return replace(facts_of(self.authority.certificate), names=("internal CA",))

    @property
    def life(self) -> Life:
        return Life(self.facts.not_before, self.facts.not_after)

    def has_signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self.authority.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True


class InternalAuthority:
    """Implements `router.replica_certificates.Authority`. `gateway`: its id, which is in all names.

    `folder`: where the CA is, and in folders of their own those that follow it (router/domain/ca_succession.py).
    `lives`: for how long its certificates are good. The CA's own is good for ten years, and followed in time.
    """

    def __init__(
        self, gateway: str, line: Sequence[KeptAuthority], folder: Path, lives: timedelta = CERTIFICATE_LIVES
    ) -> None:
        """`line`: one at least, oldest first."""
        self._gateway = gateway
        self._line = tuple(line)
        self._signing = self._line[0]
        self._folder = folder
        self._lives = lives
        self._refused = ""

    @classmethod
    def in_folder(cls, folder: Path, gateway: str, now: datetime) -> InternalAuthority:
        """The one that is kept there, else a new one. Raises `BadCertificate` when what is there is broken: a new one
        in its place would lock out the replicas that run."""
        if not _is_begun(folder):
            _make(folder, f"Crossfade internal CA of {gateway}", now)
        found = cls(gateway, _line_in(folder, now), folder)
        found.look(now)
        return found

    @property
    def trust(self) -> ClientTrust:
        return ClientTrust(b"".join(pem(kept.authority.certificate) for kept in self._line))

    @property
    def status(self) -> tuple[CertificateStatus, ...]:
        return tuple(
            CertificateStatus(CertificateFiles(str(kept.folder / _CERTIFICATE), ""), kept.facts, self._refused)
            for kept in self._line
        )

    def look(self, now: datetime) -> str:
        """Take whoever has come, give the newest a successor when that is due, and drop who is no longer needed.

        Returns why that cannot be done, if so; then those in force stay, in this process."""
        try:
            self._look(now)
        except (BadCertificate, OSError) as error:
            self._refused = str(error)
        else:
            self._refused = ""
        return self._refused

    def _look(self, now: datetime) -> None:
        line = _line_in(self._folder, now)
        if is_due(line[-1].facts.not_after, now):
            line = (*line, _succeed(self._folder, self._gateway, now))
        standing = Line.of([kept.life for kept in line], now)
        for kept in line[: standing.first]:
            self._drop(kept.folder)
        self._signing = line[standing.signs]
        self._line = line[standing.first :]
        _sweep(self._folder, now)

    def _drop(self, folder: Path) -> None:
        if folder == self._folder:
            _remove_own(folder)
        else:  # at once: half of it would be an error
            folder.rename(folder.with_name(f"{folder.name}{_UNFINISHED}"))

    def for_envoy(self, now: datetime) -> CertificatePair:
        """A client's, with a key of its own, which goes to Envoy and into no file."""
        key = ec.generate_private_key(ec.SECP256R1())
        name, purpose = envoy_uri(self._gateway), ExtendedKeyUsageOID.CLIENT_AUTH
        certificate = self._signed(key.public_key(), [name], purpose, now)
        return CertificatePair(pem(certificate), Secret(key_pem(key)), facts_of(certificate))

    def stands_for(self, pair: CertificatePair) -> bool:
        certificate = x509.load_pem_x509_certificate(pair.chain)
        return any(kept.has_signed(certificate) for kept in self._line)

    def for_replica(self, request: CertificateRequest, now: datetime) -> Certified:
        """A server's, for that name and address and for nothing else that the request may ask for.

        Raises `BadCertificate` when the request is malformed, not signed with its own key, or of somebody else.
        """
        name = request.name
        try:
            name.check()
        except Invalid as error:
            raise BadCertificate(f"the request is malformed: {error}") from None
        if name.gateway != self._gateway:
            raise BadCertificate(f"the request is for a replica of the gateway {name.gateway}, not {self._gateway}")
        key = _key_of(request.signing_request, [name.uri, name.ip])
        names, purpose = [name.uri, name.ip], ExtendedKeyUsageOID.SERVER_AUTH
        certificate = self._signed(key, names, purpose, now)
        facts = facts_of(certificate)
        return Certified(pem(certificate), self.trust.authorities, facts.not_before, facts.not_after)

    def _signed(
        self, key: ec.EllipticCurvePublicKey, names: Sequence[str], purpose: x509.ObjectIdentifier, now: datetime
    ) -> x509.Certificate:
        lives = lives_for(self._lives, self._signing.life.ends, now)
        return signed(self._signing.authority, key, names, purpose, now, lives)


def replace_authority(folder: Path, gateway: str, now: datetime) -> tuple[datetime, datetime]:
    """Give the CA that is kept there a successor, which a gateway that runs takes by itself. Returns from when on it
    signs, and from when on it alone is trusted.

    Raises `BadCertificate` when what is there is broken, `Conflict` when nothing is, or a successor is on its way.
    """
    if not _is_begun(folder):
        raise Conflict(f"{folder} holds no internal CA: the first `crossfade up --ray-address ADDRESS` makes it")
    line = _line_in(folder, now)
    newest, ends = line[-1].life.made, line[-1].life.ends
    if len(line) > 1 and now - newest < STANDS_ALONE_AFTER:
        until = newest + STANDS_ALONE_AFTER
        raise Conflict(f"the internal CA is being replaced already, until {until:%Y-%m-%d %H:%M} UTC")
    made = _succeed(folder, gateway, now).facts.not_before
    return signs_from(made, ends), made + STANDS_ALONE_AFTER


def _is_begun(folder: Path) -> bool:
    """Whether there is, or was, a CA in it."""
    return folder.is_dir() and any(folder.iterdir())


def _line_in(folder: Path, now: datetime) -> tuple[KeptAuthority, ...]:
    """All that are there, oldest first, without those that have expired when others have not."""
    followers = [path for path in folder.iterdir() if path.is_dir() and not path.name.endswith(_UNFINISHED)]
    found = [KeptAuthority(_read(path), path) for path in followers]
    found.sort(key=lambda kept: kept.facts.not_before)
    is_alone = bool(found) and now - found[-1].facts.not_before >= STANDS_ALONE_AFTER
    has_own = (folder / _CERTIFICATE).exists() or (folder / _KEY).exists()
    if has_own and not is_alone:
        found.insert(0, KeptAuthority(_read(folder), folder))
    elif has_own:
        _remove_own(folder)  # it was to be, when this was broken off
    if not found:
        raise BadCertificate(f"{folder / _CERTIFICATE} is missing; {_what_to_do(folder)}")
    good = [kept for kept in found if not kept.facts.is_expired(now)]
    return tuple(good or found[-1:])


def _read(folder: Path) -> Authority:
    for name in (_CERTIFICATE, _KEY):
        if not (folder / name).exists():
            raise BadCertificate(f"{folder / name} is missing; {_what_to_do(folder)}")
    try:
        return read_authority(folder / _CERTIFICATE, folder / _KEY)
    except BadCertificate as error:
        raise BadCertificate(f"{error}; {_what_to_do(folder)}") from None


def _what_to_do(folder: Path) -> str:
    return f"bring {folder} back from a backup, or remove it and start the gateway's replicas again"


def _succeed(folder: Path, gateway: str, now: datetime) -> KeptAuthority:
    """Of another name than those before: whoever verifies a certificate looks for its CA by name."""
    where = folder / f"{now:{_MADE_AT}}"
    name = f"Crossfade internal CA of {gateway} since {now:%Y-%m-%d %H:%M:%S}"
    return KeptAuthority(_make(where, name, now), where)


def _make(folder: Path, name: str, now: datetime) -> Authority:
    """The folder appears with both files or not at all."""
    unfinished = folder.with_name(f"{folder.name}{_UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True, mode=0o700)
    made = new_authority(name, now)
    write_private(unfinished / _KEY, key_pem(made.key))
    write_private(unfinished / _CERTIFICATE, pem(made.certificate))
    unfinished.rename(folder)
    return made


def _sweep(folder: Path, now: datetime) -> None:
    """Remove whom nobody finishes making, and whoever was dropped: each has a key that would be good for years."""
    for unfinished in folder.glob(f"*{_UNFINISHED}"):
        if not _is_being_made(unfinished, now):
            shutil.rmtree(unfinished)


def _is_being_made(unfinished: Path, now: datetime) -> bool:
    try:
        begun = datetime.strptime(unfinished.name.removesuffix(_UNFINISHED), _MADE_AT).replace(tzinfo=now.tzinfo)
    except ValueError:
        return False
    return abs(now - begun) < _IS_MADE_WITHIN


def _remove_own(folder: Path) -> None:
    """Of the first CA, in whose folder the others are."""
    for name in (_KEY, _CERTIFICATE):
        (folder / name).unlink(missing_ok=True)


def _key_of(signing_request: bytes, names: list[str]) -> ec.EllipticCurvePublicKey:
    """The key that is asked to be certified for `names`, a URI and an address, and for no other."""
    if len(signing_request) > _MAX_REQUEST_BYTES:
        raise BadCertificate("the request is larger than any")
    try:
        parsed = x509.load_pem_x509_csr(signing_request)
        is_signed = parsed.is_signature_valid
        key, asked = parsed.public_key(), _names_in(parsed)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise BadCertificate("the request is malformed") from None
    except Exception as error:  # of cryptography's own kinds: an algorithm that it does not know, a doubled extension
        raise BadCertificate(f"the request is malformed ({type(error).__name__})") from None
    if not is_signed:
        raise BadCertificate("the request is not signed with the key that it is for")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadCertificate("the request's key is not ECDSA on P-256")
    if asked != names:
        raise BadCertificate(f"the request of {', '.join(names)} is for {', '.join(asked) or 'nobody'}")
    return key


def _names_in(parsed: x509.CertificateSigningRequest) -> list[str]:
    found = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [_written(name) for name in found]


def _written(name: x509.GeneralName) -> str:
    """As `ReplicaName` has it."""
    match name.value:
        case str(text):
            return text
        case ipaddress.IPv4Address() | ipaddress.IPv6Address() as address:
            return str(address)
        case _:
            return type(name).__name__
