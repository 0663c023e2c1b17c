"""The first request that a Triton answers: asked of a model that cannot be warmed up otherwise, before it gets traffic.

Triton warms up instances, and an ensemble has none: that each of its parts runs does not say that what one gives is
what the next one takes. Inputs are made up from what Triton says that the model takes; the first that works is kept,
for the next Triton that serves the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from router.domain.errors import ModelUnavailable
from serving.samples import Sample, candidates
from serving.signature import Signature, TensorSpec
from serving.tensors import DATATYPES, encode_binary

_LENGTH_HEADER = "inference-header-content-length"


class FirstAnswer:
    """For one model, in whichever Triton."""

    def __init__(self) -> None:
        self._found: Sample | None = None

    async def ask(self, client: httpx.AsyncClient, url: str) -> None:
        """Returns when the model at `url` has answered, however long that takes.

        Raises `ModelUnavailable` with Triton's words when it answers nothing that it says to take, `httpx.HTTPError`
        when Triton is gone.
        """
        refusals = []
        for sample in await self._samples(client, url):
            header, body = request_of(sample)
            answer = await client.post(
                f"{url}/infer", content=header + body, headers={_LENGTH_HEADER: str(len(header))}, timeout=None
            )
            if answer.status_code == 200:
                self._found = sample
                return
            refusals.append(said(answer))
        reason = refusals[0] if refusals else "its inputs are too big to be made up"
        raise ModelUnavailable(
            f"the model did not answer its first request: {reason}; if it only takes requests of a special kind, set "
            "triton: {warm_up: false}"
        )

    async def _samples(self, client: httpx.AsyncClient, url: str) -> Iterator[Sample]:
        if self._found is not None:
            return iter((self._found,))
        answer = await client.get(url)
        if answer.status_code != 200:
            raise ModelUnavailable(f"Triton does not describe the model: {said(answer)}")
        return candidates(signature_of(answer.json()))


def signature_of(metadata: Any) -> Signature:
    """Out of Triton's answer to a question for a model's metadata. Raises `ModelUnavailable`."""
    inputs, outputs = (
        tuple(TensorSpec(one["name"], one["datatype"], tuple(map(int, one["shape"]))) for one in metadata[kind])
        for kind in ("inputs", "outputs")
    )
    if unknown := [spec.datatype for spec in inputs if spec.datatype not in DATATYPES]:
        raise ModelUnavailable(f"Triton's model takes {unknown[0]!r}, which is no V2 datatype")
    return Signature(inputs, outputs, all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs)))


def request_of(sample: Sample) -> tuple[bytes, bytes]:
    """The JSON header and the binary tensors of a request for one row."""
    tensors = sample.rows(1)
    encoded = {
        spec.name: bytes(encode_binary(spec.name, DATATYPES[spec.datatype], tensors[spec.name]))
        for spec in sample.signature.inputs
    }
    inputs = [
        {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": tensors[spec.name].shape,
            "parameters": {"binary_data_size": len(encoded[spec.name])},
        }
        for spec in sample.signature.inputs
    ]
    header = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return header, b"".join(encoded.values())


def said(answer: httpx.Response) -> str:
    """Triton's own words in an answer that is an error."""
    try:
        text = str(json.loads(answer.text)["error"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP {answer.status_code}"
    return " ".join(text.split())[:600]
