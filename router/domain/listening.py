"""Listening: at which addresses scoring is offered, what may be seen at each, and whose requests are taken there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from router.domain.errors import Invalid
from router.domain.names import checked_name

MAX_LISTENERS = 32
MAX_NETWORKS = 1000

# The listener that `crossfade up` describes by its options: --bind, --http-port, --grpc-port, --tls-…
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Clients:
    """Whose requests are taken, by their address: networks in CIDR notation, sorted.

    `deny` wins over `allow`; an empty `allow` means everybody.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    @property
    def is_everybody(self) -> bool:
        return not self.allow and not self.deny

    def take(self, address: str) -> bool:
        """Whether a request from this IP address is taken. One of IPv4 may be written as one of IPv6."""
        if self.is_everybody:
            return True
        found = ipaddress.ip_address(address)
        one = getattr(found, "ipv4_mapped", None) or found
        return (not self.allow or _is_in(one, self.allow)) and not (self.deny and _is_in(one, self.deny))


@dataclass(frozen=True, slots=True)
class Everything:
    """Every endpoint, also those that come later."""


@dataclass(frozen=True, slots=True)
class Selected:
    """The endpoints of these names, and those of these groups; both sorted. They need not exist yet."""

    names: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


Visible = Everything | Selected


@dataclass(frozen=True, slots=True)
class Place:
    """One port of one IP address. `is_tls`: with the gateway's certificates; else plain text."""

    address: str
    port: int
    is_tls: bool = True

    def __post_init__(self) -> None:
        checked_address("address", self.address)
        if not 1 <= self.port <= 65535:
            raise Invalid("port", f"{self.port} is not a port", "use 1 to 65535")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener as it was asked for. `place` None: where the options of `crossfade up` say; its name is `DEFAULT`.

    `trusted_proxies`: whose word is taken for where a request comes from (X-Forwarded-For, and the PROXY protocol).
    `is_proxied`: every connection begins with the PROXY protocol, and comes from one of them.
    """

    name: str
    visible: Visible = field(default_factory=Everything)
    place: Place | None = None
    clients: Clients = field(default_factory=Clients)
    trusted_proxies: tuple[str, ...] = ()
    is_proxied: bool = False

    def __post_init__(self) -> None:
        checked_name("name", self.name)
        if self.name == DEFAULT and self.place is not None:
            raise Invalid(
                "address", f"listener {DEFAULT!r} is where `crossfade up` was told", "leave address, port and tls out"
            )
        if self.name != DEFAULT and self.place is None:
            raise Invalid("address", f"listener {self.name!r} needs an address and a port", "such as 10.0.0.5 and 9000")
        if self.is_proxied and not self.trusted_proxies:
            raise Invalid(
                "trusted_proxies",
                "with proxy_protocol, whoever connects says where a request comes from: nobody is named who may",
                "name the networks of the proxies",
            )


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """What the operator asks of the gateway as a whole. All listeners: what is not here is not offered."""

    listeners: tuple[Listener, ...] = (Listener(DEFAULT),)

    def __post_init__(self) -> None:
        if not 1 <= len(self.listeners) <= MAX_LISTENERS:
            raise Invalid(
                "listeners", f"there are {len(self.listeners)}", f"use 1 to {MAX_LISTENERS}; `default` is up's own"
            )
        names = [listener.name for listener in self.listeners]
        for number, name in enumerate(names):
            if name in names[:number]:
                raise Invalid(f"listeners[{number}].name", f"{name!r} is described twice", "give each its own name")
        places = [(number, it.place) for number, it in enumerate(self.listeners) if it.place is not None]
        for number, place in places:
            for earlier, other in places:
                if earlier < number and overlap(place.address, place.port, other.address, other.port):
                    name = self.listeners[earlier].name
                    raise Invalid(
                        f"listeners[{number}].port", f"{place.port} is taken by listener {name!r}", "give each its own"
                    )


@dataclass(frozen=True, slots=True)
class Offer:
    """A listener with its ports, all of which serve the same."""

    name: str
    address: str
    ports: tuple[int, ...]
    is_tls: bool
    visible: Visible = field(default_factory=Everything)
    clients: Clients = field(default_factory=Clients)
    trusted_proxies: tuple[str, ...] = ()
    is_proxied: bool = False

    @property
    def is_loopback(self) -> bool:
        """Whether it is offered to this machine only. A proxy on this machine may stand for any other."""
        is_ours = ipaddress.ip_address(self.address).is_loopback
        return is_ours and not self.trusted_proxies

    @property
    def is_overheard(self) -> bool:
        """Plain text at an address of a network: whoever is on the way can read what passes, credentials too."""
        return not self.is_tls and not ipaddress.ip_address(self.address).is_loopback

    @property
    def shows_everything(self) -> bool:
        return self.visible == Everything()

    def shows(self, endpoint: str, group: str) -> bool:
        return shows(self.visible, endpoint, group)


def shows(visible: Visible, endpoint: str, group: str) -> bool:
    match visible:
        case Everything():
            return True
        case Selected(names, groups):
            return endpoint in names or (bool(group) and group in groups)


def nearest(offers: Iterable[Offer]) -> Offer:
    """The listener that a client on this machine is best told of."""
    return min(offers, key=lambda offer: (offer.is_proxied, offer.name != DEFAULT, not offer.shows_everything))


@dataclass(frozen=True, slots=True)
class Premises:
    """What a gateway's process was started with: where the default listener is, and which ports are others'.

    `verifies_clients`: listeners with TLS ask clients for certificates.
    `taken`: (what for, address, port), of ports that do something else than scoring.
    """

    address: str = "127.0.0.1"
    ports: tuple[int, ...] = (8000, 8001)
    is_tls: bool = False
    verifies_clients: bool = False
    taken: tuple[tuple[str, str, int], ...] = ()

    def offers(self, spec: GatewaySpec) -> tuple[Offer, ...]:
        """Raises `Invalid` where the listeners do not go with what the process was started with."""
        return tuple(self._offer(number, listener) for number, listener in enumerate(spec.listeners))

    def _offer(self, number: int, listener: Listener) -> Offer:
        place = listener.place
        if place is None:
            address, ports, is_tls = self.address, self.ports, self.is_tls
        else:
            self._check(number, place)
            address, ports, is_tls = place.address, (place.port,), place.is_tls
        return Offer(
            listener.name,
            address,
            ports,
            is_tls,
            listener.visible,
            listener.clients,
            listener.trusted_proxies,
            listener.is_proxied,
        )

    def _check(self, number: int, place: Place) -> None:
        if place.is_tls and not self.is_tls:
            raise Invalid(
                f"listeners[{number}].tls",
                "this gateway has no certificate",
                "start it with --tls-certificate, or after `crossfade tls init`, or set tls: false for plain text",
            )
        for port in self.ports:
            if overlap(place.address, place.port, self.address, port):
                # Also when there is no such listener now: it could never come back beside this one.
                raise Invalid(
                    f"listeners[{number}].port",
                    f"{port} is where `crossfade up` was told to listen",
                    f"name that listener {DEFAULT!r}, without an address",
                )
        for what, address, port in self.taken:
            if overlap(place.address, place.port, address, port):
                raise Invalid(f"listeners[{number}].port", f"{port} is for {what}", "use another")


def checked_address(key: str, text: str) -> str:
    """Return `text` when it is an IP address as its network writes it, else raise `Invalid` for `key`."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise Invalid(key, f"{text[:60]!r} is not an IP address", "use one of this machine, such as 10.0.0.5") from None
    if str(address) != text or getattr(address, "scope_id", None):
        raise Invalid(key, f"{text!r} is not how this address is written", f"write {str(address).partition('%')[0]}")
    return text


def checked_network(key: str, text: str) -> str:
    """Return `text` when it is a network in CIDR notation, else raise `Invalid` for `key`."""
    example = "such as 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32"
    _, slash, _ = text.partition("/")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Invalid(key, f"{text[:60]!r} is not a network", example) from None
    if not slash:
        raise Invalid(key, f"{text!r} is an address", f"write {network} for this one alone")
    if str(network) != text:
        raise Invalid(key, f"{text!r} is not how a network is written", f"did you mean {network}?")
    return text


def overlap(address: str, port: int, other_address: str, other_port: int) -> bool:
    """Whether the two cannot be listened on at the same time."""
    one, other = ipaddress.ip_address(address), ipaddress.ip_address(other_address)
    if port != other_port or one.version != other.version:
        return False
    return one == other or one.is_unspecified or other.is_unspecified


def exposed(offers: Iterable[Offer], endpoint: str, group: str) -> Iterator[Offer]:
    """The listeners through which others than this machine can call an endpoint."""
    return (offer for offer in offers if not offer.is_loopback and offer.shows(endpoint, group))


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: tuple[str, ...]) -> bool:
    number = int(address)
    return any(number >> shift in found for version, shift, found in _prefixes(networks) if version == address.version)


@lru_cache(maxsize=64)  # it is asked for every stream of an endpoint, and 1,000 networks take 5 ms to be read
def _prefixes(networks: tuple[str, ...]) -> tuple[tuple[int, int, frozenset[int]], ...]:
    """By IP version and length: (version, how many bits are the host's, the others' values). So that an address is
    looked up as often as there are lengths, not networks."""
    found: dict[tuple[int, int], set[int]] = {}
    for text in networks:
        network = ipaddress.ip_network(text)
        shift = network.max_prefixlen - network.prefixlen
        found.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
    return tuple((version, shift, frozenset(values)) for (version, shift), values in found.items())
