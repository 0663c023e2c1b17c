"""Whose certificates the command line believes, which one it shows, and what to do when that goes wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

from router.domain.errors import Invalid
from router.tls_folder import TlsFolder

# OpenSSL's words for X.509 (x509_vfy.h), as far as something else than "not trusted" helps.
_NOT_YET_VALID, _EXPIRED = 9, 10
_OTHER_NAME = (62, 64)  # a host name, an IP address


def trusted_context(
    ca_option: str, ca: str | None, data_dir: str, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """Believes the CA in the file `ca`, else that of the data directory, else the system's.

    `certificate` is shown to whoever asks for one; `key` is its private key, else the file beside it, .key. Raises
    `Invalid` for a file that holds none.
    """
    own = TlsFolder.of(Path(data_dir)).authority
    file = ca or (str(own) if own.exists() else None)
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:
        words = "holds no CA certificate" if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
        raise Invalid(ca_option, f"{file} {words}", "give the CA's certificate in PEM") from None
    if certificate is not None:
        beside = key or str(Path(certificate).with_suffix(".key"))
        try:
            context.load_cert_chain(certificate, beside, _no_passphrase)
        except (OSError, _NeedsPassphrase) as error:
            words = _fault(error)
            raise Invalid("", f"{certificate} and {beside}: {words}", "`crossfade tls client` makes a pair") from None
    elif key is not None:
        raise Invalid("--client-key", "a key alone is not shown to anybody", "give --client-certificate as well")
    return context


def tls_fault(error: BaseException) -> str:
    """What is wrong between client and server, and what to do; empty when it is not about TLS.

    `error` is what the HTTP client raised; what OpenSSL said stands somewhere behind it.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    match cause:
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
            return f"its certificate is for another name ({cause.verify_message}): use a name that is in it"
        case ssl.SSLCertVerificationError(verify_code=code) if code == _EXPIRED:
            return "its certificate has expired: whoever runs it must renew it"
        case ssl.SSLCertVerificationError(verify_code=code) if code == _NOT_YET_VALID:
            return "its certificate is not valid yet: compare the clocks of both machines"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({cause.verify_message}): name the CA that signed it"
        case ssl.SSLError(reason=reason) if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
            return "it does not speak TLS there"
        case ssl.SSLError(reason=reason) if reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA")):
            return f"it refuses the client's certificate, or wants one ({_spelt(reason)})"
        case ssl.SSLError(reason=reason):
            return f"TLS fails ({_spelt(reason or 'no reason given')})"
    return ""


def _spelt(reason: str) -> str:
    """OpenSSL's TLSV13_ALERT_CERTIFICATE_REQUIRED in words."""
    return reason.lower().replace("_", " ")


class _NeedsPassphrase(Exception):
    """The key is encrypted."""


def _no_passphrase() -> str:
    """Instead of OpenSSL's own question on the terminal, which would wait for ever in a script."""
    raise _NeedsPassphrase


def _fault(error: Exception) -> str:
    match error:
        case _NeedsPassphrase():
            return "the key is encrypted; give one without a passphrase"
        case ssl.SSLError():
            return "they do not fit together"
        case _:
            return str(getattr(error, "strerror", None) or "they cannot be read").lower()
