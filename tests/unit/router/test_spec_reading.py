"""Specs as text → domain: what is accepted, and what every mistake is told like."""

from __future__ import annotations

import pytest

from router.domain.deployment import Deployment
from router.domain.deployment_settings import Batching, Execution, Provider, RequestSettings, Resources
from router.domain.endpoint import Endpoint
from router.domain.model_ref import ModelRef
from router.domain.traffic import Mirror, Traffic
from router.spec import SpecProblems, SpecSource, read_documents, read_specs
from router.spec.nodes import resolved
from router.spec.triton_managed_tables import ManagedBlock
from router.spec.triton_modes import OF_MANAGED, OF_RUNNING
from router.spec.triton_tables import TritonBlock

FULL = b"""\
kind: Endpoint
name: filetype
auth_mode: none
allow_anonymous: true
traffic: {blue: 100}
mirror_traffic: {green: 10}
---
kind: Deployment
name: blue
endpoint: filetype
model: package://magika/models/standard_v3_3/model.onnx
model_version: "3.3"
backend: onnx
instance_count: 2
resources: {cpu: 2, gpu: 0.5, memory: 1Gi}
execution:
  provider: tensorrt
  options: {trt_fp16_enable: true, trt_max_workspace_size: 1073741824, cudnn_conv_algo_search: DEFAULT}
  instances_per_replica: 2
  threads: 3
  spinning: true
batching: {max_batch_size: 16, latency_slo_ms: 20}
request_settings: {request_timeout_ms: 100, max_concurrent_requests_per_instance: 7, max_request_size: 2Mi}
"""


def read(text: str) -> list[str]:
    """The problems of a text, as an operator reads them."""
    with pytest.raises(SpecProblems) as refused:
        read_specs([SpecSource("s.yaml", text.encode(), "/specs")])
    return [str(problem) for problem in refused.value.problems]


def test_every_key_of_the_contract_arrives_in_the_domain() -> None:
    endpoint, deployment = read_specs([SpecSource("s.yaml", FULL, "/specs")])
    assert endpoint.content == Endpoint(
        "filetype", Traffic.of({"blue": 100}), Mirror("green", 10), allow_anonymous=True
    )
    assert deployment.content == Deployment(
        name="blue",
        endpoint="filetype",
        model=ModelRef("package", "magika/models/standard_v3_3/model.onnx"),
        model_version="3.3",
        instance_count=2,
        resources=Resources(2.0, 0.5, 1024**3),
        execution=Execution(
            Provider.TENSORRT,
            (
                ("cudnn_conv_algo_search", "DEFAULT"),
                ("trt_fp16_enable", "1"),
                ("trt_max_workspace_size", "1073741824"),
            ),
            instances_per_replica=2,
            threads=3,
            is_spinning=True,
        ),
        batching=Batching(16, 20),
        request_settings=RequestSettings(100, 7, 2 * 1024**2),
    )


def test_a_document_remembers_which_keys_were_written() -> None:
    (document,) = read_specs([SpecSource("s.yaml", b"kind: Endpoint\nname: a\ntraffic: {}\n", "/")])
    assert document.given == {"kind", "name", "traffic"}


def test_relative_model_files_belong_to_the_folder_of_their_spec() -> None:
    text = b"kind: Deployment\nname: a\nendpoint: e\nmodel: file:../models/m.onnx\n"
    (document,) = read_specs([SpecSource("s.yaml", text, "/srv/specs")])
    assert document.content.model == ModelRef("file", "/srv/models/m.onnx")


def test_relative_model_files_are_refused_where_there_is_no_folder() -> None:
    spec = {"kind": "Deployment", "name": "a", "endpoint": "e", "model": "file:m.onnx"}
    with pytest.raises(SpecProblems, match="is a relative path"):
        read_documents([spec])


_SCHEMES = "begin with package://, file:, models:, oci://, hf://, https://, http://, s3://, gs://, az:// or abfss://"
REMOTE = "kind: Deployment\nname: blue\nendpoint: e\nbackend: triton\n"
DEPLOYMENT = "kind: Deployment\nname: blue\nendpoint: e\nmodel: file:m.onnx\n"

MISTAKES = [
    # unknown, missing and misplaced keys
    (
        "kind: Endpoint\nname: a\nmirror_trafic: {b: 1}\n",
        ["s.yaml:3:1: mirror_trafic: is not a key here (did you mean 'mirror_traffic'?)"],
    ),
    (
        DEPLOYMENT + "resources: {cpus: 1}\n",
        ["s.yaml:5:13: resources.cpus: is not a key here (did you mean 'cpu'?)"],
    ),
    (
        "kind: Endpoint\nauth_mode: none\n",
        ["s.yaml:1:1: the key 'name' is missing (The stable public name that clients call: /v2/models/<name>/infer.)"],
    ),
    ("name: a\n", ["s.yaml:1:1: the key 'kind' is missing (one of Endpoint, Deployment, Rollout, Gateway)"]),
    (
        "kind: Endpont\nname: a\n",
        ["s.yaml:1:7: kind: the text 'Endpont' is not a kind of spec (did you mean 'Endpoint'?)"],
    ),
    (
        "kind: 3\n",
        ["s.yaml:1:7: kind: the number 3 is not a kind of spec (one of Endpoint, Deployment, Rollout, Gateway)"],
    ),
    (
        "- a\n",
        [
            "s.yaml:1:1: a document must be a mapping, not a list "
            "(begin with kind: Endpoint, Deployment, Rollout, Gateway)"
        ],
    ),
    ("kind: Endpoint\nname: a\n1: b\n", ["s.yaml:3:1: the number 1 cannot be a key (put it in quotes)"]),
    ("", ["there is no document in the input (begin with kind: Endpoint or kind: Deployment)"]),
    ("# only a comment\n---\n", ["there is no document in the input (begin with kind: Endpoint or kind: Deployment)"]),
    # wrong types: nothing is repaired
    (
        'kind: Endpoint\nname: a\ntraffic: {b: "100"}\n',
        ["s.yaml:3:14: traffic.b: must be a whole number, not the text '100' (use a whole number from 0 to 100)"],
    ),
    (
        "kind: Endpoint\nname: a\ntraffic: {b: 99.5}\n",
        ["s.yaml:3:14: traffic.b: must be a whole number, not the number 99.5 (use a whole number from 0 to 100)"],
    ),
    (
        "kind: Endpoint\nname: a\ntraffic: {b: true}\n",
        ["s.yaml:3:14: traffic.b: must be a whole number, not true (use a whole number from 0 to 100)"],
    ),
    (
        "kind: Endpoint\nname: a\nallow_anonymous: yes\n",
        [
            "s.yaml:3:18: allow_anonymous: must be true or false, not the text 'yes'"
            " (write true or false, without quotes)"
        ],
    ),
    (
        DEPLOYMENT + "model_version: 3.3\n",
        ["s.yaml:5:16: model_version: must be text, not the number 3.3 (put it in quotes)"],
    ),
    (
        "kind: Endpoint\nname: a\ntraffic: blue\n",
        ["s.yaml:3:10: traffic: must map deployments to percents, not the text 'blue' (such as {blue: 100})"],
    ),
    (
        DEPLOYMENT + "batching: 3\n",
        [
            "s.yaml:5:11: batching: must be a mapping, not the number 3"
            " (with the keys max_batch_size, latency_slo_ms, padding_mask)"
        ],
    ),
    (
        "kind: Endpoint\nname: a\ntraffic:\n",
        ["s.yaml:3:1: traffic: has no value (give it one, or remove the key)"],
    ),
    # out of range
    (
        DEPLOYMENT + "instance_count: 1001\n",
        ["s.yaml:5:17: instance_count: 1001 is out of range (use a whole number from 0 to 1000)"],
    ),
    (
        DEPLOYMENT + "resources: {cpu: .nan}\n",
        ["s.yaml:5:18: resources.cpu: nan is out of range (use a number above 0 to 1024)"],
    ),
    (
        DEPLOYMENT + "resources: {memory: 512M}\n",
        ["s.yaml:5:21: resources.memory: '512M' is not a size (did you mean '512Mi'?)"],
    ),
    (
        DEPLOYMENT + "request_settings: {max_request_size: 1}\n",
        [
            "s.yaml:5:38: request_settings.max_request_size: 1 is out of range"
            " (use a size from 1Ki to 1Gi, such as 512Mi or 1Gi)"
        ],
    ),
    (
        "kind: Endpoint\nname: stats\n",
        ["s.yaml:2:7: name: 'stats' is reserved by the protocol (choose another name)"],
    ),
    # settings that contradict each other
    (
        DEPLOYMENT + "execution: {provider: cuda}\n",
        [
            "s.yaml:5:13: execution.provider: 'cuda' needs a GPU, and resources.gpu is 0"
            " (set resources: {gpu: 1}, or a fraction to share one)"
        ],
    ),
    (
        DEPLOYMENT + "resources: {gpu: 0.5}\nexecution:\n  provider: cpu\n",
        [
            "s.yaml:7:3: execution.provider: 'cpu' would leave the GPU unused that resources.gpu: 0.5 reserves"
            " (set resources.gpu to 0, or the provider to cuda)"
        ],
    ),
    (
        DEPLOYMENT + "resources: {gpu: 3}\nexecution: {instances_per_replica: 2}\n",
        [
            "s.yaml:5:13: resources.gpu: 3 GPUs are more than 2 instances in a replica can use"
            " (an instance uses one GPU: set execution.instances_per_replica to as many, or use instance_count)"
        ],
    ),
    (
        DEPLOYMENT + "execution: {options: {device_id: 0}}\n",
        [
            "s.yaml:5:13: execution.options: the provider cpu has none (use threads and spinning, or remove them)",
        ],
    ),
    (
        DEPLOYMENT + "resources: {cpu: 0.5}\nexecution: {spinning: true}\n",
        [
            "s.yaml:6:13: execution.spinning: would take a whole core for 0.5 of one"
            " (set resources.cpu to a whole number, or spinning to false)"
        ],
    ),
    (
        DEPLOYMENT + "execution: {provider: gpu, thread: 2, options: {a: [1], b-c: 1, d: .inf}}\n",
        [
            "s.yaml:5:23: execution.provider: must be one of auto, cpu, cuda, tensorrt, not the text 'gpu'",
            "s.yaml:5:28: execution.thread: is not a key here (did you mean 'threads'?)",
            "s.yaml:5:52: execution.options.a: must be a text or a number, not a list (write true, 1 or a word)",
            "s.yaml:5:57: execution.options.b-c: 'b-c' is not the name of an option"
            " (use letters, digits and underscores)",
            "s.yaml:5:68: execution.options.d: must be a text or a number, not the number inf"
            " (write true, 1 or a word)",
        ],
    ),
    # traffic that does not make sense
    (
        "kind: Endpoint\nname: a\ntraffic: {blue: 60, green: 30}\n",
        ["s.yaml:3:10: traffic: the percents sum to 90 (make them sum to 100, or to 0 for no traffic)"],
    ),
    (
        "kind: Endpoint\nname: a\nmirror_traffic: {b: 1, c: 2}\n",
        ["s.yaml:3:17: mirror_traffic: names 2 deployments (mirror to one deployment at most)"],
    ),
    (
        "kind: Endpoint\nname: a\ntraffic: {b: 100}\nmirror_traffic: {b: 2}\n",
        ["s.yaml:4:18: mirror_traffic.b: 'b' already has live traffic (mirror to a deployment whose traffic is 0)"],
    ),
    # duplicates
    ("kind: Endpoint\nname: a\nname: b\n", ["s.yaml:3:1: name: is written twice (first in line 2)"]),
    (
        "kind: Endpoint\nname: a\ntraffic: {b: 100, b: 0}\n",
        ["s.yaml:3:19: traffic.b: is written twice (first in line 3)"],
    ),
    (
        "kind: Endpoint\nname: a\n---\nkind: Endpoint\nname: a\n",
        ["s.yaml:5:1: name: endpoint 'a' is described twice (first at s.yaml:1:1)"],
    ),
    (
        f"{DEPLOYMENT}---\n{DEPLOYMENT}",
        ["s.yaml:7:1: name: deployment 'blue' is described twice (first at s.yaml:1:1)"],
    ),
    # what a later version brings is refused, never ignored
    (
        DEPLOYMENT + "backend: triton\n",
        [
            "s.yaml:1:1: triton: the key is missing, which says where Triton is "
            "(such as triton: {mode: managed}, or {mode: direct, servers: [{host: 10.0.0.7}], model: fraud})"
        ],
    ),
    (
        f"{REMOTE}triton: {{mode: managed}}\n",
        [
            "s.yaml:1:1: the key 'model' is missing (Where the model is: file:PATH (relative to the spec's "
            "folder), package://PACKAGE/PATH, models:/NAME/VERSION, hf://ORG/REPOSITORY, oci://HOST/REPOSITORY:TAG, "
            "or https, s3, gs, az, abfss://….)"
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: managed, servers: [], start_timeout_s: 0, warm_up: 1}\n",
        [
            "s.yaml:6:25: triton.servers: is not a key here (it goes with modes direct and bridge, for Tritons that "
            "run already; what a managed one runs is named by the deployment's own key 'model')",
            "s.yaml:6:55: triton.start_timeout_s: 0 is out of range (use a whole number from 1 to 3600)",
            "s.yaml:6:67: triton.warm_up: must be true or false, not the number 1 "
            "(write true or false, without quotes)",
        ],
    ),
    (
        DEPLOYMENT + "triton: {mode: managed}\n",
        [
            "s.yaml:1:1: backend: onnx does not go with the key 'triton' (set backend: triton)",
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: managed, preferred_batch_sizes: [8, 128]}\n",
        [
            "s.yaml:6:25: triton.preferred_batch_sizes: 128 rows are more than batching.max_batch_size, which is 64 "
            "(raise that, or leave the size out)",
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: managed, preferred_batch_sizes: [8, 4]}\n",
        [
            "s.yaml:6:25: triton.preferred_batch_sizes: do not ascend (name each size once, the smallest first)",
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: managed}\nscale_settings: {min_instances: 0, max_instances: 2}\n",
        [
            "s.yaml:7:18: scale_settings.min_instances: 0 is not possible with a managed Triton (use 1 or more)",
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: managed}\nbatching: {padding_mask: mask}\n",
        [
            "s.yaml:7:12: batching.padding_mask: means nothing to Triton (remove it)",
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: managed}\nbatching: {latency_slo_ms: 50}\n",
        [
            "s.yaml:7:12: batching.latency_slo_ms: means nothing to Triton (remove it)",
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {servers: [{host: a}], model: m}\n",
        [
            "s.yaml:4:1: model: cannot stand beside 'triton' (where Triton runs already, remove it: triton.model is "
            "Triton's name of its model; to have a Triton run for it, set triton: {mode: managed})"
        ],
    ),
    (
        DEPLOYMENT + "backend: triton\ntriton: {mode: manged, warm_up: false}\n",
        [
            "s.yaml:6:16: triton.mode: must be one of direct, bridge, managed, not the text 'manged' "
            "(did you mean 'managed'?)",
        ],
    ),
    (
        f"{REMOTE}triton: {{mode: Bridge, servers: [{{host: a}}], model: m}}\n",
        [
            "s.yaml:5:16: triton.mode: must be one of direct, bridge, managed, not the text 'Bridge' "
            "(did you mean 'bridge'?)",
        ],
    ),
    (
        f"{REMOTE}triton: {{mode: bridge, servers: [{{host: a b, prt: 1}}, {{}}], model: ../etc, version: 01}}\n",
        [
            "s.yaml:5:41: triton.servers[0].host: 'a b' is not a host's name or IPv4 address "
            "(such as 10.0.0.7; ports are keys of their own)",
            "s.yaml:5:46: triton.servers[0].prt: is not a key here (known: grpc_port, host, http_port)",
            "s.yaml:5:55: triton.servers[1]: the key 'host' is missing (Its name or IPv4 address.)",
            "s.yaml:5:67: triton.model: '../etc' is not the name of a model of Triton's (such as fraud)",
        ],
    ),
    (
        f"{REMOTE}triton: {{servers: [{{host: a}}], model: m, warm_up: false}}\n",
        [
            "s.yaml:5:42: triton.warm_up: is not a key here (it goes with mode managed; Tritons that run already have "
            "their own config.pbtxt)"
        ],
    ),
    (
        f"{REMOTE}triton: {{servers: [{{host: a}}], model: m, tls: {{ca: ca.pem, key: {{path: k}}, http: 1}}}}\n",
        [
            "s.yaml:5:52: triton.tls.ca: must name a file, not the text 'ca.pem' (such as {file: /tls/key.pem})",
            "s.yaml:5:66: triton.tls.key.path: is not a key here (known: file)",
            "s.yaml:5:82: triton.tls.http: must be true or false, not the number 1 "
            "(write true or false, without quotes)",
        ],
    ),
    (
        f"{REMOTE}triton: {{servers: [{{host: a}}, {{host: b}}], model: m, tls: {{ca: {{file: /ca.pem}}}}}}\n",
        ["s.yaml:5:9: triton.tls.server_name: is missing (say which name is in the certificates of all servers)"],
    ),
    (
        f"{REMOTE}triton: {{servers: [{{host: a}}], model: m}}\nbatching: {{max_batch_size: 8}}\n",
        ["s.yaml:6:1: batching: is Triton's own matter here (remove it, and set it in Triton's config.pbtxt)"],
    ),
    (
        f"{REMOTE}triton: {{mode: bridge, servers: [{{host: a}}], model: m}}\nexecution: {{threads: 2}}\n",
        ["s.yaml:6:1: execution: is Triton's own matter here (remove it, and set it in Triton's config.pbtxt)"],
    ),
    (
        DEPLOYMENT + "instance_count: 2\nscale_settings: {max_instances: 3}\n",
        ["s.yaml:5:1: instance_count: cannot stand beside 'scale_settings' (remove one of the two)"],
    ),
    (
        "kind: Deployment\nname: b\nendpoint: e\nmodel: ftp://a/b\n",
        [f"s.yaml:4:8: model: the scheme 'ftp' is not supported ({_SCHEMES})"],
    ),
    (
        "kind: Deployment\nname: b\nendpoint: e\nmodel: ./m.onnx\n",
        [f"s.yaml:4:8: model: './m.onnx' is not a model reference ({_SCHEMES})"],
    ),
    (
        DEPLOYMENT + "golden_requests: one.json\n",
        ["s.yaml:5:18: golden_requests: must be a list, not the text 'one.json' (begin every entry with '- ')"],
    ),
    # YAML itself
    ("kind: [Endpoint\n", ["s.yaml:2:1: is not valid YAML: expected ',' or ']', but got '<stream end>'"]),
    ("kind: Endpoint\nname: \x01\n", ["s.yaml:2:7: contains a character that YAML does not allow"]),
    (
        "kind: !!python/object:os.system x\n",
        ["s.yaml:1:7: the tag 'tag:yaml.org,2002:python/object:os.system' is not supported (remove it)"],
    ),
    (
        "kind: &a Endpoint\nname: *a\n",
        ["s.yaml:1:7: anchors (&name) and aliases (*name) are not supported (write the value out)"],
    ),
    ("[" * 30 + "]" * 30, ["s.yaml:1:22: is nested deeper than 20 levels"]),
    ("? [a]\n: b\n", ["s.yaml:1:3: a list cannot be a key (use a plain word)"]),
]


@pytest.mark.parametrize(("text", "problems"), MISTAKES, ids=[text[-30:] for text, _ in MISTAKES])
def test_a_mistake_is_told_with_its_place_its_key_and_what_to_write(text: str, problems: list[str]) -> None:
    assert read(text) == problems


def test_every_mistake_of_every_file_is_told_at_once() -> None:
    broken = SpecSource("a.yaml", b"kind: [", "/")
    wrong = SpecSource("b.yaml", b"kind: Endpoint\nname: a b\ntrafic: {}\n---\nkind: Deployment\nname: c\n", "/")
    with pytest.raises(SpecProblems) as refused:
        read_specs([broken, wrong])
    places = [(problem.mark.file, problem.mark.line, problem.key) for problem in refused.value.problems if problem.mark]
    assert places == [
        ("a.yaml", 1, ""),
        ("b.yaml", 2, "name"),
        ("b.yaml", 3, "trafic"),
        ("b.yaml", 5, ""),  # the endpoint is missing
        ("b.yaml", 5, ""),  # the model is missing
    ]


def test_the_same_object_in_two_files_is_a_duplicate() -> None:
    sources = [SpecSource(name, b"kind: Endpoint\nname: a\n", "/") for name in ("a.yaml", "b.yaml")]
    with pytest.raises(SpecProblems, match=r"b\.yaml:2:1: .*first at a\.yaml:1:1"):
        read_specs(sources)


def test_bytes_that_are_no_text_are_told_with_their_line() -> None:
    with pytest.raises(SpecProblems, match=r"s\.yaml:2:7: is not UTF-8 text"):
        read_specs([SpecSource("s.yaml", b"kind: Endpoint\nname: \xff\n", "/")])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("on", "on"),
        ("~", None),
        ("012", 12),
        ("0o12", 10),
        ("0x1F", 31),
        ("-7", -7),
        ("1e3", 1000.0),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        (".5", 0.5),
        ("3.3.1", "3.3.1"),
        ("-.inf", float("-inf")),
        ("9" * 100, 10**100 - 1),
        ("9" * 5000, float("inf")),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert resolved(text) == value
    assert type(resolved(text)) is type(value)


def test_every_key_of_one_kind_of_triton_block_is_known_in_the_other() -> None:
    running, managed = (set(block.schema()["properties"]) for block in (TritonBlock(), ManagedBlock()))
    assert running & managed == {"mode", "model"}
    assert (running - managed, managed - running) == (set(OF_RUNNING), set(OF_MANAGED))
