"""Autoscaling through Ray Serve: replicas report their load, and the controller asks `UtilizationPolicy`, which asks
`router.domain.scaling`.

Ray's own delays, factors and smoothing are switched off: they would be applied after ours. What is left of Ray's part:
replicas take a sample every fifth of `LOOK_BACK_S` and send the last `LOOK_BACK_S` of them to the controller every
`_REPORT_EVERY_S`; the controller asks the policy ten times a second.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict
from typing import Any, Final

from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy

from router.domain.scaling import LOOK_BACK_S, Memory, Observed, ScaleSettings, decide

LOAD_METRIC: Final = "load"
_REPORT_EVERY_S: Final = 1.0


class UtilizationPolicy:
    """Runs inside Ray Serve's controller, one for each deployment; `limits` are the fields of its `ScaleSettings`."""

    def __init__(self, **limits: int) -> None:
        self._settings = ScaleSettings(**limits)

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Ray keeps the second part and hands it back as `policy_state`, beside keys of its own."""
        loads = (context.aggregated_metrics or {}).get(LOAD_METRIC, {})
        observed = Observed(
            time.monotonic(),
            context.target_num_replicas,
            context.current_num_replicas,
            tuple(loads[replica] for replica in context.running_replicas if replica in loads),
        )
        memory = Memory(**(context.policy_state.get("memory") or {}))
        wanted, memory = decide(self._settings, observed, memory)
        return wanted, {"memory": asdict(memory)}


def autoscaling_config(settings: ScaleSettings) -> AutoscalingConfig:
    """The limits while it is awake. Zero is not Ray's business: a deployment that sleeps has no application."""
    with warnings.catch_warnings():
        # Ray would rather have the interval in an environment variable of every replica.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=settings.least_awake,
            max_replicas=settings.max_instances,
            metrics_interval_s=_REPORT_EVERY_S,
            look_back_period_s=LOOK_BACK_S,
            upscale_delay_s=0,
            downscale_delay_s=0,
            policy=AutoscalingPolicy(  # type: ignore[no-untyped-call]  # Ray's has no annotations
                policy_function=UtilizationPolicy, policy_kwargs=asdict(settings)
            ),
        )
