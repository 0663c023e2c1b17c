"""The stream, step by step. The properties over all orders of events are in test_stream_properties.py."""

from collections.abc import Iterable
from dataclasses import replace

from router.xds.names import CLUSTER, ENDPOINTS, LISTENER, ROUTES, SCOPE, SECRET, Key
from router.xds.resources import Resource
from router.xds.stream import Request, Response, Stream
from tests.unit.xds.world import addresses, cluster, endpoint, listener, routes, scope


def by_key(*resources: Resource) -> dict[Key, Resource]:
    return {resource.key: resource for resource in resources}


def sent(responses: Iterable[Response]) -> list[tuple[str, list[str], list[str]]]:
    """(the type's last word, names sent, names removed) of each response."""
    return [
        (
            response.type_url.rpartition(".")[2],
            [resource.key.name for resource in response.resources],
            list(response.removed),
        )
        for response in responses
    ]


def ack(stream: Stream, *responses: Response) -> None:
    for response in responses:
        stream.receive(Request(response.type_url, nonce=response.nonce))


def nack(stream: Stream, response: Response, reason: str = "no") -> None:
    stream.receive(Request(response.type_url, nonce=response.nonce, error=reason))


def settled(wanted: dict[Key, Resource]) -> Stream:
    """A stream whose client has everything."""
    stream = Stream(wanted)
    for type_url in (CLUSTER, LISTENER, SCOPE):
        stream.receive(Request(type_url))
    for type_url in (ENDPOINTS, ROUTES):
        names = tuple(key.name for key in wanted if key.type_url == type_url)
        stream.receive(Request(type_url, subscribe=names))
    while responses := stream.responses():
        ack(stream, *responses)
    assert stream.is_up_to_date
    return stream


def change(stream: Stream, wanted: dict[Key, Resource], *resources: Resource, gone: Iterable[Key] = ()) -> None:
    keys = [resource.key for resource in resources] + list(gone)
    for key in gone:
        del wanted[key]
    wanted.update(by_key(*resources))
    stream.changed(keys)


def test_routes_wait_until_their_clusters_and_addresses_are_confirmed() -> None:
    stream = Stream(endpoint("fraud", "blue"))
    for type_url in (CLUSTER, SCOPE):
        stream.receive(Request(type_url))
    stream.receive(Request(ROUTES, subscribe=("endpoint/fraud",)))

    (clusters,) = stream.responses()
    assert sent([clusters]) == [("Cluster", ["fraud/blue"], [])]
    stream.receive(Request(ENDPOINTS, subscribe=("fraud/blue",)))
    (found,) = stream.responses()
    assert sent([found]) == [("ClusterLoadAssignment", ["fraud/blue"], [])]
    ack(stream, found)
    assert stream.responses() == [], "the cluster is not confirmed"
    ack(stream, clusters)
    assert sent(stream.responses()) == [
        ("ScopedRouteConfiguration", ["endpoint/fraud"], []),
        ("RouteConfiguration", ["endpoint/fraud"], []),
    ]


def test_an_endpoint_does_not_wait_for_another_ones_clusters() -> None:
    wanted = endpoint("fraud", "blue") | endpoint("spam", "blue")
    stream = settled(wanted)

    change(stream, wanted, *endpoint("fraud", "blue", "green").values(), routes("spam", "spam/blue", version="2"))

    assert sent(stream.responses()) == [
        ("Cluster", ["fraud/green"], []),
        ("RouteConfiguration", ["endpoint/spam"], []),
    ]


def test_a_cluster_is_removed_only_when_the_new_routes_are_confirmed() -> None:
    wanted = endpoint("fraud", "blue", "green")
    stream = settled(wanted)

    gone = wanted.keys() - endpoint("fraud", "blue").keys()
    change(stream, wanted, *endpoint("fraud", "blue", version="2").values(), gone=gone)

    (new_routes,) = stream.responses()
    assert sent([new_routes]) == [("RouteConfiguration", ["endpoint/fraud"], [])]
    ack(stream, new_routes)
    assert sent(stream.responses()) == [("Cluster", [], ["fraud/green"])]
    assert not stream.is_settled("fraud")


def test_refused_routes_keep_the_clusters_that_the_old_ones_need() -> None:
    wanted = endpoint("fraud", "blue", "green")
    stream = settled(wanted)

    gone = wanted.keys() - endpoint("fraud", "blue").keys()
    change(stream, wanted, *endpoint("fraud", "blue", version="2").values(), gone=gone)
    nack(stream, stream.responses()[0])

    assert stream.responses() == []


def test_a_changed_cluster_is_followed_by_its_addresses_though_they_are_the_same() -> None:
    wanted = endpoint("fraud", "blue")
    stream = settled(wanted)
    new = cluster("fraud/blue", version="2")

    change(stream, wanted, new, addresses("fraud/blue", of=new))

    assert sent(stream.responses()) == [
        ("Cluster", ["fraud/blue"], []),
        ("ClusterLoadAssignment", ["fraud/blue"], []),
    ]


def test_a_cluster_that_changes_back_gets_its_addresses_again_too() -> None:
    wanted = endpoint("fraud", "blue")
    stream = settled(wanted)
    old, new = cluster("fraud/blue"), cluster("fraud/blue", version="2")

    change(stream, wanted, new, addresses("fraud/blue", version="bad", of=new))
    first, second = stream.responses()
    ack(stream, first)
    nack(stream, second)
    change(stream, wanted, old, addresses("fraud/blue", of=old))

    assert sent(stream.responses()) == [
        ("Cluster", ["fraud/blue"], []),
        ("ClusterLoadAssignment", ["fraud/blue"], []),
    ]


def test_after_a_refusal_in_company_each_is_sent_alone_and_only_the_bad_one_is_remembered() -> None:
    stream = Stream(by_key(cluster("a"), cluster("b"), cluster("c")))
    stream.receive(Request(CLUSTER))
    (together,) = stream.responses()
    nack(stream, together)

    alone = stream.responses()
    assert sent(alone) == [("Cluster", ["a"], []), ("Cluster", ["b"], []), ("Cluster", ["c"], [])]
    ack(stream, alone[0], alone[2])
    nack(stream, alone[1], "b is wrong")

    assert stream.rejections() == {Key(CLUSTER, "b"): "b is wrong"}
    assert [response for response in stream.responses() if response.type_url == CLUSTER] == []


def test_a_refused_resource_is_sent_again_when_its_content_changes() -> None:
    wanted = by_key(listener())
    stream = settled(wanted)

    change(stream, wanted, listener("2"))
    nack(stream, stream.responses()[0], "port in use")
    assert not stream.is_up_to_date
    stream.changed(wanted)
    assert stream.responses() == []
    change(stream, wanted, listener("3"))
    assert sent(stream.responses()) == [("Listener", ["gateway"], [])]
    assert stream.rejections() == {}


def test_going_back_to_the_last_good_version_sends_nothing() -> None:
    wanted = by_key(listener())
    stream = settled(wanted)
    change(stream, wanted, listener("2"))
    nack(stream, stream.responses()[0])

    change(stream, wanted, listener())

    assert stream.responses() == []
    assert stream.is_up_to_date


def test_newer_content_does_not_wait_for_the_answer_to_the_older() -> None:
    wanted = by_key(listener())
    stream = settled(wanted)
    change(stream, wanted, listener("2"))
    (second,) = stream.responses()
    change(stream, wanted, listener("3"))
    (third,) = stream.responses()

    nack(stream, second)
    assert stream.rejections() == {}, "what was refused is not wanted any more"
    ack(stream, third)

    assert stream.is_up_to_date


def test_a_client_that_comes_back_gets_only_the_differences() -> None:
    wanted = endpoint("fraud", "blue") | by_key(listener("2"))
    held = {CLUSTER: {}, ENDPOINTS: {}, LISTENER: {"gateway": "1"}, SCOPE: {}, ROUTES: {}}
    for key, resource in wanted.items():
        if key.type_url != LISTENER:
            held[key.type_url][key.name] = resource.version
    held[CLUSTER]["spam/blue"] = "1"
    stream = Stream(wanted)

    for type_url, versions in held.items():
        names = tuple(versions) if type_url in (ENDPOINTS, ROUTES) else ()
        stream.receive(Request(type_url, subscribe=names, initial_versions=versions))

    assert sent(stream.responses()) == [("Listener", ["gateway"], []), ("Cluster", [], ["spam/blue"])]


def test_what_a_returning_client_holds_is_kept_until_its_routes_are_known() -> None:
    stream = Stream(by_key(cluster("fraud/blue")))
    stream.receive(Request(CLUSTER, initial_versions={"fraud/blue": "1", "old/blue": "1"}))
    assert stream.responses() == []
    stream.receive(Request(SCOPE))
    stream.receive(Request(ROUTES, subscribe=("endpoint/old",), initial_versions={"endpoint/old": "9"}))

    (removal,) = stream.responses()

    assert sent([removal]) == [("RouteConfiguration", [], ["endpoint/old"])]
    ack(stream, removal)
    assert sent(stream.responses()) == [("Cluster", [], ["old/blue"])]


def test_who_asks_for_a_resource_again_gets_it_again() -> None:
    stream = settled(endpoint("fraud", "blue"))

    stream.receive(Request(ENDPOINTS, subscribe=("fraud/blue",)))

    assert sent(stream.responses()) == [("ClusterLoadAssignment", ["fraud/blue"], [])]


def test_a_star_asks_for_everything_and_takes_it_back() -> None:
    wanted = by_key(cluster("a"))
    stream = Stream(wanted)
    stream.receive(Request(CLUSTER, subscribe=("*",)))
    ack(stream, *stream.responses())

    stream.receive(Request(CLUSTER, unsubscribe=("*",)))
    change(stream, wanted, cluster("a", version="2"))

    assert stream.responses() == []


def test_a_stale_nonce_answers_nothing() -> None:
    stream = Stream(by_key(cluster("a")))
    stream.receive(Request(CLUSTER))
    stream.responses()

    stream.receive(Request(CLUSTER, nonce="from another life", error="boo"))

    assert stream.rejections() == {}
    assert not stream.is_up_to_date


def test_what_is_not_asked_for_is_not_sent() -> None:
    stream = Stream(endpoint("fraud", "blue"))

    stream.receive(Request(ENDPOINTS))

    assert stream.responses() == []


def test_what_was_refused_is_sent_again_when_it_may_be_taken_now() -> None:
    wanted = by_key(listener())
    stream = Stream(wanted)
    stream.receive(Request(LISTENER))
    (first,) = stream.responses()
    nack(stream, first, "the port is taken")
    assert stream.rejections() == {Key(LISTENER, "gateway"): "the port is taken"}
    assert stream.responses() == []
    stream.try_again(LISTENER)
    assert not stream.is_settled("")
    (second,) = stream.responses()
    assert sent([second]) == [("Listener", ["gateway"], [])]
    ack(stream, second)
    assert stream.is_up_to_date


def test_all_scopes_are_answered_when_none_is_left_that_could_be_told() -> None:
    wanted = endpoint("fraud", "blue")
    stream = settled(wanted)
    assert stream.has_answered(SCOPE)
    change(stream, wanted, gone=[Key(SCOPE, "endpoint/fraud")])
    assert not stream.has_answered(SCOPE)
    ack(stream, *stream.responses())
    assert stream.has_answered(SCOPE)
    change(stream, wanted, *endpoint("spam", "blue").values())
    ack(stream, *stream.responses()[:0])
    assert stream.has_answered(SCOPE)  # its cluster is not there yet


def test_routes_that_no_scope_leads_to_are_waited_for_by_nobody() -> None:
    wanted = endpoint("fraud", "blue")
    hidden = {key: one for key, one in wanted.items() if key.type_url != SCOPE}
    stream = Stream(hidden)
    for type_url in (CLUSTER, LISTENER, SCOPE):
        stream.receive(Request(type_url))
    assert not stream.is_settled("fraud"), "its cluster is not there yet"
    stream.receive(Request(ENDPOINTS, subscribe=("fraud/blue",)))
    while responses := stream.responses():
        ack(stream, *responses)
    assert stream.is_settled("fraud")
    assert stream.is_up_to_date

    change(stream, hidden, scope("fraud", "fraud/blue"))
    assert not stream.is_settled("fraud")
    ack(stream, *stream.responses())
    assert not stream.is_settled("fraud"), "now its routes are needed"
    stream.receive(Request(ROUTES, subscribe=("endpoint/fraud",)))
    ack(stream, *stream.responses())
    assert stream.is_settled("fraud")

    change(stream, hidden, gone=[Key(SCOPE, "endpoint/fraud")])
    ack(stream, *stream.responses())
    stream.receive(Request(ROUTES, unsubscribe=("endpoint/fraud",)))
    assert stream.is_settled("fraud")
    assert stream.is_up_to_date


def test_a_secret_that_no_listener_names_is_waited_for_by_nobody() -> None:
    secret = Resource(Key(SECRET, "certificate/0"), "1", b"")
    wanted = by_key(listener(), secret)
    stream = Stream(wanted)
    stream.receive(Request(LISTENER))
    ack(stream, *stream.responses())
    assert stream.is_settled("")
    assert stream.is_up_to_date

    change(stream, wanted, replace(listener("2"), keeps=frozenset({secret.key})))
    ack(stream, *stream.responses())
    assert not stream.is_settled(""), "the listener waits for it"
    stream.receive(Request(SECRET, subscribe=("certificate/0",)))
    ack(stream, *stream.responses())
    assert stream.is_settled("")


def test_a_secret_that_nobody_can_read_after_a_restart_is_kept_and_holds_nobody_up() -> None:
    trust = Key(SECRET, "triton/ca/1")
    named = Resource(Key(CLUSTER, "fraud/blue"), "1", b"", keeps=frozenset({Key(ENDPOINTS, "fraud/blue"), trust}))
    wanted = by_key(listener(), named, addresses("fraud/blue"))
    stream = Stream(wanted)
    held = {CLUSTER: "fraud/blue", ENDPOINTS: "fraud/blue", SECRET: trust.name, LISTENER: "gateway"}
    for type_url, name in held.items():
        names = () if type_url in (CLUSTER, LISTENER) else (name,)
        stream.receive(Request(type_url, subscribe=names, initial_versions={name: "1"}))
    for type_url in (SCOPE, ROUTES):
        stream.receive(Request(type_url))

    assert [response.removed for response in stream.responses()] == []
    assert stream.is_settled("")
    assert stream.is_up_to_date

    change(stream, wanted, Resource(trust, "2", b""))
    assert not stream.is_settled("")
    (response,) = stream.responses()
    assert sent([response]) == [("Secret", [trust.name], [])]
    ack(stream, response)
    assert stream.is_settled("")

    change(stream, wanted, gone=[named.key, trust, Key(ENDPOINTS, "fraud/blue")])
    while responses := stream.responses():
        ack(stream, *responses)
    assert stream.is_up_to_date


def test_a_makeshift_is_for_clients_that_have_nothing_else() -> None:
    blue = cluster("fraud/blue")
    makeshift = replace(addresses("fraud/blue", version="without a token"), is_makeshift=True)
    wanted = by_key(blue, makeshift, *endpoint("other", "blue").values())
    newcomer, returned = Stream(wanted), Stream(wanted)
    newcomer.receive(Request(CLUSTER))
    newcomer.receive(Request(ENDPOINTS, subscribe=("fraud/blue",)))
    assert ("ClusterLoadAssignment", ["fraud/blue"], []) in sent(newcomer.responses())

    returned.receive(Request(CLUSTER, initial_versions={"fraud/blue": blue.version}))
    returned.receive(Request(ENDPOINTS, subscribe=("fraud/blue",), initial_versions={"fraud/blue": "with a token"}))
    (others,) = returned.responses()
    assert sent([others]) == [("Cluster", ["other/blue"], [])]  # everything else is told all the same
    ack(returned, others)
    assert returned.is_settled("endpoint/fraud")
    read = addresses("fraud/blue", version="with the token that was read")
    change(returned, wanted, read)
    assert sent(returned.responses()) == [("ClusterLoadAssignment", ["fraud/blue"], [])]


def returned_with_a_token(wanted: dict[Key, Resource], *secrets: str) -> Stream:
    """A client that holds an older cluster, and addresses with the token that this process has not read. It says so
    type by type, and is told after each what may be told."""
    stream = Stream(wanted)
    stream.receive(Request(CLUSTER, initial_versions={"fraud/blue": "older", "gone/blue": "1"}))
    assert sent(stream.responses()) == []
    held = {"fraud/blue": "with a token", "gone/blue": "1"}
    stream.receive(Request(ENDPOINTS, subscribe=tuple(held), initial_versions=held))
    assert sent(stream.responses()) == []
    for type_url in (LISTENER, SCOPE, ROUTES):
        stream.receive(Request(type_url, subscribe=("endpoint/fraud",) if type_url == ROUTES else ()))
        ack(stream, *stream.responses())
    stream.receive(Request(SECRET, subscribe=secrets, initial_versions=dict.fromkeys(secrets, "1")))
    return stream


def settle(stream: Stream) -> list[tuple[str, list[str], list[str]]]:
    told = []
    while responses := stream.responses():
        told += sent(responses)
        ack(stream, *responses)
    return told


def with_a_makeshift() -> dict[Key, Resource]:
    makeshift = replace(addresses("fraud/blue", version="without a token"), is_makeshift=True)
    return endpoint("fraud", "blue") | by_key(listener(), makeshift)


def test_a_changed_cluster_that_would_ask_for_a_makeshift_waits_for_the_token_and_nothing_waits_for_it() -> None:
    wanted = with_a_makeshift()
    stream = returned_with_a_token(wanted, "triton/ca/old")
    told = settle(stream)
    assert ("ClusterLoadAssignment", [], ["gone/blue"]) in told
    assert not any("fraud/blue" in names for _, names, _ in told)
    assert not any(kind == "Secret" for kind, _, _ in told), "the older cluster may name it"
    assert stream.is_up_to_date

    other = endpoint("other", "blue")
    change(stream, wanted, *other.values())
    told = settle(stream)
    assert ("Cluster", ["other/blue"], []) in told
    stream.receive(Request(ENDPOINTS, subscribe=("other/blue",)))
    stream.receive(Request(ROUTES, subscribe=("endpoint/other",)))
    settle(stream)
    assert stream.is_settled("other")

    change(stream, wanted, addresses("fraud/blue", version="with the token that was read"))
    assert not stream.is_up_to_date
    told = settle(stream)
    assert told[:2] == [("Cluster", ["fraud/blue"], []), ("ClusterLoadAssignment", ["fraud/blue"], [])]
    assert ("Secret", [], ["triton/ca/old"]) in told
    assert stream.is_up_to_date


def test_a_changed_cluster_goes_to_whoever_has_no_endpoints_for_it_or_only_the_makeshift() -> None:
    for held in ({}, {"fraud/blue": "without a token"}):
        stream = Stream(with_a_makeshift())
        stream.receive(Request(CLUSTER, initial_versions={"fraud/blue": "older"}))
        stream.receive(Request(ENDPOINTS, subscribe=("fraud/blue",), initial_versions=held))
        assert ("Cluster", ["fraud/blue"], []) in settle(stream)


def test_a_cluster_that_was_spared_goes_when_it_is_wanted_no_more() -> None:
    wanted = with_a_makeshift()
    stream = returned_with_a_token(wanted)
    settle(stream)
    change(stream, wanted, gone=[key for key in wanted if key.type_url != LISTENER])
    told = settle(stream)
    assert ("Cluster", [], ["fraud/blue"]) in told
    assert ("ClusterLoadAssignment", [], ["fraud/blue"]) in told
    assert stream.is_up_to_date
