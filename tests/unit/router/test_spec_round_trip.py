"""Specs written and read again, the schema beside the parser, and the tables beside the domain."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import jsonschema
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from router.domain.deployment import Backend, Deployment
from router.domain.deployment_settings import Batching, Execution, Provider, RequestSettings, Resources
from router.domain.endpoint import AuthMode, Endpoint
from router.domain.errors import Invalid
from router.domain.limits import CallerLimits, Limits
from router.domain.model_ref import ModelRef
from router.domain.policy import Policy
from router.domain.scaling import ScaleSettings
from router.domain.sticky import Sticky, StickyBy
from router.domain.strategy import named_strategy
from router.domain.tokens import Claim, KeySetFile, KeySetUrl, TokenRules
from router.domain.traffic import Mirror, Traffic
from router.domain.triton import TRITON_MODEL_PATTERN, RunningTriton, TritonMode, TritonServer
from router.domain.triton_managed import ManagedMode, ManagedTriton
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken
from router.domain.watching import Recipe, Watch, WatchPolicy
from router.domain.window import Window
from router.spec import SpecProblems, SpecSource, json_schema, read_documents, read_specs, to_plain, to_yaml
from router.spec.changes import KEEP, Scale, TrafficChange, read_scale, read_traffic_change
from router.spec.limit_tables import LIMITS, PER_CALLER
from router.spec.tables import (
    BATCHING,
    DEPLOYMENT,
    EXECUTION,
    KINDS,
    REQUEST_SETTINGS,
    RESOURCES,
    SCALE_SETTINGS,
)
from router.spec.triton_managed_tables import MANAGED_TRITON
from router.spec.values import Number, Size, Whole

names = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,8}[A-Za-z0-9])?", fullmatch=True).filter(
    lambda name: name != "stats"
)
models = st.one_of(
    # Behind a '#', files of the model: no dots alone, no drive letters.
    st.builds(
        lambda text: ModelRef("file", f"/{text}"),
        st.from_regex(r"[a-zA-Z0-9 ._:-]{1,20}(#[a-z][a-zA-Z0-9 ._-]{0,9}){0,2}", fullmatch=True),
    ),
    st.builds(
        lambda text: ModelRef("package", text), st.from_regex(r"[a-z]{1,9}/[a-zA-Z0-9._/-]{1,20}", fullmatch=True)
    ),
)


stickies = (
    st.none()
    | st.just(Sticky(StickyBy.CLIENT))
    | st.builds(
        Sticky,
        st.sampled_from([StickyBy.HEADER, StickyBy.COOKIE]),
        st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True),
    )
)


windows = st.builds(
    lambda days, begins, length, zone: Window(days, begins, (begins + length) % 1440, zone),
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.integers(1, 1439),
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin")]),
)
watches = st.builds(
    Watch,
    st.sampled_from(WatchPolicy),
    st.integers(1, 7 * 86_400).map(float),
    st.none() | windows,
    st.sampled_from([Recipe(), Recipe(named_strategy("linear"), Policy(notify=("http://h/x",), keep_old_s=0.0))]),
)


@st.composite
def traffics(draw: st.DrawFn) -> Traffic:
    some = draw(st.lists(names, max_size=4, unique=True))
    if not some:
        return Traffic()
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(some) - 1, max_size=len(some) - 1)))
    return Traffic.of(dict(zip(some, (b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)), strict=True)))


words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
claim_values = st.lists(words | st.booleans(), min_size=1, max_size=3).map(tuple)
# A name is at one depth only, so that none is both a value and full of names.
claims = st.dictionaries(
    words.map(lambda name: (f"1{name}",)) | st.tuples(words.map("2{}".format), words), claim_values, max_size=3
).map(lambda some: tuple(Claim(path, values) for path, values in sorted(some.items())))
token_rules = st.builds(
    TokenRules,
    words,
    st.builds(KeySetFile, st.just("/srv/keys.json")) | st.builds(KeySetUrl, st.just("https://login.example/keys?p=1")),
    st.lists(words, min_size=1, max_size=3).map(tuple),
    claims,
    st.integers(1, 300),
)


rates = st.tuples(st.floats(0.001, 1e6), st.none() | st.integers(1, 10_000_000))
numbers_under_way = st.integers(1, 1_000_000)
limits_of_callers = st.builds(
    lambda rate, under_way: CallerLimits(*rate, under_way), rates, st.none() | numbers_under_way
) | st.builds(CallerLimits, concurrent_requests=numbers_under_way)


@st.composite
def limits(draw: st.DrawFn, can_tell_callers_apart: bool) -> Limits:
    rate, burst = draw(st.just((None, None)) | rates)
    under_way = draw(st.none() | numbers_under_way)
    return Limits(rate, burst, under_way, draw(st.none() | limits_of_callers) if can_tell_callers_apart else None)


@st.composite
def endpoints(draw: st.DrawFn) -> Endpoint:
    traffic = draw(traffics())
    mirror = draw(st.none() | st.builds(Mirror, names, st.integers(1, 100)))
    if mirror is not None and mirror.deployment in traffic.deployments:
        mirror = None
    clients = tuple(draw(st.lists(st.sampled_from(["app.example", "spiffe://bank/app"]), max_size=2)))
    rules = None if clients else draw(st.none() | token_rules)
    auth_mode = draw(st.sampled_from([AuthMode.NONE, AuthMode.KEY]))
    if clients or rules:
        auth_mode = AuthMode.MTLS if clients else AuthMode.JWT
    return Endpoint(
        draw(names),
        traffic,
        mirror,
        auth_mode,
        client_names=clients,
        jwt=rules,
        limits=draw(limits(can_tell_callers_apart=auth_mode is not AuthMode.NONE)),
        allow_anonymous=draw(st.booleans()),
        sticky=draw(stickies),
        watch=draw(st.none() | watches),
        group=draw(st.sampled_from(["", "fraud-team"])),
    )


options = st.dictionaries(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_.]{0,9}", fullmatch=True),
    st.text(st.characters(exclude_categories=["C", "Z"]), max_size=20),
    max_size=3,
).map(lambda some: tuple(sorted(some.items())))
parts = st.integers(1, 64 * 10_000).map(lambda ten_thousandths: ten_thousandths / 10_000)
bytes_ = st.just(0) | st.integers(1, 2**60)


@st.composite
def hardware(draw: st.DrawFn) -> dict[str, Any]:
    """`resources` and `execution` that do not contradict each other."""
    has_gpu, is_spinning, instances = draw(st.booleans()), draw(st.booleans()), draw(st.integers(1, 64))
    cpu = float(draw(st.integers(1, 64))) if is_spinning else draw(parts)
    providers = [Provider.AUTO, *([Provider.CUDA, Provider.TENSORRT] if has_gpu else [Provider.CPU])]
    return {
        "resources": Resources(cpu, min(draw(parts), instances) if has_gpu else 0.0, draw(bytes_)),
        "execution": Execution(
            draw(st.sampled_from(providers)),
            draw(options) if has_gpu else (),
            instances,
            draw(st.integers(0, 1024)),
            is_spinning,
        ),
    }


@st.composite
def scalings(draw: st.DrawFn) -> ScaleSettings:
    least = draw(st.integers(0, 1000))
    return ScaleSettings(
        max_instances=draw(st.integers(max(least, 1), 1000)),
        min_instances=least,
        target_utilization_percentage=draw(st.integers(1, 100)),
        scale_down_delay_s=draw(st.integers(0, 86_400)),
        idle_timeout_s=draw(st.integers(1, 604_800)),
        start_timeout_s=draw(st.integers(1, 3600)),
        max_held_requests=draw(st.integers(1, 100_000)),
    )


replica_numbers = st.one_of(
    st.builds(lambda count: {"instance_count": count}, st.integers(0, 1000)),
    st.builds(lambda scaling: {"scale_settings": scaling}, scalings()),
)

tritons = st.builds(
    RunningTriton,
    st.lists(
        st.builds(
            TritonServer,
            st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,8}[A-Za-z0-9])?", fullmatch=True),
            st.integers(1, 30_000),
            st.integers(30_001, 65_535),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda server: (server.host, server.http_port),
    ).map(tuple),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,8}", fullmatch=True),
    st.integers(0, 2**63 - 1),
    has_sequences=st.booleans(),
    tls=st.none()
    | st.sampled_from(
        [
            TritonTls("/tls/ca.pem", server_name="triton.example.com"),
            TritonTls("/tls/ca.pem", "/tls/c.pem", "/tls/k.pem", "10.0.0.7", has_http=True),
        ]
    ),
    restricted=st.none() | st.just(TritonToken("x-triton-token", "/run/secrets/triton")),
)
bridged = st.builds(
    lambda numbers, **rest: Deployment(**numbers, **rest),
    replica_numbers,
    name=names,
    endpoint=names,
    model=tritons.map(
        lambda triton: replace(
            triton,
            mode=TritonMode.BRIDGE,
            tls=triton.tls and replace(triton.tls, has_http=False),
            has_sequences=False,
        )
    ),
    backend=st.just(Backend.TRITON),
    resources=st.builds(Resources, st.sampled_from([0.1, 2.0])),
    batching=st.builds(Batching, st.integers(1, 65536), st.integers(1, 600_000)),
    request_settings=st.builds(RequestSettings, st.integers(1, 3_600_000)),
)
remote = st.builds(
    Deployment,
    name=names,
    endpoint=names,
    model=tritons,
    model_version=st.just("") | names,
    backend=st.just(Backend.TRITON),
    instance_count=st.integers(0, 1),
)

replicated = st.builds(
    lambda hardware, numbers, **rest: Deployment(**hardware, **numbers, **rest),
    hardware(),
    replica_numbers,
    name=names,
    endpoint=names,
    model=models,
    golden_requests=st.sampled_from([(), ("/golden/one.json", "/golden/two.json")]),
    model_version=st.just("") | names,
    batching=st.builds(
        Batching, st.integers(1, 65536), st.integers(1, 600_000), st.sampled_from(["", "attention_mask", "mask:0"])
    ),
    request_settings=st.builds(
        RequestSettings, st.integers(1, 3_600_000), st.integers(1, 1_000_000), st.integers(1024, 1024**3)
    ),
)


managed = st.builds(
    lambda numbers, cpu, instances, rows, managed, named, model, **rest: Deployment(
        **numbers,
        **rest,
        model=model,
        managed=managed if model.entry else replace(managed, model=named),
        backend=Backend.TRITON,
        resources=Resources(cpu),
        execution=Execution(instances_per_replica=instances),
        batching=Batching(max(rows, *managed.preferred_batch_sizes, 1)),
    ),
    st.builds(lambda count: {"instance_count": count}, st.integers(0, 1000))
    | st.builds(lambda scaling: {"scale_settings": scaling}, scalings().filter(lambda it: not it.can_sleep)),
    parts,
    st.integers(1, 64),
    st.integers(1, 65536),
    name=names,
    endpoint=names,
    model=models,
    named=st.just("") | st.from_regex(TRITON_MODEL_PATTERN, fullmatch=True),
    managed=st.builds(
        ManagedTriton,
        st.just(ManagedMode.MANAGED),
        st.integers(0, 60_000_000),
        st.sets(st.integers(1, 65536), max_size=16).map(lambda sizes: tuple(sorted(sizes))),
        st.booleans(),
        st.integers(1, 3600),
    ),
)

deployments = replicated | remote | bridged | managed


@settings(max_examples=60, deadline=None)
@given(st.lists(endpoints() | deployments, min_size=1, max_size=3))
def test_what_is_written_reads_as_the_same(values: list[Endpoint | Deployment]) -> None:
    unique = list({(type(value), getattr(value, "endpoint", ""), value.name): value for value in values}.values())
    from_yaml = read_specs([SpecSource("s.yaml", to_yaml(unique).encode(), "/nowhere")])
    assert [document.content for document in from_yaml] == unique
    from_json = read_documents([to_plain(value) for value in unique])
    assert [document.content for document in from_json] == unique


@pytest.mark.parametrize(
    "word", ["?0", ":a", "- b", "{c", "#d", "yes", "1e3", "", "'", '"\\', "*e", "!f", "g: h", "%i"]
)
def test_an_option_s_value_is_read_as_it_was_written_whatever_it_means_to_yaml(word: str) -> None:
    execution = Execution(options=(("a", word),))
    value = Deployment("a", "e", ModelRef("file", "/m"), resources=Resources(gpu=1.0), execution=execution)
    (document,) = read_specs([SpecSource("s.yaml", to_yaml([value]).encode(), "/")])
    assert document.content == value


@settings(max_examples=40, deadline=None)
@given(endpoints() | deployments)
def test_the_schema_accepts_what_is_written(value: Endpoint | Deployment) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(to_plain(value))


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([key.name for section in KINDS.values() for key in section.keys])
guesses = st.dictionaries(st.just("kind") | keys, st.sampled_from(list(KINDS)) | plain_values, max_size=8)
almost = st.builds(
    lambda value, key, other: to_plain(value) | {key: other}, endpoints() | deployments, keys, plain_values | names
)


@settings(max_examples=150, deadline=None)
@given(plain_values | guesses | almost)
def test_any_input_is_refused_or_fits_the_schema(value: Any) -> None:
    try:
        (document,) = read_documents([value])
    except SpecProblems as refused:
        event(f"refused with {min(len(refused.problems), 5)} problems")
        return
    jsonschema.Draft202012Validator(json_schema()).validate(value)
    assert read_documents([to_plain(document.content)])[0].content == document.content


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:-&*!|>'\"#%@ \n\tab1", max_size=60))
def test_any_text_is_read_or_refused_with_problems(text: str) -> None:
    with pytest.raises(SpecProblems) as refused:
        read_specs([SpecSource("s.yaml", text.encode("utf-8", "surrogatepass"), "/")])
    assert all(problem.message for problem in refused.value.problems)


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for variant in schema["oneOf"]:
        assert variant["additionalProperties"] is False
        assert all(described["description"] for described in variant["properties"].values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "Endpoint"},
        {"kind": "Endpoint", "name": "a", "trafic": {}},
        {"kind": "Endpoint", "name": "a", "traffic": {"b": "100"}},
        {"kind": "Endpoint", "name": "a", "sticky": {}},
        {"kind": "Endpoint", "name": "a", "sticky": {"client": False}},
        {"kind": "Endpoint", "name": "a", "sticky": {"client": True, "header": "x"}},
        {"kind": "Endpoint", "name": "a", "sticky": {"header": "two words"}},
        {"kind": "Endpoint", "name": "a", "sticky": {"body": "x"}},
        {"kind": "Endpoint", "name": "a", "sticky": "client"},
        {"kind": "Endpoint", "name": "a", "limits": {"requests_per_second": 0}},
        {"kind": "Endpoint", "name": "a", "limits": {"concurrent_requests": 0}},
        {"kind": "Endpoint", "name": "a", "auth_mode": "key", "limits": {"per_caller": {"burst": 0}}},
        {"kind": "Endpoint", "name": "a", "watch": "auto"},
        {"kind": "Endpoint", "name": "a", "watch": {"policy": "always"}},
        {"kind": "Endpoint", "name": "a", "watch": {"every": 60}},
        {"kind": "Endpoint", "name": "a", "watch": {"window": "8-17"}},
        {"kind": "Endpoint", "name": "a", "watch": {"rollout": {"to": "green"}}},
        {"kind": "Deployment", "name": "a", "endpoint": "e", "model": "ftp://x"},
        {"kind": "Deployment", "name": "a", "endpoint": "e", "model": "file:/x", "resources": {"cpu": 0}},
        {"kind": "Deployment", "name": "a", "endpoint": "e", "model": "file:/x", "execution": {"options": {"a b": 1}}},
        {"kind": "Deployment", "name": "a", "endpoint": "e", "backend": "triton", "triton": {"mode": "managed"}},
        {"kind": "Deployment", "name": "a", "endpoint": "e", "model": "file:/x", "triton": {"mode": "managed", "x": 1}},
        {"kind": "Deployment", "name": "a", "endpoint": "e", "model": "file:/x", "execution": {"options": {"a": []}}},
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(wrong: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(wrong)
    with pytest.raises(SpecProblems):
        read_documents([wrong])


BOUNDED = (
    [
        (section.builds, key.attribute, key.kind)
        for section in (RESOURCES, EXECUTION, BATCHING, REQUEST_SETTINGS, MANAGED_TRITON)
        for key in section.keys
        if isinstance(key.kind, Whole | Number | Size)
    ]
    + [
        (
            partial(ScaleSettings, **({} if key.name == "max_instances" else {"max_instances": 1000})),
            key.attribute,
            key.kind,
        )
        for key in SCALE_SETTINGS.keys
    ]
    + [
        (
            partial(CallerLimits, **({"requests_per_second": 1.0} if key.attribute == "burst" else {})),
            key.attribute,
            key.kind.kind,
        )
        for key in PER_CALLER.keys
    ]
    + [(Limits, key.attribute, key.kind.kind) for key in LIMITS.keys if key.name == "concurrent_requests"]
)


@pytest.mark.parametrize(("built", "attribute", "kind"), BOUNDED, ids=[item[1] for item in BOUNDED])
def test_the_ranges_of_the_tables_are_those_of_the_domain(built: type, attribute: str, kind: Any) -> None:
    step = 0.0005 if isinstance(kind, Number) else 1
    lowest = kind.minimum + step if getattr(kind, "is_above", False) else kind.minimum
    built(**{attribute: lowest})
    built(**{attribute: kind.maximum})
    if attribute == "memory_bytes":
        return  # the domain's 0 means "not limited", which a spec says by leaving the key out; it has no upper end
    for outside in (lowest - step, kind.maximum + step):
        with pytest.raises(Invalid):
            built(**{attribute: outside})


def test_an_instance_count_beside_scale_settings_is_refused() -> None:
    with pytest.raises(Invalid, match="scale_settings decide"):
        Deployment("a", "e", ModelRef("file", "/m"), instance_count=2, scale_settings=ScaleSettings(2))
    both = {
        "kind": "Deployment",
        "name": "a",
        "endpoint": "e",
        "model": "file:/x",
        "scale_settings": {"max_instances": 2},
    }
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(both)
    assert not jsonschema.Draft202012Validator(json_schema()).is_valid(both | {"instance_count": 1})


def test_the_range_of_instance_count_is_that_of_the_domain() -> None:
    (kind,) = [key.kind for key in DEPLOYMENT.keys if key.name == "instance_count"]
    assert isinstance(kind, Whole)
    plain = Deployment("a", "e", ModelRef("file", "/m"))
    for inside in (kind.minimum, kind.maximum):
        replace(plain, instance_count=inside)
    for outside in (kind.minimum - 1, kind.maximum + 1):
        with pytest.raises(Invalid):
            replace(plain, instance_count=outside)


def test_a_traffic_change_keeps_what_it_does_not_name() -> None:
    assert read_traffic_change({"traffic": {"a": 100}}) == TrafficChange(Traffic.of({"a": 100}), KEEP)
    assert read_traffic_change({"mirror_traffic": {}}) == TrafficChange(KEEP, None)
    assert read_scale({"instance_count": 3}) == Scale(3)


@pytest.mark.parametrize("wrong", [{}, {"trafic": {}}, [], {"traffic": {"a": 50}}, {"traffic": {"a": True}}])
def test_a_wrong_traffic_change_is_refused(wrong: Any) -> None:
    with pytest.raises(SpecProblems):
        read_traffic_change(wrong)


@pytest.mark.parametrize("wrong", [{}, {"instance_count": "2"}, {"instance_count": -1}, {"count": 1}, 3])
def test_a_wrong_scale_is_refused(wrong: Any) -> None:
    with pytest.raises(SpecProblems):
        read_scale(wrong)
