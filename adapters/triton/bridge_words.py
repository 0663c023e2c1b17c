"""What Triton's refusals and failures mean to whoever sent the request."""

from __future__ import annotations

import re

import grpc

from serving.errors import BadRequest, DeadlinePassed, ModelFailed, Overloaded, Refusal, ScoringError, Unavailable

# Triton answers UNAVAILABLE for these as well, although it is well:
# https://github.com/triton-inference-server/core/blob/main/src/scheduler_utils.cc
_QUEUE_FULL = "Exceeds maximum queue size"
_QUEUED_TOO_LONG = "Request timeout expired"
_RESTRICTED = "protocol is restricted"

_REQUEST_ID = re.compile(r"^\[request id: [^\]]*\] ")
_NO_REGION = re.compile(r"[Uu]nable to find (?:system )?shared memory region|shared memory region .* not found", re.I)


def is_out_of_reach(code: grpc.StatusCode, words: str) -> bool:
    """Whether it is not the request that failed: the server is gone, goes, or does not serve the model now."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return _QUEUE_FULL not in words and _QUEUED_TOO_LONG not in words
    return code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED)


def is_region_unknown(words: str) -> bool:
    """Whether Triton has forgotten the shared memory, as one that was started again has."""
    return _NO_REGION.search(words) is not None


def is_restricted(words: str) -> bool:
    """Whether Triton wants to see a key before it answers. It says UNAVAILABLE then."""
    return _RESTRICTED in words


def scoring_error(code: grpc.StatusCode, words: str) -> ScoringError:
    """`words`: Triton's message, which is kept."""
    words = plain_words(words) or code.name
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return BadRequest(words)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlinePassed("the deadline passed before Triton answered")
        case grpc.StatusCode.UNAVAILABLE if _QUEUE_FULL in words:
            return Overloaded(f"Triton's queue is full: {words}", Refusal.QUEUE_FULL)
        case grpc.StatusCode.UNAVAILABLE if _QUEUED_TOO_LONG in words:
            return DeadlinePassed(f"the deadline passed in Triton's queue: {words}")
        case _ if is_out_of_reach(code, words):
            return Unavailable(words)
        case _:
            return ModelFailed(words)


def plain_words(words: str) -> str:
    """Without the id that Triton puts before its message: the batch's, not the request's."""
    return _REQUEST_ID.sub("", " ".join(words.split()))


def why_not(error: grpc.RpcError) -> str:
    return plain_words(error.details() or "") or error.code().name
