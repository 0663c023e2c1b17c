"""A model that Tritons serve, behind replicas of ours: implements `serving.ports.Backend`.

Each call sends one batch to one Triton. As many may be under way as the Tritons have instances, and one more for each
Triton, so that the next batch is there when an instance is free. (A small network, 32 connections, requests a second:
9,000 without that one, 10,900 with it, 6,600 with three more, for then the batches are smaller.)

A call gets an answer within its deadline. One that fails because its Triton is gone goes to another; where there is
another, one that takes more than half of its time goes there as well, for a Triton that hangs says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from time import monotonic

import grpc
import numpy as np

from adapters.triton.bridge_link import LONGEST_CALL_S
from adapters.triton.bridge_memory import Region, Regions, left_over
from adapters.triton.bridge_messages import Messages, Shared
from adapters.triton.bridge_pool import Pool
from adapters.triton.bridge_server import Server
from adapters.triton.bridge_sharing import Layout, Sharing
from adapters.triton.bridge_signature import ServedModel
from adapters.triton.bridge_words import is_out_of_reach, is_region_unknown, scoring_error, why_not
from router.domain.triton import RunningTriton
from serving.errors import DeadlinePassed, ScoringError, Unavailable
from serving.signature import Signature

_MOST_AT_A_TIME = 16


class TritonBridge:
    """`connect` until it says that a server answers; the rest, but `close`, is for afterwards."""

    def __init__(self, triton: RunningTriton) -> None:
        self._triton = triton
        servers = tuple(Server(server, triton) for server in triton.servers)
        self._regions = Regions(self._forget)
        self._pool = Pool(servers, self._regions.forgotten_by)
        self._served: ServedModel | None = None

    def connect(self) -> str:
        """Empty when a server answers with the model; else why none does, and it is worth while to ask again.

        Raises `ModelUnavailable` for a model that no bridge can stand before.
        """
        self._pool.look()
        if trouble := self._pool.trouble:
            return trouble
        assert self._pool.model is not None
        self._served = self._pool.model
        self._messages = Messages(self._triton.model, self._triton.version, self.signature)
        self._sharing = Sharing(self.signature)
        for region in left_over():
            self._forget(region)
        self._pool.start()
        return ""

    @property
    def signature(self) -> Signature:
        return self._model.signature

    @property
    def parallelism(self) -> int:
        return min(_MOST_AT_A_TIME, len(self._triton.servers) * (self._model.instances + 1))

    @property
    def trouble(self) -> str:
        return self._pool.trouble

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = inf
    ) -> list[np.ndarray]:
        """See `Backend`."""
        deadline_s = min(deadline_s, monotonic() + LONGEST_CALL_S)
        tried: list[Server] = []
        failure: ScoringError | None = None
        while (server := self._pool.take(tried)) is not None:
            has_another = self._pool.has_another(tried, server)
            try:
                return self._ask(server, inputs, outputs, deadline_s, has_another)
            except grpc.RpcError as error:
                self._pool.look_now()
                code, words = error.code(), error.details() or ""
                failure = scoring_error(code, words)
                is_late = code is grpc.StatusCode.DEADLINE_EXCEEDED
                if not is_out_of_reach(code, words) and not (is_late and has_another):
                    raise failure from None
                tried.append(server)
            finally:
                self._pool.give_back(server)
        raise failure or Unavailable(f"no Triton answers: {self._pool.trouble}")

    def close(self) -> None:
        self._pool.close()
        self._regions.close()
        for server in self._pool.servers:
            server.close()

    @property
    def _model(self) -> ServedModel:
        assert self._served is not None, "connect comes first"
        return self._served

    def _ask(
        self,
        server: Server,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline_s: float,
        has_another: bool,
    ) -> list[np.ndarray]:
        layout = self._sharing.layout(inputs, outputs) if server.shares_memory else None
        region = None if layout is None else self._region(server, layout, _timeout_s(deadline_s, has_another))
        if layout is not None and region is not None:
            try:
                return self._ask_sharing(server, inputs, outputs, region, layout, _timeout_s(deadline_s, has_another))
            except grpc.RpcError as error:
                if not is_region_unknown(why_not(error)):
                    raise
                server.forget_regions()  # it was started again meanwhile
        timeout_s = _timeout_s(deadline_s, has_another)
        request = self._messages.request(inputs, outputs, int(timeout_s * 1e6))
        return self._messages.reply(server.infer(request, timeout_s), outputs)

    def _ask_sharing(
        self,
        server: Server,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        region: Region,
        layout: Layout,
        timeout_s: float,
    ) -> list[np.ndarray]:
        is_free = True  # while Triton has nothing to do with the region
        try:
            shared = Shared(region.name, layout.inputs, layout.outputs, region.memory)
            shared.write(inputs)
            request = self._messages.request(inputs, outputs, int(timeout_s * 1e6), shared)
            is_free = False
            message = server.infer(request, timeout_s)
            is_free = True
            return self._messages.reply(message, outputs, shared)
        except grpc.RpcError as error:
            is_free = error.code() in _ENDED
            raise
        finally:
            if is_free:
                self._regions.give_back(region)
            else:
                self._regions.set_aside(region, server)

    def _region(self, server: Server, layout: Layout, within_s: float) -> Region | None:
        """Where both write and read; None when they cannot."""
        region = self._regions.lease(layout.size)
        if region is not None and not server.register(region, within_s):
            self._regions.give_back(region)
            return None
        return region

    def _forget(self, region: str) -> None:
        for server in self._pool.servers:
            server.unregister(region)


# After these, Triton has done with the call, and with its memory.
_ENDED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL, grpc.StatusCode.NOT_FOUND)


def _timeout_s(deadline_s: float, has_another: bool) -> float:
    """How long a call may take. Raises `DeadlinePassed`."""
    left_s = deadline_s - monotonic()
    if left_s <= 0:
        raise DeadlinePassed("the deadline passed before Triton was asked")
    return left_s / 2 if has_another else left_s
