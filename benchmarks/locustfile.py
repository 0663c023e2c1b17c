"""Load tests with locust, for your own endpoints and your own traffic.

    locust -f benchmarks/locustfile.py HttpUser --host http://127.0.0.1:8000 --endpoint fraud --request-file r.json
    locust -f benchmarks/locustfile.py GrpcUser --host 127.0.0.1:8001 --endpoint fraud --request-file r.json

Add `--headless -u 50 -r 10 -t 60s` to run without the web page. The request file is a V2 infer request in JSON, as for
`curl --data @r.json …/v2/models/fraud/infer`; GrpcUser sends the same tensors as raw contents. Answers are grouped by
the deployment that gave them, so a rollout can be watched: `infer blue`, `infer green`.

`--shape` says how many of the `-u` users there are over the time of `-t` (60 s without it): `steady`, all of them all
the time; `ramp`, from a tenth to all of them in ten steps; `spike`, a tenth of them, but all in the middle third.

Locust is Python, and so is its gRPC client: one process gives a few thousand requests a second. For more, add
`--processes -1`; to find the gateway's limit, use wrk and h2load as `benchmarks/gateway.py` does.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental.gevent
import numpy as np
from locust import FastHttpUser, LoadTestShape, User, constant, events, task
from locust.env import Environment
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor, triton_to_np_dtype

DEPLOYMENT_HEADER = "x-crossfade-deployment"
TIMEOUT_S = 30.0
SHAPES = ("steady", "ramp", "spike")
DEFAULT_RUN_TIME_S = 60.0


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # locust's events have no types
def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--endpoint", default="filetype", help="the endpoint's name")
    parser.add_argument("--request-file", default="request.json", help="a V2 infer request in JSON")
    parser.add_argument("--shape", default="steady", choices=SHAPES, help="how the number of users changes (steady)")
    parser.add_argument("--deployment", default="", help="send everything to this deployment, whatever the weights")


@events.init.add_listener  # type: ignore[untyped-decorator]
def _let_grpc_wait_with_gevent(environment: Environment, **_: Any) -> None:
    grpc.experimental.gevent.init_gevent()


class ChosenShape(LoadTestShape):
    """The shape of `--shape`, in terms of `-u`, `-r` and `-t`."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        options = self.runner.environment.parsed_options
        passed = self.get_run_time() / (options.run_time or DEFAULT_RUN_TIME_S)
        if passed >= 1:
            return None
        users = max(1, round(options.num_users * share_of_users(options.shape, passed)))
        return users, max(options.spawn_rate, 1)


class HttpUser(FastHttpUser):
    """JSON over HTTP/1.1 with keep-alive, one request after the other."""

    wait_time = constant(0)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self.body = Path(options.request_file).read_text()
        self.path = f"/v2/models/{options.endpoint}/infer"
        self.request_headers = {"content-type": "application/json", **_pin(options.deployment)}

    @task
    def infer(self) -> None:
        with self.client.post(
            self.path, data=self.body, headers=self.request_headers, name="infer", catch_response=True
        ) as reply:
            if reply.status_code == 200:
                reply.request_meta["name"] = f"infer {reply.headers[DEPLOYMENT_HEADER]}"
            else:
                reply.failure(f"{reply.status_code} {reply.text}")


class GrpcUser(User):
    """Unary gRPC calls over one connection per user, one after the other."""

    wait_time = constant(0)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        request = json.loads(Path(options.request_file).read_text())
        self.message = grpc_request(options.endpoint, request)
        self.metadata = tuple(_pin(options.deployment).items())
        # Without the option all users of one process would share one connection.
        self.channel = grpc.insecure_channel(self.host, options=[("grpc.use_local_subchannel_pool", 1)])
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def on_stop(self) -> None:
        self.channel.close()

    @task
    def infer(self) -> None:
        started_s = time.perf_counter()
        name, size, failure = "infer", 0, None
        try:
            reply, call = self.stub.ModelInfer.with_call(self.message, timeout=TIMEOUT_S, metadata=self.metadata)
        except grpc.RpcError as error:
            failure = error
        else:
            name, size = f"infer {dict(call.initial_metadata())[DEPLOYMENT_HEADER]}", reply.ByteSize()
        self.environment.events.request.fire(
            request_type="gRPC",
            name=name,
            response_time=(time.perf_counter() - started_s) * 1000,
            response_length=size,
            exception=failure,
        )


def share_of_users(shape: str, passed: float) -> float:
    """The share of all users that are there when `passed` of the time is over, both from 0 to 1."""
    match shape:
        case "ramp":
            return (int(passed * 10) + 1) / 10
        case "spike":
            return 1.0 if 1 / 3 <= passed < 2 / 3 else 0.1
        case _:
            return 1.0


def grpc_request(endpoint: str, request: dict[str, Any]) -> service_pb2.ModelInferRequest:
    """A V2 JSON request as the gRPC message that says the same, its tensors as raw contents."""
    message = service_pb2.ModelInferRequest(model_name=endpoint, id=request.get("id", ""))
    for tensor in request["inputs"]:
        message.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        array = np.array(tensor["data"], triton_to_np_dtype(tensor["datatype"])).reshape(tensor["shape"])
        is_text = tensor["datatype"] == "BYTES"
        message.raw_input_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
    for output in request.get("outputs", ()):
        message.outputs.add(name=output["name"])
    return message


def _pin(deployment: str) -> dict[str, str]:
    return {DEPLOYMENT_HEADER: deployment} if deployment else {}
