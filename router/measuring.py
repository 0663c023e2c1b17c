"""The user's own metrics: who takes which kind of sample, in how much time, and what becomes of what goes wrong."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from typing import Any, Protocol

from router.domain.errors import CrossfadeError
from router.domain.evidence import Measurement
from router.domain.policy import CustomMetric
from router.domain.rollout import Rollout
from router.domain.sources import Source

log = logging.getLogger("crossfade.measuring")


class NotMeasured(CrossfadeError):
    """There is no value; the message says why, for whoever wrote the metric."""


class Sampler(Protocol):
    """Takes samples from one kind of source."""

    async def sample(self, rollout: Rollout, metric: CustomMetric, source: Any) -> float:
        """Raises `NotMeasured`. Is cancelled when it takes too long."""


class Measurer:
    """Implements `Measures` with a sampler for every kind of source."""

    def __init__(self, samplers: Mapping[type[Source], Sampler]) -> None:
        self._samplers = samplers

    async def measure(self, rollout: Rollout, metric: CustomMetric) -> Measurement:
        try:
            async with asyncio.timeout(metric.timeout_s):
                value = await self._samplers[type(metric.source)].sample(rollout, metric, metric.source)
        except TimeoutError:
            return Measurement(metric.name, None, f"no answer within {metric.timeout_s:g} s")
        except NotMeasured as error:
            return Measurement(metric.name, None, str(error))
        except Exception as error:  # whatever it is, it must not stop a rollout
            log.exception("metric %s of endpoint %s", metric.name, rollout.endpoint)
            return Measurement(metric.name, None, f"{type(error).__name__}: {error}")
        if not math.isfinite(value):
            return Measurement(metric.name, None, f"{value} is not a number that can be compared")
        return Measurement(metric.name, value)


def number_of(text: str) -> float:
    """Raises `NotMeasured`."""
    try:
        return float(text)
    except ValueError:
        raise NotMeasured(f"{text[:80]!r} is not a number") from None
