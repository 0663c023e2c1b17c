"""Retries: which failures users never see. Scoring has no side effects, so a request may be sent again."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from router.xds.gateway import NO_RETRY_HEADER, RETRY_HEADER, Gateway
from router.xds.resources import milliseconds, packed

# A replica that died (connect-failure, reset) or that has not begun the work and says so (the header).
# Not 5xx: a model that fails on an input fails on it everywhere.
_RETRY_ON = "connect-failure,refused-stream,reset,retriable-headers"

# How often Envoy may pick again when it picked a replica that has failed this request before. It picks by load, and who
# hangs or refuses has little of it: with two replicas, three picks of four may fall upon the wrong one.
_SELECTIONS = 64

_SHIELD_ON = "5xx,retriable-status-codes"

# What is a deployment's failure besides 5xx: 424 is the model's own, 429 means that the replica's queue is full.
FAILED_STATUSES = frozenset({424, 429})
# And in gRPC: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS. The others blame the
# caller, or are no failure (OK, CANCELLED).
FAILED_GRPC_STATUSES = frozenset({2, 4, 8, 13, 14, 15})


def retry_policy(gateway: Gateway) -> Any:
    return rc.RetryPolicy(
        retry_on=_RETRY_ON,
        num_retries=UInt32Value(value=gateway.retries),
        retriable_request_headers=[rc.HeaderMatcher(name=NO_RETRY_HEADER, present_match=False)],
        retriable_headers=[rc.HeaderMatcher(name=RETRY_HEADER, string_match=string_pb2.StringMatcher(exact="1"))],
        retry_host_predicate=[
            rc.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=_SELECTIONS,
        # The first retry is immediate to the eye; the last ones leave time for a replica to come up.
        retry_back_off=rc.RetryPolicy.RetryBackOff(base_interval=milliseconds(2), max_interval=milliseconds(100)),
    )


def retry_policy_with_standby(gateway: Gateway) -> Any:
    """As `retry_policy`, and an attempt that failed on one priority is repeated on the next."""
    policy = retry_policy(gateway)
    policy.retry_priority.CopyFrom(_on_the_next_priority())
    return policy


def shield_policy(gateway: Gateway) -> Any:
    """One more attempt, on the next priority, when the first one failed by the deployment's doing.

    One: what fails on the candidate and on stable is the request's own fault, or nobody can help.
    """
    policy = retry_policy(gateway)
    policy.retry_on = f"{_RETRY_ON},{_SHIELD_ON}"
    policy.num_retries.value = 1
    policy.retriable_status_codes.extend(sorted(FAILED_STATUSES))
    policy.retriable_headers.extend(
        rc.HeaderMatcher(name="grpc-status", string_match=string_pb2.StringMatcher(exact=str(status)))
        for status in sorted(FAILED_GRPC_STATUSES)
    )
    policy.retry_priority.CopyFrom(_on_the_next_priority())
    policy.ClearField("retry_host_predicate")
    policy.ClearField("host_selection_retry_max_attempts")
    return policy


def _on_the_next_priority() -> Any:
    return rc.RetryPolicy.RetryPriority(
        name="envoy.retry_priorities.previous_priorities",
        typed_config=packed(previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=1)),
    )
