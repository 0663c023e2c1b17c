"""Every call but infer, over HTTP and over gRPC, in a replica and in the control plane."""

from __future__ import annotations

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2

from serving.protocol import server_handler
from serving.server_view import ServerView
from serving.signature import Signature, TensorSpec
from serving.statistics import BatchStatistic, DurationStatistic, ModelStatistics
from tests.unit.serving.scripted_model import (
    GRPC,
    NAME,
    VERSION,
    ScriptedModel,
    call,
    error_of,
    grpc_call,
    grpc_status,
    handler_of,
    header,
    json_of,
    message_of,
    view,
)

EXTENSIONS = ["binary_tensor_data", "model_configuration", "parameters", "statistics"]
SIGNATURE = Signature(
    (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("text", "BYTES", (-1,))),
    (TensorSpec("y", "INT64", (-1, -1)),),
    is_batchable=True,
)
METADATA = {
    "name": NAME,
    "versions": [VERSION],
    "platform": "onnxruntime_onnx",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "text", "datatype": "BYTES", "shape": [-1]},
    ],
    "outputs": [{"name": "y", "datatype": "INT64", "shape": [-1, -1]}],
}
CONFIG = {
    "name": NAME,
    "platform": "onnxruntime_onnx",
    "max_batch_size": 64,
    "input": [
        {"name": "x", "data_type": "TYPE_FP32", "dims": [2]},
        {"name": "text", "data_type": "TYPE_STRING", "dims": []},
    ],
    "output": [{"name": "y", "data_type": "TYPE_INT64", "dims": [-1]}],
    "dynamic_batching": {},
}
INDEX = [
    {"name": NAME, "version": VERSION, "state": "READY"},
    {"name": "other", "version": "1", "state": "UNAVAILABLE", "reason": "it is broken"},
]
STATISTICS = ModelStatistics(
    last_inference_ms=1_700_000_000_000,
    inference_count=5,
    execution_count=2,
    success=DurationStatistic(4, 400),
    fail=DurationStatistic(1, 10),
    queue=DurationStatistic(5, 50),
    compute_input=DurationStatistic(5, 5),
    compute_infer=DurationStatistic(5, 300),
    compute_output=DurationStatistic(5, 6),
    batches={4: BatchStatistic(compute_infer=DurationStatistic(1, 200)), 1: BatchStatistic()},
)


def replica():
    return handler_of(ScriptedModel(SIGNATURE, stats=STATISTICS))


def get(handler, path):
    return call(handler, "GET", path)


def test_the_server_describes_itself_and_only_what_works():
    for handler in (replica(), server_handler(view)):
        for path in ("/v2", "/v2/"):
            assert json_of(get(handler, path)) == {"name": "crossfade", "version": "1.2.3", "extensions": EXTENSIONS}
        reply = message_of(
            grpc_call(handler, "ServerMetadata", service_pb2.ServerMetadataRequest()),
            service_pb2.ServerMetadataResponse,
        )
        assert (reply.name, reply.version, list(reply.extensions)) == ("crossfade", "1.2.3", EXTENSIONS)


def test_health_has_the_bodies_that_kserve_s_client_parses():
    for handler in (replica(), server_handler(view)):
        assert json_of(get(handler, "/v2/health/live")) == {"live": True}
        assert json_of(get(handler, "/v2/health/ready")) == {"ready": True}
        live = grpc_call(handler, "ServerLive", service_pb2.ServerLiveRequest())
        assert message_of(live, service_pb2.ServerLiveResponse).live
        ready = grpc_call(handler, "ServerReady", service_pb2.ServerReadyRequest())
        assert message_of(ready, service_pb2.ServerReadyResponse).ready


def test_a_server_that_is_not_ready_says_so_in_both_bodies_that_clients_read():
    handler = server_handler(lambda: ServerView("1", False, ()))
    response = get(handler, "/v2/health/ready")
    assert response.status == 503
    assert json_of(response)["ready"] is False
    assert "not every endpoint" in json_of(response)["error"]
    ready = grpc_call(handler, "ServerReady", service_pb2.ServerReadyRequest())
    assert not message_of(ready, service_pb2.ServerReadyResponse).ready


def test_model_metadata_has_shapes_with_the_batch_axis():
    for path in (f"/v2/models/{NAME}", f"/v2/models/{NAME}/", f"/v2/models/{NAME}/versions/{VERSION}"):
        assert json_of(get(replica(), path)) == METADATA
    reply = grpc_call(replica(), "ModelMetadata", service_pb2.ModelMetadataRequest(name=NAME, version=VERSION))
    message = message_of(reply, service_pb2.ModelMetadataResponse)
    assert list(message.versions) == [VERSION]
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [
        ("x", "FP32", [-1, 2]),
        ("text", "BYTES", [-1]),
    ]


def test_model_config_has_dims_without_the_batch_axis():
    assert json_of(get(replica(), f"/v2/models/{NAME}/config")) == CONFIG
    reply = grpc_call(replica(), "ModelConfig", service_pb2.ModelConfigRequest(name=NAME))
    config = message_of(reply, service_pb2.ModelConfigResponse).config
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (64, [2], [-1])
    assert config.HasField("dynamic_batching")


def test_a_model_that_cannot_be_batched_has_whole_dims_and_max_batch_size_0():
    signature = Signature((TensorSpec("x", "BF16", (2, 3)),), (TensorSpec("y", "BOOL", ()),), is_batchable=False)
    handler = handler_of(ScriptedModel(signature))
    config = json_of(get(handler, f"/v2/models/{NAME}/config"))
    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "x", "data_type": "TYPE_BF16", "dims": [2, 3]}]
    assert "dynamic_batching" not in config
    reply = grpc_call(handler, "ModelConfig", service_pb2.ModelConfigRequest(name=NAME))
    assert list(message_of(reply, service_pb2.ModelConfigResponse).config.input[0].dims) == [2, 3]


def test_statistics_have_triton_s_shape_over_both_protocols():
    (stats,) = json_of(get(replica(), f"/v2/models/{NAME}/stats"))["model_stats"]
    assert (stats["name"], stats["version"], stats["last_inference"]) == (NAME, VERSION, 1_700_000_000_000)
    assert (stats["inference_count"], stats["execution_count"]) == (5, 2)
    assert stats["inference_stats"]["queue"] == {"count": 5, "ns": 50}
    assert set(stats["inference_stats"]) == {
        *("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")
    }
    assert [(batch["batch_size"], batch["compute_infer"]["ns"]) for batch in stats["batch_stats"]] == [(1, 0), (4, 200)]
    for name in (NAME, ""):
        reply = grpc_call(replica(), "ModelStatistics", service_pb2.ModelStatisticsRequest(name=name))
        message = message_of(reply, service_pb2.ModelStatisticsResponse)
        document = MessageToDict(
            message.model_stats[0], preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        assert document["inference_stats"]["success"] == {"count": "4", "ns": "400"}
        assert [batch["batch_size"] for batch in document["batch_stats"]] == ["1", "4"]
    assert json_of(get(replica(), "/v2/models/stats")) == {"model_stats": [stats]}


def test_the_index_lists_all_models_or_only_the_ready_ones():
    for handler in (replica(), server_handler(view)):
        for body in (b"", b"{}", b'{"ready":false}'):
            assert json_of(call(handler, "POST", "/v2/repository/index", body)) == INDEX
        assert json_of(call(handler, "POST", "/v2/repository/index", b'{"ready":true}')) == INDEX[:1]
        reply = grpc_call(handler, "RepositoryIndex", service_pb2.RepositoryIndexRequest())
        message = message_of(reply, service_pb2.RepositoryIndexResponse)
        assert [(m.name, m.version, m.state, m.reason) for m in message.models] == [
            (NAME, VERSION, "READY", ""),
            ("other", "1", "UNAVAILABLE", "it is broken"),
        ]
        reply = grpc_call(handler, "RepositoryIndex", service_pb2.RepositoryIndexRequest(ready=True))
        assert len(message_of(reply, service_pb2.RepositoryIndexResponse).models) == 1


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"ready":1}', b"[" * 250_000 + b"]" * 250_000])
def test_an_index_request_that_cannot_be_read_is_refused(body):
    assert call(replica(), "POST", "/v2/repository/index", body).status == 400


def test_a_model_is_ready_when_it_says_so():
    model = ScriptedModel()
    handler = handler_of(model)
    ready_call = service_pb2.ModelReadyRequest(name=NAME)
    assert json_of(get(handler, f"/v2/models/{NAME}/ready")) == {"name": NAME, "ready": True}
    assert message_of(grpc_call(handler, "ModelReady", ready_call), service_pb2.ModelReadyResponse).ready
    model.is_ready = False
    response = get(handler, f"/v2/models/{NAME}/versions/{VERSION}/ready")
    assert (response.status, error_of(response)) == (503, "model 'fraud' is not ready")
    assert header(response, b"x-crossfade-retry") == b"1"
    assert not message_of(grpc_call(handler, "ModelReady", ready_call), service_pb2.ModelReadyResponse).ready


@pytest.mark.parametrize("path", [f"/v2/models/{NAME}/{method}" for method in ("ModelReady", "ModelMetadata")])
def test_the_gateway_s_paths_for_grpc_calls_are_known(path):
    request = service_pb2.ModelReadyRequest(name=NAME)
    assert list(grpc_call(replica(), "", request, path=path).trailers) == [(b"grpc-status", b"0")]
    versioned = path.replace(NAME, f"{NAME}/versions/{VERSION}")
    assert list(grpc_call(replica(), "", request, path=versioned).trailers) == [(b"grpc-status", b"0")]


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/v2/models/other", 404, "unknown model 'other'"),
        ("GET", f"/v2/models/{NAME}/versions/9/ready", 404, "has no version '9' here, it has '3'"),
        ("GET", f"/v2/models/{NAME}/nonsense", 404, "models have no 'nonsense'"),
        ("GET", "/", 404, "unknown path"),
        ("GET", "/v1/models", 404, "unknown path '/v1/models'"),
        ("GET", "/v2/health/", 404, "unknown path '/v2/health'"),
        ("GET", "/v2/%ff%00", 404, "unknown path"),
        ("POST", f"/v2/repository/models/{NAME}/load", 404, "deployed by the operator, clients cannot load them"),
        ("POST", f"/v2/repository/models/{NAME}/unload", 404, "clients cannot unload them"),
        ("GET", "/v2/systemsharedmemory/status", 404, "shared memory is not offered"),
        ("POST", "/v2/cudasharedmemory/region/r/register", 404, "shared memory is not offered"),
        ("GET", "/v2/trace/setting", 404, "trace settings are not offered"),
        ("GET", f"/v2/models/{NAME}/trace/setting", 404, "trace settings are not offered"),
        ("POST", "/v2/logging", 404, "log settings are not offered"),
        ("POST", f"/v2/models/{NAME}/generate", 404, "generate extension is not offered"),
        ("POST", "/v2", 405, "use GET"),
        ("POST", "/v2/health/ready", 405, "use GET"),
        ("DELETE", f"/v2/models/{NAME}", 405, "use GET"),
        ("GET", "/v2/repository/index", 405, "use POST"),
    ],
)
def test_http_calls_that_are_not_offered_say_what_is_wrong(method, path, status, reason):
    response = call(replica(), method, path)
    assert response.status == status
    assert reason in error_of(response)
    if status == 405:
        assert header(response, b"allow") == reason.removeprefix("use ").encode()


NOT_OFFERED = [
    *("ModelStreamInfer", "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister"),
    *("CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
]


@pytest.mark.parametrize("method", [*NOT_OFFERED, "Nonsense"])
def test_grpc_methods_that_are_not_offered_are_unimplemented(method):
    for handler in (replica(), server_handler(view)):
        code, message = grpc_status(grpc_call(handler, method, b""))
        assert code == 12
        assert b"not offered" in message or b"deployed by the operator" in message


def test_every_method_of_the_service_is_answered_or_refused_on_purpose():
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        response = grpc_call(replica(), method.name, b"")
        if response.trailers is None and grpc_status(response)[0] == 12:
            assert method.name in NOT_OFFERED


@pytest.mark.parametrize("path", ["/", "/other.Service/Method", "/v2/models/fraud", "/grpc.health.v1.Health"])
def test_grpc_calls_of_other_services_are_unimplemented(path):
    assert grpc_status(grpc_call(replica(), "", b"", path=path))[0] == 12


def test_grpc_calls_for_another_model_are_not_found():
    for method, request in (
        ("ModelReady", service_pb2.ModelReadyRequest(name="other")),
        ("ModelMetadata", service_pb2.ModelMetadataRequest(name=NAME, version="9")),
        ("ModelConfig", service_pb2.ModelConfigRequest()),
        ("ModelStatistics", service_pb2.ModelStatisticsRequest(name="other")),
    ):
        assert grpc_status(grpc_call(replica(), method, request))[0] == 5


@pytest.mark.parametrize(
    ("service", "status"),
    [("", "SERVING"), ("inference.GRPCInferenceService", "SERVING"), (NAME, "SERVING"), ("other", "NOT_SERVING")],
)
def test_grpc_health_knows_the_server_the_service_and_every_endpoint(service, status):
    for handler in (replica(), server_handler(view)):
        response = grpc_call(
            handler, "", health_pb2.HealthCheckRequest(service=service), path="/grpc.health.v1.Health/Check"
        )
        message = message_of(response, health_pb2.HealthCheckResponse)
        assert health_pb2.HealthCheckResponse.ServingStatus.Name(message.status) == status


def test_grpc_health_does_not_know_others_and_does_not_watch():
    request = health_pb2.HealthCheckRequest(service="nonsense")
    assert grpc_status(grpc_call(replica(), "", request, path="/grpc.health.v1.Health/Check"))[0] == 5
    assert grpc_status(grpc_call(replica(), "", request, path="/grpc.health.v1.Health/Watch"))[0] == 12


def test_the_control_plane_tells_models_without_a_replica_from_unknown_ones():
    handler = server_handler(view)
    assert call(handler, "POST", "/v2/models/other/infer", b"{}").status == 503
    assert get(handler, "/v2/models/other/ready").status == 503
    assert get(handler, "/v2/models/nonsense").status == 404
    assert get(handler, "/v2/models/stats").status == 404
    infer = service_pb2.ModelInferRequest(model_name="other")
    assert grpc_status(grpc_call(handler, "ModelInfer", infer))[0] == 14
    infer = service_pb2.ModelInferRequest(model_name="nonsense")
    assert grpc_status(grpc_call(handler, "ModelInfer", infer))[0] == 5
    ready = service_pb2.ModelReadyRequest(name="other")
    assert not message_of(grpc_call(handler, "ModelReady", ready), service_pb2.ModelReadyResponse).ready
    assert grpc_status(grpc_call(handler, "ModelReady", service_pb2.ModelReadyRequest(name="nonsense")))[0] == 5
    assert grpc_status(grpc_call(handler, "ModelStatistics", service_pb2.ModelStatisticsRequest()))[0] == 12


def test_json_replies_say_that_they_are_json():
    for path in ("/v2", "/v2/health/live", f"/v2/models/{NAME}", f"/v2/models/{NAME}/config"):
        response = get(replica(), path)
        assert header(response, b"content-type") == b"application/json"
        assert orjson.loads(response.body[0])


def test_a_get_with_grpc_s_content_type_is_refused():
    assert grpc_status(call(replica(), "GET", "/inference.GRPCInferenceService/ServerLive", b"", GRPC))[0] == 12
