"""Every key of `kind: Gateway`, and the lists of clients, which endpoints have as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from router.domain.errors import Invalid
from router.domain.listening import (
    DEFAULT,
    MAX_LISTENERS,
    MAX_NETWORKS,
    Clients,
    Everything,
    GatewaySpec,
    Listener,
    Place,
    Selected,
    Visible,
    checked_address,
    checked_network,
)
from router.spec.nodes import ListNode, MapNode, Node, ScalarNode, describe
from router.spec.reading import WRONG, At
from router.spec.rollout_values import ListOf, Translated
from router.spec.sections import Key, Section
from router.spec.values import Flag, Name, Whole

_MAX_NAMES = 10_000


@dataclass(frozen=True, slots=True)
class Checked:
    """Text that the domain checks: `check(key, text)` returns it, or raises `Invalid`."""

    check: Callable[[str, str], str]
    example: str

    def read(self, node: Node, at: At) -> Any:
        if not (isinstance(node, ScalarNode) and isinstance(node.value, str)):
            return at.wrong(node, f"must be text, not {describe(node)}", f"such as {self.example}")
        try:
            return self.check(at.path, node.value)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: str | None) -> Any:
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "examples": [self.example]}


@dataclass(frozen=True, slots=True)
class Sorted:
    """A list whose order means nothing, and in which nothing comes twice."""

    items: ListOf

    def read(self, node: Node, at: At) -> Any:
        values = self.items.read(node, at)
        if values is WRONG:
            return WRONG
        for number, value in enumerate(values):
            if value in values[:number]:
                return at.wrong(node, f"{value!r} comes twice", "name it once")
        return tuple(sorted(values))

    def plain(self, value: tuple[str, ...]) -> Any:
        return self.items.plain(value)

    def schema(self) -> dict[str, Any]:
        return self.items.schema()


NETWORKS = Sorted(ListOf(Checked(checked_network, "10.0.0.0/8"), MAX_NETWORKS))
_NAMES = Sorted(ListOf(Name(), _MAX_NAMES))
_EVERYTHING = "all"

_SELECTED = Section(
    Selected,
    (
        Key("names", "names", _NAMES, "Endpoints by name; they need not exist yet."),
        Key("groups", "groups", _NAMES, "All endpoints of these groups."),
    ),
)


@dataclass(frozen=True, slots=True)
class VisibleEndpoints:
    """`all`, a list of names, or `{names: [...], groups: [...]}`."""

    def read(self, node: Node, at: At) -> Any:
        if isinstance(node, ScalarNode) and node.value == _EVERYTHING:
            return Everything()
        if isinstance(node, ListNode):
            names = _NAMES.read(node, at)
            return WRONG if names is WRONG else Selected(names)
        if isinstance(node, MapNode):
            return _SELECTED.read(node, at)
        hint = "use all, a list of names, or {groups: [NAME]}"
        return at.wrong(node, f"must say which endpoints, not {describe(node)}", hint)

    def plain(self, value: Visible) -> Any:
        match value:
            case Everything():
                return _EVERYTHING
            case Selected(names, ()):
                return list(names)
            case Selected():
                return _SELECTED.plain(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": _EVERYTHING}, _NAMES.schema(), _SELECTED.schema()]}


ALLOW_CLIENTS = Key(
    "allow_clients",
    "allow_clients",
    NETWORKS,
    "Networks (CIDR) of the clients whose requests are taken; others get 403. Left out: everybody's are.",
)
DENY_CLIENTS = Key(
    "deny_clients", "deny_clients", NETWORKS, "Networks (CIDR) of clients who get 403, also when they are allowed."
)


@dataclass(frozen=True, slots=True)
class WrittenListener:
    """A listener as a spec has it."""

    name: str
    endpoints: Visible
    address: str | None = None
    port: int | None = None
    tls: bool | None = None
    allow_clients: tuple[str, ...] = ()
    deny_clients: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    proxy_protocol: bool = False


def _listener(written: WrittenListener) -> Listener:
    return Listener(
        written.name,
        written.endpoints,
        _place(written),
        Clients(written.allow_clients, written.deny_clients),
        written.trusted_proxies,
        written.proxy_protocol,
    )


def _place(written: WrittenListener) -> Place | None:
    if written.name == DEFAULT:
        for key, value in (("address", written.address), ("port", written.port), ("tls", written.tls)):
            if value is not None:
                message = f"listener {DEFAULT!r} is where the options of `crossfade up` say"
                raise Invalid(key, message, "leave it out, or give the listener another name")
        return None
    for key, value in (("address", written.address), ("port", written.port)):
        if value is None:
            hint = f"only listener {DEFAULT!r} is where `crossfade up` says"
            raise Invalid("", f"listener {written.name!r} has no {key}", hint)
    assert written.address is not None
    assert written.port is not None
    return Place(written.address, written.port, True if written.tls is None else written.tls)


def _written(listener: Listener) -> WrittenListener:
    place = listener.place
    return WrittenListener(
        name=listener.name,
        endpoints=listener.visible,
        address=place.address if place else None,
        port=place.port if place else None,
        tls=place.is_tls if place else None,
        allow_clients=listener.clients.allow,
        deny_clients=listener.clients.deny,
        trusted_proxies=listener.trusted_proxies,
        proxy_protocol=listener.is_proxied,
    )


_LISTENER = Translated(
    Section(
        WrittenListener,
        (
            Key(
                "name",
                "name",
                Name(),
                f"Its name. {DEFAULT}: the listener where the options of `crossfade up` say.",
                is_required=True,
            ),
            Key(
                "address",
                "address",
                Checked(checked_address, "10.0.0.5"),
                "The IP address to listen on; 0.0.0.0 is every IPv4 address of the machine.",
            ),
            Key("port", "port", Whole(1, 65535), "The port, for HTTP/1.1, HTTP/2 and gRPC."),
            Key(
                "tls",
                "tls",
                Flag(),
                "true: TLS, with the certificates of `crossfade up`. false: plain text. Left out: true.",
            ),
            Key(
                "endpoints",
                "endpoints",
                VisibleEndpoints(),
                "The endpoints that exist here: all, a list of names, or {names: […], groups: […]}. Of the others it "
                "tells as of endpoints that there are not.",
                is_required=True,
            ),
            ALLOW_CLIENTS,
            DENY_CLIENTS,
            Key(
                "trusted_proxies",
                "trusted_proxies",
                NETWORKS,
                "Networks (CIDR) of proxies before this listener: of what they send, X-Forwarded-For says who asks. "
                "From others the header means nothing.",
            ),
            Key(
                "proxy_protocol",
                "proxy_protocol",
                Flag(),
                "Connections begin with the PROXY protocol (1 or 2), and come from trusted_proxies; others are closed.",
            ),
        ),
    ),
    _listener,
    _written,
)

GATEWAY = Section(
    GatewaySpec,
    (
        Key(
            "listeners",
            "listeners",
            ListOf(_LISTENER, MAX_LISTENERS),
            f"Where scoring is offered: all of it, so name the listener {DEFAULT!r} too if it shall stay.",
            is_required=True,
        ),
    ),
)
