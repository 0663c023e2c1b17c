"""What the real Envoy counts of each deployment, against what clients sent and replicas saw."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from router.domain.measurement import Totals
from router.domain.routing import Routing
from router.domain.traffic import Mirror
from router.ports import Acknowledged
from router.telemetry import AttemptMeter
from router.xds.reports import BOUNDS_MS, reports_service
from router.xds.server import XdsServer
from serving.exchange import HttpRequest, HttpResponse
from tests.envoy.data_plane import (
    DataPlane,
    data_plane,
    gateway_in,
    listening,
    process_of,
    routing,
    started_envoy,
    upstream,
)
from tests.envoy.replica import grpc_answer
from tests.envoy.waiting import DEADLINE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS = 200


async def counted(meter: AttemptMeter, endpoint: str, requests: int) -> dict[str, Totals]:
    """The totals, once this many requests are in them."""

    def seen() -> int:
        return sum(totals.requests for totals in meter.totals(endpoint).values())

    await eventually(lambda: seen() >= requests)
    assert seen() == requests
    return dict(meter.totals(endpoint))


async def no_more(meter: AttemptMeter, endpoint: str, before: dict[str, Totals]) -> None:
    """Nothing is added to what was seen by two more reports, which other endpoints' requests bring about."""
    assert dict(meter.totals(endpoint)) == before
