"""What the operator allows when models are fetched: hosts, proxy, certificates, secrets by reference, bounds.

Values and the decisions that follow from them; `settings_reading` makes them out of `registries.yaml`. No secret is in
here, only where each is to be read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from router.domain.errors import Invalid
from router.models.ports import SourceLimits
from router.models.signing import SignaturePolicy

HUGGING_FACE = "https://huggingface.co"
# Where the public hub keeps its large files (https://huggingface.co/docs/hub/xet/security and its redirects).
HUGGING_FACE_HOSTS = ("huggingface.co", "*.huggingface.co", "*.hf.co")

_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A secret in a variable of the control plane's environment."""

    name: str


@dataclass(frozen=True, slots=True)
class FromFile:
    """A secret that is the content of a file, without the line end. Read again whenever the file has changed."""

    path: str


@dataclass(frozen=True, slots=True)
class FromCommand:
    """A secret that a program prints; run without a shell, and again after a minute."""

    argv: tuple[str, ...]


SecretPlace = FromEnvironment | FromFile | FromCommand


@dataclass(frozen=True, slots=True)
class Host:
    """What is special about one host. Files are absolute paths of PEM files, "" for none."""

    username: SecretPlace | None = None
    password: SecretPlace | None = None
    token: SecretPlace | None = None
    ca_bundle: str = ""
    client_certificate: str = ""
    client_key: str = ""
    is_plain_http: bool = False

    def __post_init__(self) -> None:
        if self.token and (self.username or self.password):
            raise Invalid("token", "cannot stand beside username and password", "give one way to sign in")
        if self.password and not self.username:
            raise Invalid("password", "has no username", "give both")
        if self.client_key and not self.client_certificate:
            raise Invalid("client_key", "has no client_certificate", "give both")


@dataclass(frozen=True, slots=True)
class DirectHosts:
    """`no_proxy` in its parts: names, `.suffixes`, networks (an address is a network of one)."""

    names: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def of(cls, entries: tuple[str, ...]) -> DirectHosts:
        """Raises `Invalid` for an entry that is neither a name nor a network."""
        names: set[str] = set()
        suffixes: list[str] = []
        networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in entries:
            network = _network(entry.strip("[]"))
            if network is not None:
                networks.append(network)
            elif not _is_name(entry.removeprefix(".")):
                raise Invalid("no_proxy", f"{entry!r} is not a name or a network", "such as .internal or 10.0.0.0/8")
            else:
                suffixes.append("." + entry.removeprefix(".").lower())
                if not entry.startswith("."):
                    names.add(entry.lower())
        return cls(frozenset(names), tuple(sorted(suffixes)), tuple(networks))

    def __contains__(self, host: str) -> bool:
        """A name matches itself and what is below it, `.suffix` only what is below; networks match addresses, not names
        that resolve to one (as Go and curl have it). This machine is always asked directly."""
        address = _address(host)
        if address is not None:
            return address.is_loopback or any(address in network for network in self.networks)
        return host == "localhost" or host in self.names or host.endswith(self.suffixes)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """In seconds. `connect_s`, `read_s`: of one step; `request_s`: of a small exchange with all its repetitions.

    `read_s` is also the longest time in which less than 64 KiB of a file may come.
    """

    connect_s: float = 10.0
    read_s: float = 60.0
    request_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Signatures:
    """`keys`: paths of PEM files with the public keys of those who may sign models."""

    policy: SignaturePolicy = SignaturePolicy.OFF
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.policy is not SignaturePolicy.OFF and not self.keys:
            raise Invalid("signatures.keys", f"is missing with policy {self.policy}", "name the signers' public keys")


@dataclass(frozen=True, slots=True)
class ObjectStorage:
    """Where the buckets of a scheme are. `endpoint`: a URL, "" for the public cloud's own. `region`: for S3, "" for the
    environment's. `account`: Azure's, "" for the environment's. `is_anonymous`: nothing is signed."""

    endpoint: str = ""
    region: str = ""
    account: str = ""
    is_anonymous: bool = False


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """`allowed_hosts` None: only the hosts that other settings name, and the public Hugging Face hub.

    `hosts`: by authority, see `authority`. `allowed_sources`: how the places that a registry may send us to begin.
    """

    proxy: str = ""
    direct: DirectHosts = DirectHosts()
    ca_bundle: str = ""
    allowed_hosts: tuple[str, ...] | None = None
    allowed_sources: tuple[str, ...] = ()
    hosts: Mapping[str, Host] = field(default_factory=dict)
    mlflow_server: str = ""
    huggingface_server: str = ""
    s3: ObjectStorage = ObjectStorage()
    gs: ObjectStorage = ObjectStorage()
    az: ObjectStorage = ObjectStorage()
    limits: SourceLimits = field(default_factory=SourceLimits)
    timeouts: Timeouts = Timeouts()
    signatures: Signatures = Signatures()
    allow_python_models: bool = False  # a Triton repository may bring a model.py, which runs as the server does

    @property
    def huggingface_endpoint(self) -> str:
        return self.huggingface_server or HUGGING_FACE

    def storage(self, provider: str) -> ObjectStorage:
        """`provider`: s3, gs or az."""
        return {"s3": self.s3, "gs": self.gs, "az": self.az}[provider]

    def host(self, asked: str) -> Host:
        """`asked`: an authority."""
        return self.hosts.get(asked, _NOTHING_SPECIAL)

    def proxy_for(self, host: str) -> str:
        """The proxy's URL, or "" when `host` (a name or an address) is asked directly."""
        return "" if host in self.direct else self.proxy

    def is_host_allowed(self, asked: str) -> bool:
        """`asked`: an authority."""
        endpoints = (self.s3.endpoint, self.gs.endpoint, self.az.endpoint)
        servers = [server for server in (self.mlflow_server, self.huggingface_server, *endpoints) if server]
        if asked in self.hosts or asked in map(authority_of, servers):
            return True
        patterns = HUGGING_FACE_HOSTS if self.allowed_hosts is None else self.allowed_hosts
        return any(_matches(pattern, asked) for pattern in patterns)

    def is_source_allowed(self, place: str) -> bool:
        """Whether a registry may send us to `place`, such as s3://bucket/models/7. Entries match whole path parts."""
        if ".." in place.split("/") or not place.isprintable():
            return False
        begins = (entry.rstrip("/") for entry in self.allowed_sources)
        return any(place == begin or place.startswith(f"{begin}/") for begin in begins)


_NOTHING_SPECIAL = Host()


def authority(scheme: str, host: str, port: int | None) -> str:
    """How settings name a host: in lower case, with its port unless that is the scheme's own, IPv6 in brackets."""
    name = f"[{host}]" if ":" in host else host
    return name.lower() if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{name.lower()}:{port}"


def authority_of(url: str) -> str:
    parts = urlsplit(url)
    return authority(parts.scheme, parts.hostname or "", parts.port)


def checked_authority(key: str, text: str) -> str:
    """A host as the operator wrote it → an authority. Raises `Invalid`."""
    hint = "write it like registry.internal or registry.internal:5000"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Invalid(key, f"{text[:80]!r} is not a host", hint) from None
    is_whole = parts.netloc == text and "@" not in text and not text.endswith(":")
    if not is_whole or not (_is_name(host) or _address(host) is not None):
        raise Invalid(key, f"{text[:80]!r} is not a host", hint)
    return authority("https" if port != _DEFAULT_PORTS["http"] else "http", host, port)


def checked_pattern(key: str, text: str) -> str:
    """One entry of `allowed_hosts`: a host, `*.suffix`, or `*` for everything. Raises `Invalid`."""
    if text == "*":
        return text
    stars = "*." if text.startswith("*.") else ""
    return stars + checked_authority(key, text.removeprefix("*."))


def _matches(pattern: str, asked: str) -> bool:
    return pattern in ("*", asked) or (pattern.startswith("*.") and asked.endswith(pattern[1:]))


def _is_name(text: str) -> bool:
    parts = text.split(".")
    return len(text) <= 253 and all(
        part and part.isascii() and part.replace("-", "").replace("_", "").isalnum() for part in parts
    )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
