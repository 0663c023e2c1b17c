"""Stream: what one Envoy was told and has confirmed, and what it may be told next. Pure: events in, responses out.

The incremental xDS protocol (envoy.service.discovery.v3, "delta ADS"): a client subscribes per type, to names or to
everything; each response carries a nonce, and the client answers it with that nonce alone (ACK) or with an error too
(NACK). Three rules hold:

- *Make before break.* A resource is sent only when the client has confirmed all that it needs, and removed only when
  nothing that the client may hold needs it. Each resource waits for its own needs: endpoints do not block each other.
  (Envoy confirms a cluster only when it is warm, first health checks included, so a confirmed cluster does answer.)
- *A NACK concerns one resource.* When the refused response held several, each is sent again alone. A resource refused
  alone is not sent again until its content changes, and the client keeps the last version that it confirmed.
- *Reconnecting costs nothing.* The client says which versions it holds; only the differences are sent. Of a version
  that it holds and that is not the wanted one we know nothing: what it might need is not removed before it is replaced.
  It is better than what we can only make do with (`is_makeshift`), which is not sent to whoever has another. Nor is a
  changed cluster that would ask for it: the client keeps the one that it has, and nobody waits for that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from router.xds.copies import Copies, Unknown
from router.xds.names import (
    CLUSTER,
    ENDPOINTS,
    EXTENSION,
    LISTENER,
    REMOVE_ORDER,
    ROUTES,
    SCOPE,
    SECRET,
    SEND_ORDER,
    WILDCARD_TYPES,
    Key,
    group_of,
)
from router.xds.resources import Resource

EVERYTHING = "*"

# type -> the types whose resources may need one of it
_DEPENDANTS = {
    CLUSTER: (SCOPE, ROUTES),
    ENDPOINTS: (CLUSTER, SCOPE, ROUTES),
    ROUTES: (SCOPE,),
    SCOPE: (),
    LISTENER: (),
    SECRET: (LISTENER, CLUSTER),
    EXTENSION: (LISTENER,),
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a client says about one type of `SEND_ORDER`.

    `nonce` answers a response; `error` then says why it was refused.
    """

    type_url: str
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    type_url: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]


@dataclass(slots=True)
class _Subscription:
    everything: bool
    names: set[str] = field(default_factory=set)

    def covers(self, name: str) -> bool:
        return self.everything or name in self.names


class Stream:
    """`wanted` is a live view of what every client shall have; `changed` is called after each of its changes."""

    def __init__(self, wanted: Mapping[Key, Resource]) -> None:
        self._wanted = wanted
        self._subscriptions: dict[str, _Subscription] = {}
        self._copies: dict[Key, Copies] = {}  # what the client may hold
        self._uses: Counter[Key] = Counter()  # how many held copies need or keep a resource
        self._unknown: Counter[str] = Counter()  # type -> held versions that we know only by name
        self._better: set[Key] = set()  # of which the client holds another version than the makeshift that is wanted
        self._is_resumed = False
        self._open: dict[str, set[Key]] = {}  # group -> keys whose wanted state is not confirmed
        self._alone: set[Key] = set()  # refused in company: to be sent alone
        self._flights: dict[str, tuple[Key, ...]] = {}  # nonce -> what the response was about
        self._rejected: dict[Key, tuple[str, str]] = {}  # key -> refused version ("": the removal), reason
        self._nonces = 0
        self.changed(wanted)

    # -- questions

    def is_settled(self, group: str) -> bool:
        """The client has answered everything of the group that concerns it, removals included."""
        return not any(self._concerns_it(key) for key in self._open.get(group, ()))

    def has_answered(self, type_url: str) -> bool:
        """The client has answered everything of this type that it can be told, removals included."""
        keys = (key for keys in self._open.values() for key in keys if key.type_url == type_url)
        return not any(
            key not in self._wanted or all(self._is_held(need) for need in self._wanted[key].needs) for key in keys
        )

    @property
    def is_up_to_date(self) -> bool:
        return not self._rejected and all(self.is_settled(group) for group in self._open)

    def rejections(self) -> dict[Key, str]:
        """What the client refuses and still should have, with its reason."""
        return {key: reason for key, (_, reason) in self._rejected.items()}

    # -- events

    def changed(self, keys: Iterable[Key]) -> None:
        for key in keys:
            if key in self._rejected and self._rejected[key][0] != self._wanted_version(key):
                del self._rejected[key]
            self._settle(key)

    def try_again(self, type_url: str) -> None:
        """What the client refused of this type may be taken now: an address has come, a port is free."""
        for key in [key for key in self._rejected if key.type_url == type_url]:
            del self._rejected[key]
            self._settle(key)

    def receive(self, request: Request) -> None:
        """Raises `KeyError` for a type that is not served."""
        subscription = self._subscriptions.get(request.type_url)
        if request.nonce in self._flights:
            self._answered(request.nonce, request.error)
        if subscription is None:
            self._begin(request)
        else:
            self._subscribe(subscription, request)
            self._unsubscribe(subscription, request)

    def responses(self) -> list[Response]:
        """What may be sent now, in the order in which it must be sent. Each call counts it as sent."""
        candidates: dict[str, list[Key]] = {type_url: [] for type_url in SEND_ORDER}
        for keys in self._open.values():
            for key in keys:
                candidates[key.type_url].append(key)
        responses: list[Response] = []
        for type_url in SEND_ORDER:
            responses += self._send(type_url, [key for key in sorted(candidates[type_url]) if self._is_sendable(key)])
        for type_url in REMOVE_ORDER:
            responses += self._send(type_url, [key for key in sorted(candidates[type_url]) if self._is_removable(key)])
        return responses

    # -- what clients ask for

    def _begin(self, request: Request) -> None:
        """The first request for a type. Naming nothing means everything, for the types where clients may do that."""
        _DEPENDANTS[request.type_url]
        names = set(request.subscribe) - {EVERYTHING}
        is_wildcard = EVERYTHING in request.subscribe or (not names and request.type_url in WILDCARD_TYPES)
        subscription = self._subscriptions[request.type_url] = _Subscription(is_wildcard, names)
        for name, version in request.initial_versions.items():
            if subscription.covers(name):
                self._is_resumed = True
                key = Key(request.type_url, name)
                wanted = self._wanted.get(key)
                if wanted is not None and wanted.is_makeshift:
                    self._hold(wanted)
                    self._copies[key] = Copies(confirmed=wanted)
                    if version != wanted.version:
                        self._better.add(key)
                else:
                    self._copies[key] = Copies(confirmed=Unknown(version))
                    self._unknown[request.type_url] += 1
                self._settle(key)

    def _subscribe(self, subscription: _Subscription, request: Request) -> None:
        for name in request.subscribe:
            if name == EVERYTHING:
                subscription.everything = True
            elif name in subscription.names:
                self._doubt(Key(request.type_url, name))  # who asks again wants it again
            else:
                subscription.names.add(name)

    def _unsubscribe(self, subscription: _Subscription, request: Request) -> None:
        subscription.names.difference_update(request.unsubscribe)
        dropped: Iterable[Key] = (Key(request.type_url, name) for name in request.unsubscribe)
        if EVERYTHING in request.unsubscribe:
            subscription.everything = False
            dropped = [key for key in self._copies if key.type_url == request.type_url]
        for key in dropped:
            if not subscription.covers(key.name):
                self._forget(key)

    # -- what clients answer

    def _answered(self, nonce: str, error: str | None) -> None:
        keys = self._flights.pop(nonce)
        for key in keys:
            copies = self._copies.get(key)
            if copies is None or not copies.was_sent(nonce):
                continue  # overtaken: the client unsubscribed, or asked again
            if error is None:
                self._confirmed(key, copies, nonce)
            elif len(keys) == 1:
                self._refused(key, copies, nonce, error)
            else:
                copies.doubt(nonce)
                self._alone.add(key)

    def _confirmed(self, key: Key, copies: Copies, nonce: str) -> None:
        for overtaken in copies.confirm(nonce):
            self._release(key, overtaken)
        if copies.is_empty:
            del self._copies[key]
        self._rejected.pop(key, None)
        self._alone.discard(key)
        self._settle(key)

    def _refused(self, key: Key, copies: Copies, nonce: str, reason: str) -> None:
        version = ""
        for refused in copies.refuse(nonce):
            self._release(key, refused)
            version = refused.version if refused is not None else ""
        if version == self._wanted_version(key):
            self._rejected[key] = (version, reason)
        self._settle(key)

    # -- decisions

    def _is_sendable(self, key: Key) -> bool:
        wanted = self._wanted.get(key)
        if wanted is None or key in self._rejected or not self._is_asked_for(key):
            return False
        copies = self._copies.get(key)
        if copies is not None and copies.latest_version == wanted.version:
            self._recognise(key, copies, wanted)
            return False
        return not self._is_spared(key) and all(self._is_held(need) for need in wanted.needs)

    def _is_removable(self, key: Key) -> bool:
        copies = self._copies.get(key)
        if key in self._wanted or copies is None or key in self._rejected or not self._is_asked_for(key):
            return False
        if copies.is_removal_under_way or self._uses[key]:
            return False
        dependants = _DEPENDANTS[key.type_url]
        unknown = sum(self._unknown[type_url] for type_url in dependants)
        if unknown and key.type_url == ENDPOINTS:  # a cluster that is spared leans on its own, which are wanted
            unknown -= self._spared_unknown()
        if unknown:
            return False
        # A client that reconnects tells what it holds type by type: wait for the types that may need this.
        return not self._is_resumed or all(type_url in self._subscriptions for type_url in dependants)

    def _is_asked_for(self, key: Key) -> bool:
        subscription = self._subscriptions.get(key.type_url)
        return subscription is not None and subscription.covers(key.name)

    def _concerns_it(self, key: Key) -> bool:
        """Not so: routes that no scope leads to, for an endpoint that no listener shows, and secrets that nobody names.
        The client has no reason to ask for them, so there is nothing to wait for. Nor so: a secret that nobody can read
        since the control plane started, while something that the client shall have names it; a cluster that it is
        spared, and secrets which that may name. It keeps what it has.
        """
        if key.type_url == SECRET and key not in self._wanted and (self._uses[key] > 0 or self._spared_unknown()):
            return False
        if self._is_spared(key):
            return False
        is_known = key.type_url in WILDCARD_TYPES or key in self._copies
        return is_known or self._is_asked_for(key) or self._uses[key] > 0

    def _is_spared(self, key: Key) -> bool:
        """A cluster that has changed while the client has something better than what we could tell it to go with it, or
        has not said yet whether it has."""
        wanted, copies = self._wanted.get(key), self._copies.get(key)
        if key.type_url != CLUSTER or wanted is None or copies is None or copies.latest_version == wanted.version:
            return False
        has_said = ENDPOINTS in self._subscriptions
        return any(self._is_makeshift(kept) and (kept in self._better or not has_said) for kept in wanted.keeps)

    def _is_makeshift(self, key: Key) -> bool:
        wanted = self._wanted.get(key)
        return wanted is not None and wanted.is_makeshift

    def _spared_unknown(self) -> int:
        """How many clusters are spared of which we know only the version. A cluster has the name of its endpoints."""
        clusters = (Key(CLUSTER, better.name) for better in self._better)
        return sum(self._is_spared(key) and isinstance(self._copies[key].confirmed, Unknown) for key in clusters)

    def _is_held(self, key: Key) -> bool:
        copies = self._copies.get(key)
        return copies is not None and copies.is_certain

    def _recognise(self, key: Key, copies: Copies, wanted: Resource) -> None:
        """The client confirmed these bytes already. What they lean on may be said anew, or known only now."""
        if not copies.sent:
            self._release(key, copies.confirmed)
            self._hold(wanted)
            copies.confirmed = wanted
            self._settle(key)

    # -- sending

    def _send(self, type_url: str, keys: list[Key]) -> list[Response]:
        batches = [[key] for key in keys if key in self._alone]
        together = [key for key in keys if key not in self._alone]
        return [self._response(type_url, batch) for batch in [*batches, together] if batch]

    def _response(self, type_url: str, keys: list[Key]) -> Response:
        self._nonces += 1
        nonce = f"{self._nonces:08x}"
        self._flights[nonce] = tuple(keys)
        resources, removed = [], []
        for key in keys:
            self._better.discard(key)
            wanted = self._wanted.get(key)
            if wanted is None:
                removed.append(key.name)
            else:
                self._doubt_what_begins_anew(wanted)
                self._hold(wanted)
                resources.append(wanted)
            self._copies.setdefault(key, Copies()).send(nonce, wanted)
        return Response(type_url, nonce, tuple(resources), tuple(removed))

    def _doubt_what_begins_anew(self, wanted: Resource) -> None:
        """A new or changed cluster warms up until it is told its endpoints, whatever its namesake was told before."""
        if wanted.key.type_url == CLUSTER:
            for kept in wanted.keeps:
                self._doubt(kept)

    # -- bookkeeping

    def _wanted_version(self, key: Key) -> str:
        wanted = self._wanted.get(key)
        return wanted.version if wanted is not None else ""

    def _settle(self, key: Key) -> None:
        """Close the key when the client holds exactly what is wanted or has refused it; open it otherwise."""
        group = group_of(key)
        if not self._is_done(key):
            self._open.setdefault(group, set()).add(key)
        elif group in self._open:
            self._open[group].discard(key)
            if not self._open[group]:
                del self._open[group]

    def _is_done(self, key: Key) -> bool:
        copies, wanted = self._copies.get(key), self._wanted.get(key)
        if key in self._rejected:
            return copies is None or not copies.is_awaiting
        if wanted is None:
            return copies is None
        return copies is not None and not copies.sent and copies.confirmed == wanted

    def _doubt(self, key: Key) -> None:
        """The client may or may not hold what it was told: tell it again."""
        copies = self._copies.get(key)
        if copies is not None:
            copies.doubt_all()
            self._settle(key)

    def _forget(self, key: Key) -> None:
        """The client holds the resource no more."""
        copies = self._copies.pop(key, None)
        if copies is not None:
            for content in copies.all():
                self._release(key, content)
        self._alone.discard(key)
        self._better.discard(key)
        self._settle(key)

    def _hold(self, resource: Resource) -> None:
        self._uses.update(resource.needs | resource.keeps)

    def _release(self, key: Key, content: Resource | Unknown | None) -> None:
        match content:
            case Resource():
                for used in content.needs | content.keeps:
                    self._uses[used] -= 1
                    if not self._uses[used]:
                        del self._uses[used]
            case Unknown():
                self._unknown[key.type_url] -= 1
            case None:
                pass
