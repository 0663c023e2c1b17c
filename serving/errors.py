"""Everything that can go wrong with a scoring request, as facts, and the one table that says them in HTTP and gRPC."""

from __future__ import annotations

from enum import StrEnum

from router.domain.errors import CrossfadeError


class ScoringError(CrossfadeError):
    """Base: a request that was not answered with outputs. `str(error)` is what the client reads."""


class BadRequest(ScoringError):
    """The request breaks the protocol or does not fit the model."""


class UnknownModel(ScoringError):
    """No such model or version here."""


class UnknownRoute(ScoringError):
    """No such path."""


class MethodNotAllowed(ScoringError):
    """The path exists, the HTTP method does not fit it."""


class TooLarge(ScoringError):
    """The body is over the configured limit."""


class UnsupportedEncoding(ScoringError):
    """A content-encoding that we do not read."""


class Refusal(StrEnum):
    """Why a request was not let into the queue."""

    QUEUE_FULL = "queue_full"
    DEADLINE = "deadline"  # its deadline would pass before its answer
    OVERLOAD = "overload"  # too much comes in, and its answer would miss the objective


class Overloaded(ScoringError):
    """The request would wait in vain. `retry_after_s`: when there should be room."""

    def __init__(self, message: str, reason: Refusal = Refusal.QUEUE_FULL, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Unavailable(ScoringError):
    """The model is still loading, or the replica is draining. The work has not begun: safe to send elsewhere."""


class NotStarted(ScoringError):
    """Nobody runs the model, and nobody came up in time to do so. Not to be sent elsewhere: there is no elsewhere."""


class DeadlinePassed(ScoringError):
    """The deadline passed before the work began."""


class Cancelled(ScoringError):
    """The client is gone; nobody reads this."""


class ModelFailed(ScoringError):
    """The model itself failed on this request."""


class InternalFailure(ScoringError):
    """A mistake of ours, which the log tells."""


class NotImplementedHere(ScoringError):
    """A part of the protocol that Crossfade does not offer."""


class Forbidden(ScoringError):
    """The request did not come through the gateway."""


# error -> (HTTP status, gRPC status code). RESOURCE_EXHAUSTED for shed load: clients retry UNAVAILABLE, which would
# multiply the load. 424 is Azure ML's code for a model's own failure. 499 is never seen by anybody.
STATUS: dict[type[ScoringError], tuple[int, int]] = {
    BadRequest: (400, 3),  # INVALID_ARGUMENT
    UnknownModel: (404, 5),  # NOT_FOUND
    UnknownRoute: (404, 12),  # UNIMPLEMENTED
    MethodNotAllowed: (405, 12),
    TooLarge: (413, 8),  # RESOURCE_EXHAUSTED, as grpc's own message limit says it
    UnsupportedEncoding: (415, 12),
    Overloaded: (429, 8),
    Unavailable: (503, 14),  # UNAVAILABLE
    NotStarted: (503, 14),
    DeadlinePassed: (504, 4),  # DEADLINE_EXCEEDED
    Cancelled: (499, 1),  # CANCELLED
    ModelFailed: (424, 13),  # INTERNAL
    InternalFailure: (500, 13),
    NotImplementedHere: (404, 12),  # not 501: a caller's mistake must not count against the replica as a 5xx does
    Forbidden: (403, 7),  # PERMISSION_DENIED
}
