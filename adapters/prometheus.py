"""Prometheus' HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/): instant queries.

Everything that speaks it will do: Thanos, Mimir, VictoriaMetrics.
"""

from __future__ import annotations

import json
from typing import Any

from adapters.http_exchange import ExchangeFailed, HttpExchange, origin
from router.domain.policy import CustomMetric
from router.domain.rollout import Rollout
from router.domain.sources import PrometheusQuery
from router.measuring import NotMeasured, number_of


class PrometheusSampler:
    """Implements `Sampler`."""

    def __init__(self, http: HttpExchange) -> None:
        self._http = http

    async def sample(self, rollout: Rollout, metric: CustomMetric, source: PrometheusQuery) -> float:
        try:
            body = await self._http.get(
                f"{source.server.rstrip('/')}/api/v1/query", {"query": query_of(rollout, source.query)}
            )
        except ExchangeFailed as error:
            words = _error_words(error.body)
            raise NotMeasured(f"{origin(source.server)}: {error}{f': {words}' if words else ''}") from None
        return value_of(body)


def query_of(rollout: Rollout, query: str) -> str:
    """The query with the rollout's names filled in. Names hold nothing that PromQL would have to quote."""
    for word, name in (
        ("${candidate}", rollout.candidate),
        ("${stable}", rollout.stable),
        ("${endpoint}", rollout.endpoint),
    ):
        query = query.replace(word, name)
    return query


def value_of(body: bytes) -> float:
    """The one number of an answer: a scalar, or a vector of one sample. Raises `NotMeasured`."""
    match _decoded(body):
        case {"status": "success", "data": {"resultType": "scalar", "result": [_, str(text)]}}:
            return number_of(text)
        case {"status": "success", "data": {"resultType": "vector", "result": list(samples)}}:
            return _only(samples)
        case {"status": "success", "data": {"resultType": str(kind)}}:
            raise NotMeasured(f"the query gives a {kind}, and one number is needed")
        case {"status": "error", "error": str(words)}:
            raise NotMeasured(words[:500])
    raise NotMeasured("the answer is not one of Prometheus' HTTP API")


def _only(samples: list[Any]) -> float:
    match samples:
        case []:
            raise NotMeasured("the query gives no sample")
        case [{"value": [_, str(text)]}]:
            return number_of(text)
        case [{"histogram": _}]:
            raise NotMeasured("the query gives a histogram, and one number is needed")
    raise NotMeasured(f"the query gives {len(samples)} samples, and one is needed: sum() or max() them")


def _error_words(body: bytes) -> str:
    match _decoded(body):
        case {"error": str(words)}:
            return words[:500]
    return ""


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
