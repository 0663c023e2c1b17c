"""The stream against a model Envoy, in whatever order things happen: it converges and breaks nothing that serves."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.xds.names import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Key
from router.xds.resources import Resource
from router.xds.stream import Request, Response, Stream
from tests.unit.xds.model_envoy import ModelEnvoy
from tests.unit.xds.world import addresses, cluster, listener, routes, scope

ENDPOINTS_POOL = st.sampled_from(["fraud", "spam"])
DEPLOYMENTS = st.sets(st.sampled_from(["blue", "green", "grey"]), max_size=3)
VERSIONS = st.sampled_from("1234")
BAD = "bad"


class Conversation(RuleBasedStateMachine):
    """Requests and responses wait in queues, so anything may happen before the other side hears of it."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[Key, Resource] = {}
        self.replace([listener(), cluster("server"), addresses("server", of=cluster("server"))])
        self.replace([scope("server", "server"), routes("server", "server")])
        self.envoy = ModelEnvoy(is_bad=lambda resource: BAD in resource.version)
        self.connect()

    def replace(self, resources: list[Resource], gone: frozenset[Key] = frozenset()) -> None:
        changed = {r.key for r in resources if self.wanted.get(r.key) != r} | (gone & self.wanted.keys())
        for key in gone:
            self.wanted.pop(key, None)
        self.wanted.update({resource.key: resource for resource in resources})
        if hasattr(self, "stream"):
            self.stream.changed(changed)

    def connect(self) -> None:
        self.stream = Stream(self.wanted)
        self.requests: deque[Request] = deque(self.envoy.connect())
        self.responses: deque[Response] = deque()

    @rule(
        name=ENDPOINTS_POOL,
        deployments=DEPLOYMENTS,
        cluster_version=VERSIONS,
        address_version=VERSIONS,
        route_version=VERSIONS,
        bad=st.sampled_from([None, None, None, CLUSTER, ENDPOINTS, ROUTES]),
    )
    def set_endpoint(
        self,
        name: str,
        deployments: set[str],
        cluster_version: str,
        address_version: str,
        route_version: str,
        bad: str | None,
    ) -> None:
        clusters = [f"{name}/{deployment}" for deployment in sorted(deployments)]
        # A version is a hash of content, and which clusters a route names is content.
        named = f"{route_version}-{'-'.join(sorted(deployments))}"
        found = [scope(name, *clusters), routes(name, *clusters, version=named + (BAD if bad == ROUTES else ""))]
        for one in clusters:
            own = cluster(one, version=cluster_version + (BAD if bad == CLUSTER else ""))
            found += [own, addresses(one, version=address_version + (BAD if bad == ENDPOINTS else ""))]
            found[-1] = Resource(found[-1].key, f"{found[-1].version}+{own.version.removesuffix(BAD)}", b"")
        keys = {resource.key for resource in found}
        self.replace(found, self.keys_of(name) - keys)

    @rule(name=ENDPOINTS_POOL)
    def remove_endpoint(self, name: str) -> None:
        self.replace([], self.keys_of(name))

    def keys_of(self, name: str) -> frozenset[Key]:
        return frozenset(
            key for key in self.wanted if key.name.startswith(f"{name}/") or key.name == f"endpoint/{name}"
        )

    @precondition(lambda self: self.requests)
    @rule()
    def server_reads(self) -> None:
        self.stream.receive(self.requests.popleft())

    @rule()
    def server_writes(self) -> None:
        self.responses.extend(self.stream.responses())

    @precondition(lambda self: self.responses)
    @rule()
    def envoy_reads(self) -> None:
        self.requests.extend(self.envoy.receive(self.responses.popleft()))

    @rule()
    def the_connection_breaks(self) -> None:
        self.connect()

    @rule()
    def they_talk(self) -> None:
        """Until both fall silent."""
        for _ in range(200):
            while self.requests:
                self.server_reads()
            self.server_writes()
            if not self.responses:
                return
            while self.responses:
                self.envoy_reads()
        raise AssertionError("they never fall silent")

    @invariant()
    def nothing_that_serves_was_broken(self) -> None:
        assert self.envoy.broken == []

    def teardown(self) -> None:
        """Without further changes, Envoy has what it should have."""
        self.they_talk()
        assert self.envoy.broken == []
        refused = {key for key, resource in self.wanted.items() if BAD in resource.version}
        groups_refused = {key.name.removeprefix("endpoint/").partition("/")[0] for key in refused}
        for key, resource in self.wanted.items():
            if key.name.removeprefix("endpoint/").partition("/")[0] not in groups_refused:
                assert self.envoy.held.get(key, Resource(key, "", b"")).version == resource.version, key
        if not refused:
            assert self.envoy.held.keys() == self.wanted.keys()
            assert self.stream.is_up_to_date
            assert not self.envoy.warming
            self.nothing_is_pushed_to_who_has_everything()
        assert set(self.stream.rejections()) <= refused
        assert Key(LISTENER, "gateway") in self.envoy.held

    def nothing_is_pushed_to_who_has_everything(self) -> None:
        self.envoy.received.clear()
        self.connect()
        self.they_talk()
        assert self.envoy.received == []
        assert self.stream.is_up_to_date


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
