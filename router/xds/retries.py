"""Retries: which failures users never see. Scoring has no side effects, so a request may be sent again."""

from __future__ import annotations

from typing import Any

from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.retry.priority.previous_priorities.v3 import previous_priorities_config_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import UInt32Value

from router.xds.clusters import milliseconds
from router.xds.gateway import RETRY_HEADER, Gateway
from router.xds.resources import packed

# A replica that died (connect-failure, reset) or that has not begun the work and says so (the header).
# Not 5xx: a model that fails on an input fails on it everywhere.
_RETRY_ON = "connect-failure,refused-stream,reset,retriable-headers"


def retry_policy(gateway: Gateway) -> Any:
    return rc.RetryPolicy(
        retry_on=_RETRY_ON,
        num_retries=UInt32Value(value=gateway.retries),
        retriable_headers=[rc.HeaderMatcher(name=RETRY_HEADER, string_match=string_pb2.StringMatcher(exact="1"))],
        retry_host_predicate=[
            rc.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=packed(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=gateway.retries,
        # The first retry is immediate to the eye; the last ones leave time for a replica to come up.
        retry_back_off=rc.RetryPolicy.RetryBackOff(base_interval=milliseconds(2), max_interval=milliseconds(100)),
    )


def retry_policy_with_standby(gateway: Gateway) -> Any:
    """As `retry_policy`, and an attempt that failed on one priority is repeated on the next."""
    policy = retry_policy(gateway)
    policy.retry_priority.CopyFrom(
        rc.RetryPolicy.RetryPriority(
            name="envoy.retry_priorities.previous_priorities",
            typed_config=packed(previous_priorities_config_pb2.PreviousPrioritiesConfig(update_frequency=1)),
        )
    )
    return policy
