"""Orders for samples and the records that answer them, as JSON: both ends of the call from control plane to replica.

`POST /-/samples` on a replica's own listener. No client reaches it: Envoy routes scoring paths only, and the listener
wants the gateway's token.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from math import prod
from typing import Any

import orjson

from serving.answers import Answer, Answered, Failed, Form, Key, OutputRecord, Record, Repeat, Unanswered
from serving.errors import BadRequest
from serving.exchange import Cancel, Handler, HttpRequest, HttpResponse, Reply
from serving.replies import JSON_TYPE, error_response, method_not_allowed
from serving.sampling import Batch, Order, Sampled
from serving.tensors import DATATYPES

PATH = "/-/samples"


def samples_handler(renew: Callable[[Order], Batch]) -> Handler:
    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        if request.method != b"POST":
            reply(method_not_allowed(b"POST"))
            return None
        try:
            order = read_order(request.body)
        except ValueError as error:
            reply(error_response(BadRequest(str(error))))
            return None
        reply(HttpResponse(200, (JSON_TYPE,), (written_batch(renew(order)),)))
        return None

    return handle


def written_order(order: Order) -> bytes:
    return orjson.dumps(
        {"share": order.share, "lease_s": order.lease_s, "after": order.after, "has_repeats": order.has_repeats}
    )


def read_order(text: bytes) -> Order:
    """Raises `ValueError`."""
    try:
        document = orjson.loads(text)
        return Order(
            float(document["share"]),
            float(document["lease_s"]),
            int(document["after"]),
            bool(document["has_repeats"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an order for samples: {error}") from error


def written_batch(batch: Batch) -> bytes:
    records = [{"age_s": sampled.age_s, **_written(sampled.record)} for sampled in batch.records]
    return orjson.dumps({"last": batch.last, "has_gap": batch.has_gap, "records": records})


def read_batch(text: bytes) -> Batch:
    """Raises `ValueError`."""
    try:
        document = orjson.loads(text)
        records = tuple(Sampled(_read(item), float(item["age_s"])) for item in document["records"])
        return Batch(int(document["last"]), bool(document["has_gap"]), records)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a batch of samples: {error!r}") from error


def _written(record: Record) -> dict[str, Any]:
    key = {"id": record.key.request_id, "fingerprint": record.key.fingerprint}
    match record:
        case Repeat():
            return {**key, "outputs": _written_outputs(record.first), "again": _written_outputs(record.second)}
        case Answer(what=Answered() as what):
            return {**key, "outputs": _written_outputs(what)}
        case Answer(what=Failed(kind)):
            return {**key, "failed": kind}
        case _:
            return key


def _read(item: dict[str, Any]) -> Record:
    key = Key(str(item["id"]), int(item["fingerprint"]))
    match item:
        case {"outputs": first, "again": second}:
            return Repeat(key, _read_outputs(first), _read_outputs(second))
        case {"outputs": outputs}:
            return Answer(key, _read_outputs(outputs))
        case {"failed": kind}:
            return Answer(key, Failed(str(kind)))
        case _:
            return Answer(key, Unanswered())


def _written_outputs(answered: Answered) -> list[dict[str, Any]]:
    return [
        {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape,
            "form": output.form,
            "data": b64encode(output.data).decode(),
            "tops": b64encode(output.tops).decode(),
        }
        for output in answered.outputs
    ]


def _read_outputs(items: list[dict[str, Any]]) -> Answered:
    return Answered(tuple(_read_output(item) for item in items))


def _read_output(item: dict[str, Any]) -> OutputRecord:
    output = OutputRecord(
        name=str(item["name"]),
        datatype=str(item["datatype"]),
        shape=tuple(int(axis) for axis in item["shape"]),
        form=Form(item["form"]),
        data=b64decode(item["data"]),
        tops=b64decode(item["tops"]),
    )
    datatype = DATATYPES[output.datatype]
    if output.form is Form.WHOLE and not datatype.is_bytes:
        size = max(datatype.dtype.itemsize, 4) if output.is_float else datatype.dtype.itemsize
        if len(output.data) != prod(output.shape) * size:
            raise ValueError(f"output {output.name!r} has {len(output.data)} bytes")
    return output
