"""Every key that a spec may have, named as in Azure ML's CLI v2 where that has a word for it. Reading, writing and the
JSON Schema all follow these tables.

The ranges repeat what the domain enforces, because a reader must find every mistake at once while a constructor stops
at the first; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from router.domain.deployment import Backend, Deployment
from router.domain.deployment_settings import MIB, Batching, Execution, Provider, RequestSettings, Resources
from router.domain.endpoint import AuthMode, Endpoint
from router.domain.names import RESERVED_ENDPOINT_NAMES
from router.domain.scaling import ScaleSettings
from router.spec.gateway_tables import ALLOW_CLIENTS, DENY_CLIENTS, GATEWAY
from router.spec.limit_tables import LIMITS
from router.spec.nodes import Node
from router.spec.rollout_tables import ROLLOUT
from router.spec.rollout_values import ListOf, Maybe, Translated
from router.spec.sections import Key, Section
from router.spec.token_tables import TOKENS
from router.spec.triton_managed_tables import ManagedBlock
from router.spec.triton_modes import is_managed
from router.spec.triton_tables import TritonBlock
from router.spec.values import (
    ClientName,
    Flag,
    InputName,
    LocalPath,
    Model,
    Name,
    Number,
    OneOf,
    Options,
    Percents,
    Size,
    StickyKey,
    Whole,
)
from router.spec.watch_tables import WATCH

RESOURCES = Section(
    Resources,
    (
        Key("cpu", "cpu", Number(0, 1024, is_above=True), "CPU cores for one replica; fractions are allowed."),
        Key("gpu", "gpu", Number(0, 64), "GPUs for one replica; fractions share a GPU, 0 runs on the CPU."),
        Key(
            "memory",
            "memory_bytes",
            Size(1, 2**60),
            "Memory for one replica, such as 1Gi. On the CPU, a request beyond it fails. Left out: not limited.",
        ),
    ),
)

EXECUTION = Section(
    Execution,
    (
        Key(
            "provider",
            "provider",
            OneOf(Provider),
            "What computes the model: cpu, cuda or tensorrt. auto is cuda where resources.gpu is above 0, else cpu.",
        ),
        Key(
            "options",
            "options",
            Options(),
            "Options of ONNX Runtime's provider, passed on as they are, such as {cudnn_conv_algo_search: EXHAUSTIVE}.",
        ),
        Key(
            "instances_per_replica",
            "instances_per_replica",
            Whole(1, 64),
            "How many copies of the model one replica loads; they share its resources and run side by side.",
        ),
        Key(
            "threads",
            "threads",
            Whole(0, 1024),
            "CPU threads that compute one run of the model. 0 is the instance's share of resources.cpu, at least 1.",
        ),
        Key(
            "spinning",
            "is_spinning",
            Flag(),
            "Idle threads wait at full speed: a little faster at low load, for a whole core each. Needs whole cores.",
        ),
    ),
)

SCALE_SETTINGS = Section(
    ScaleSettings,
    (
        Key("max_instances", "max_instances", Whole(1, 1000), "The most replicas that may run.", is_required=True),
        Key(
            "min_instances",
            "min_instances",
            Whole(0, 1000),
            "The fewest replicas that run. 0: none while nobody asks; the first requests wait until one has started.",
        ),
        Key(
            "target_utilization_percentage",
            "target_utilization_percentage",
            Whole(1, 100),
            "How busy a replica should be: above it more are started, well below it some stop.",
        ),
        Key(
            "scale_down_delay_s",
            "scale_down_delay_s",
            Whole(0, 86_400),
            "For how many seconds fewer replicas must have been enough before any stops.",
        ),
        Key(
            "idle_timeout_s",
            "idle_timeout_s",
            Whole(1, 604_800),
            "With min_instances 0: after how many seconds without a request the last replica stops.",
        ),
        Key(
            "start_timeout_s",
            "start_timeout_s",
            Whole(1, 3600),
            "With min_instances 0: for how many seconds a request waits for the first replica to start, "
            "beside its request_timeout_ms.",
        ),
        Key(
            "max_held_requests",
            "max_held_requests",
            Whole(1, 100_000),
            "With min_instances 0: how many requests wait for the first replica; more are refused at once with 429.",
        ),
    ),
)

BATCHING = Section(
    Batching,
    (
        Key(
            "max_batch_size",
            "max_batch_size",
            Whole(1, 65536),
            "The most rows (not requests) that are joined into one run of the model. 1 switches batching off.",
        ),
        Key(
            "latency_slo_ms",
            "latency_slo_ms",
            Whole(1, 600_000),
            "The latency in milliseconds within which requests are answered, from a request's arrival at its replica "
            "on. It orders the queue and bounds how long a batch may wait for company; and when more comes in than can "
            "be answered within it, not just for a moment, requests that would miss it are refused with 429. Left out: "
            "50, and nobody is refused for it until more comes in than the model can answer at all.",
        ),
        Key(
            "padding_mask",
            "padding_mask",
            InputName(),
            "The model's input that is 1 where there is something, 0 where there is padding, such as attention_mask. "
            "Named: requests of different lengths may share a batch. Left out: only equal shapes do.",
        ),
    ),
)

REQUEST_SETTINGS = Section(
    RequestSettings,
    (
        Key(
            "request_timeout_ms",
            "request_timeout_ms",
            Whole(1, 3_600_000),
            "A request that has no answer after this many milliseconds is ended with 504.",
        ),
        Key(
            "max_concurrent_requests_per_instance",
            "max_concurrent_requests_per_instance",
            Whole(1, 1_000_000),
            "Requests in flight per replica; more are refused at once.",
        ),
        Key(
            "max_request_size",
            "max_request_bytes",
            Size(1024, 1024 * MIB),
            "The largest request body, such as 64Mi; a larger one is refused with 413.",
        ),
    ),
)

ENDPOINT = Section(
    Endpoint,
    (
        Key(
            "name",
            "name",
            Name(RESERVED_ENDPOINT_NAMES),
            "The stable public name that clients call: /v2/models/<name>/infer.",
            is_required=True,
        ),
        Key(
            "auth_mode",
            "auth_mode",
            OneOf(AuthMode),
            "Who may call. none: everybody; key: whoever shows one of the endpoint's two keys (crossfade keys create); "
            "mtls: whoever shows a certificate with one of client_names; jwt: whoever shows a token after jwt.",
        ),
        Key(
            "allow_anonymous",
            "allow_anonymous",
            Flag(),
            "Must be true for auth_mode none when scoring is offered beyond this machine.",
        ),
        Key(
            "client_names",
            "client_names",
            ListOf(ClientName(), 1000),
            "With auth_mode mtls: names (SAN) of clients' certificates, such as app.example.com or spiffe://bank/app.",
        ),
        Key(
            "jwt",
            "jwt",
            Maybe(TOKENS),
            "With auth_mode jwt: whose tokens are taken, and what they must say.",
        ),
        Key(
            "traffic",
            "traffic",
            Percents(),
            "Deployment to percent; the percents sum to 100, or to 0 for no traffic. Left out: stays as it is.",
        ),
        Key(
            "mirror_traffic",
            "mirror",
            Percents(is_single=True),
            "At most one deployment that gets a copy of this percent of the requests; its answers are thrown away. "
            "It must have no live traffic. Left out: stays as it is.",
        ),
        Key(
            "sticky",
            "sticky",
            StickyKey(),
            "A client stays on its deployment while traffic moves one way; known by a header, a cookie or its address: "
            "{header: x-user-id}, {cookie: NAME} or {client: true}. Left out: every request is drawn anew.",
        ),
        Key(
            "group",
            "group",
            Name(),
            "The group of endpoints that it belongs to, such as a team: tokens and quotas can be limited to groups.",
        ),
        Key(
            "limits",
            "limits",
            LIMITS,
            "How much callers may ask of it; what is over that is refused with 429 before a replica sees it. "
            "Left out: not limited.",
        ),
        Key(
            "watch",
            "watch",
            Maybe(WATCH),
            "Follow the reference of the deployment that has the traffic: when it names another model, roll that out, "
            "propose it, or tell. Left out: nobody looks.",
        ),
        ALLOW_CLIENTS,
        DENY_CLIENTS,
    ),
)

DEPLOYMENT = Section(
    Deployment,
    (
        Key(
            "name", "name", Name(), "The deployment's name, unique within its endpoint, such as blue.", is_required=True
        ),
        Key("endpoint", "endpoint", Name(), "The endpoint that this deployment stands behind.", is_required=True),
        Key(
            "model",
            "model",
            Model(),
            "Where the model is: file:PATH (relative to the spec's folder), package://PACKAGE/PATH, "
            "models:/NAME/VERSION, hf://ORG/REPOSITORY, oci://HOST/REPOSITORY:TAG, or https, s3, gs, az, abfss://….",
            is_required=True,
        ),
        Key(
            "model_version",
            "model_version",
            Name(),
            "The version that clients may name. Left out: the first 12 hex digits of the model's sha256.",
        ),
        Key(
            "triton",
            "model",
            TritonBlock(),
            "With backend triton: instead of model, where Triton runs already, and what it calls the model there; "
            "or, beside model, mode managed, which runs a Triton for it.",
            instead_of="model",
            beside="where Triton runs already, remove it: triton.model is Triton's name of its model; to have a Triton "
            "run for it, set triton: {mode: managed}",
        ),
        Key(
            "golden_requests",
            "golden_requests",
            ListOf(LocalPath(), 100),
            "Files with a request and its answer, which the model must give before it gets traffic.",
        ),
        Key("backend", "backend", OneOf(Backend), "What runs the model: onnx (ONNX Runtime, in replicas) or triton."),
        Key(
            "instance_count",
            "instance_count",
            Whole(0, 1000),
            "How many replicas run. Left out, as scale_settings: stays as it is (1 for a new deployment).",
        ),
        Key(
            "scale_settings",
            "scale_settings",
            SCALE_SETTINGS,
            "Instead of instance_count: as many replicas as the load needs. Left out, as instance_count: stays as is.",
            instead_of="instance_count",
        ),
        Key("resources", "resources", RESOURCES, "What one replica may use."),
        Key("execution", "execution", EXECUTION, "How a replica runs the model."),
        Key("batching", "batching", BATCHING, "How requests may be joined into one run of the model."),
        Key("request_settings", "request_settings", REQUEST_SETTINGS, "Limits of a single request."),
    ),
)

# Where Triton is run for a deployment, its block stands beside a model, and not instead of one.
MANAGED_DEPLOYMENT = Section(
    Deployment,
    tuple(
        replace(key, attribute="managed", kind=ManagedBlock(), is_required=True, instead_of="")
        if key.name == "triton"
        else key
        for key in DEPLOYMENT.keys
    ),
)

KINDS: Mapping[str, Section | Translated] = MappingProxyType(
    {"Endpoint": ENDPOINT, "Deployment": DEPLOYMENT, "Rollout": ROLLOUT, "Gateway": GATEWAY}
)


def section_for(kind: str, node: Node) -> Section | Translated:
    """The keys that a document of a known kind may have."""
    return MANAGED_DEPLOYMENT if kind == "Deployment" and is_managed(node) else KINDS[kind]
