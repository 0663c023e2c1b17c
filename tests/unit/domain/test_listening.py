"""Where scoring is offered, and what exists there."""

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.errors import Invalid
from router.domain.listening import (
    DEFAULT,
    Clients,
    Everything,
    GatewaySpec,
    Listener,
    Offer,
    Place,
    Premises,
    Selected,
    checked_address,
    checked_network,
    exposed,
    nearest,
    overlap,
)

PREMISES = Premises(taken=(("the metrics", "127.0.0.1", 8002),))
INSIDE = Listener("inside", Everything(), Place("10.0.0.5", 9000, is_tls=False))


def problem(spec: GatewaySpec, premises: Premises = PREMISES) -> tuple[str, str]:
    with pytest.raises(Invalid) as error:
        premises.offers(spec)
    return error.value.key, error.value.message


def test_without_a_spec_everything_is_offered_where_up_was_told() -> None:
    assert PREMISES.offers(GatewaySpec()) == (Offer(DEFAULT, "127.0.0.1", (8000, 8001), is_tls=False),)


def test_listeners_of_a_spec_are_all_that_there_are() -> None:
    offers = PREMISES.offers(GatewaySpec((INSIDE,)))
    assert [(offer.name, offer.address, offer.ports) for offer in offers] == [("inside", "10.0.0.5", (9000,))]


@pytest.mark.parametrize(
    ("visible", "shown"),
    [
        (Everything(), {"a", "b", "c"}),
        (Selected(("a",)), {"a"}),
        (Selected((), ("team",)), {"b"}),
        (Selected(("a",), ("team",)), {"a", "b"}),
        (Selected(), set()),
    ],
)
def test_endpoints_are_shown_by_name_by_group_or_all(visible: Everything | Selected, shown: set[str]) -> None:
    offer = Offer("x", "127.0.0.1", (1,), False, visible)
    groups = {"a": "", "b": "team", "c": "other"}
    assert {name for name, group in groups.items() if offer.shows(name, group)} == shown


def test_an_endpoint_of_no_group_is_in_no_group_s_listener() -> None:
    assert not Offer("x", "127.0.0.1", (1,), False, Selected((), ("",))).shows("a", "")


def test_tls_needs_a_certificate_and_is_what_is_meant_when_nothing_is_said() -> None:
    place = Place("10.0.0.5", 9000)
    assert place.is_tls
    assert problem(GatewaySpec((replace(INSIDE, place=place),)))[0] == "listeners[0].tls"
    (offer,) = replace(PREMISES, is_tls=True).offers(GatewaySpec((replace(INSIDE, place=place),)))
    assert offer.is_tls


@pytest.mark.parametrize(
    ("address", "port", "words"),
    [
        ("127.0.0.1", 8001, "where `crossfade up` was told to listen"),
        ("0.0.0.0", 8000, "where `crossfade up` was told to listen"),
        ("127.0.0.1", 8002, "is for the metrics"),
    ],
)
def test_a_port_that_is_another_s_is_refused(address: str, port: int, words: str) -> None:
    key, message = problem(GatewaySpec((replace(INSIDE, place=Place(address, port, is_tls=False)),)))
    assert key == "listeners[0].port"
    assert words in message


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        (("10.0.0.1", 1), ("10.0.0.1", 1), True),
        (("10.0.0.1", 1), ("10.0.0.1", 2), False),
        (("10.0.0.1", 1), ("10.0.0.2", 1), False),
        (("0.0.0.0", 1), ("10.0.0.2", 1), True),
        (("::", 1), ("2001:db8::1", 1), True),
        (("::", 1), ("0.0.0.0", 1), False),
    ],
)
def test_places_overlap(one: tuple[str, int], other: tuple[str, int], is_so: bool) -> None:
    assert overlap(*one, *other) == overlap(*other, *one) == is_so


@pytest.mark.parametrize(
    ("listeners", "key"),
    [
        ((), "listeners"),
        ((INSIDE, INSIDE), "listeners[1].name"),
        ((INSIDE, replace(INSIDE, name="other")), "listeners[1].port"),
    ],
)
def test_listeners_that_are_in_each_other_s_way_are_refused(listeners: tuple[Listener, ...], key: str) -> None:
    with pytest.raises(Invalid) as error:
        GatewaySpec(listeners)
    assert error.value.key == key


@pytest.mark.parametrize(
    ("name", "place", "key"), [(DEFAULT, Place("10.0.0.5", 1), "address"), ("inside", None, "address")]
)
def test_the_default_listener_alone_has_no_place_of_its_own(name: str, place: Place | None, key: str) -> None:
    with pytest.raises(Invalid) as error:
        Listener(name, Everything(), place)
    assert error.value.key == key


def test_the_proxy_protocol_needs_proxies_that_are_trusted() -> None:
    with pytest.raises(Invalid) as error:
        replace(INSIDE, is_proxied=True)
    assert error.value.key == "trusted_proxies"


def test_an_endpoint_is_exposed_by_listeners_that_others_reach_also_through_a_proxy_here() -> None:
    local = Offer("local", "127.0.0.1", (1,), False)
    behind = Offer("behind", "127.0.0.1", (2,), False, trusted_proxies=("127.0.0.1/32",))
    public = Offer("public", "10.0.0.5", (3,), True, Selected(("a",)))
    assert [offer.name for offer in exposed((local, behind, public), "a", "")] == ["behind", "public"]
    assert [offer.name for offer in exposed((local, behind, public), "b", "")] == ["behind"]


def test_a_client_on_this_machine_is_told_of_the_listener_that_serves_it_best() -> None:
    proxied = Offer(DEFAULT, "127.0.0.1", (1,), False, trusted_proxies=("127.0.0.1/32",), is_proxied=True)
    some, every = Offer("some", "10.0.0.5", (2,), False, Selected()), Offer("every", "10.0.0.5", (3,), False)
    assert nearest((proxied, some, every)) == every
    assert nearest((some, replace(proxied, is_proxied=False), every)).name == DEFAULT


@pytest.mark.parametrize("text", ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/0"])
def test_networks_are_written_in_one_way(text: str) -> None:
    assert checked_network("k", text) == text


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1/8", "10.0.0.0/255.0.0.0", "10.0.0.0/33", "", "2001:DB8::/32"])
def test_what_is_no_network_or_another_way_of_writing_one_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        checked_network("k", text)


@pytest.mark.parametrize("text", ["localhost", "10.0.0", "", "2001:DB8::1", "fe80::1%eth0", "10.0.0.1/32"])
def test_what_is_no_address_or_another_way_of_writing_one_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        checked_address("k", text)


@pytest.mark.parametrize(
    ("clients", "address", "is_taken"),
    [
        (Clients(), "192.0.2.7", True),
        (Clients(allow=("192.0.2.0/24",)), "192.0.2.7", True),
        (Clients(allow=("192.0.2.0/24",)), "::ffff:192.0.2.7", True),
        (Clients(allow=("192.0.2.0/24",)), "2001:db8::1", False),
        (Clients(allow=("192.0.2.0/24", "2001:db8::/32")), "2001:db8::1", True),
        (Clients(deny=("192.0.2.0/24",)), "192.0.2.7", False),
        (Clients(deny=("192.0.2.0/24",)), "198.51.100.1", True),
        (Clients(allow=("192.0.2.0/24",), deny=("192.0.2.7/32",)), "192.0.2.7", False),
    ],
)
def test_an_address_is_on_the_lists_or_not(clients: Clients, address: str, is_taken: bool) -> None:
    assert clients.take(address) is is_taken


_V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
_V6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)


@given(st.data(), st.lists(st.tuples(_V4 | _V6, st.integers(0, 128)), min_size=1, max_size=8))
def test_an_address_is_looked_up_as_by_networks_one_after_the_other(
    data: st.DataObject, drawn: list[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]
) -> None:
    networks = [ipaddress.ip_network(f"{one}/{min(length, one.max_prefixlen)}", strict=False) for one, length in drawn]
    address = data.draw(_V4 | _V6 | st.sampled_from([network[-1] for network in networks]))
    one = getattr(address, "ipv4_mapped", None) or address
    listed = tuple(sorted(map(str, networks)))
    assert Clients(allow=listed).take(str(address)) is any(one in network for network in networks)
    assert Clients(deny=listed).take(str(address)) is not any(one in network for network in networks)
