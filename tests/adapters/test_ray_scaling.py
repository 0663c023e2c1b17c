"""The policy as Ray Serve's controller runs it: pickled, wrapped in Ray's own delays and factors, asked over and over.

No Ray is started: what the controller does with the configuration is called by hand.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from router.domain.scaling import LOOK_BACK_S, ScaleSettings

SETTINGS = ScaleSettings(max_instances=4, min_instances=0, target_utilization_percentage=50, scale_down_delay_s=0)


@pytest.fixture(scope="module")
def scaling() -> Any:
    """Ray warns of much when it is imported; it is not what these tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from adapters.ray import scaling
    return scaling


class Controller:
    """What Ray Serve's controller does for one deployment, beside starting replicas."""

    def __init__(self, config: Any) -> None:
        from ray.serve._private.autoscaling_state import _apply_autoscaling_config, _resolve_policy_callable
        from ray.serve._private.config import DeploymentConfig

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            sent = DeploymentConfig(autoscaling_config=config).to_proto_bytes()
            self.config = DeploymentConfig.from_proto_bytes(sent).autoscaling_config
        self._policy = _apply_autoscaling_config(_resolve_policy_callable(self.config.policy))
        self._state: dict[str, Any] = {}

    def decide(self, target: int, *loads: float) -> int:
        from ray.serve._private.common import DeploymentID, ReplicaID
        from ray.serve.config import AutoscalingContext

        deployment = DeploymentID("replica", "app")
        replicas = [ReplicaID(f"r{number}", deployment) for number in range(len(loads))]
        context = AutoscalingContext(
            deployment_id=deployment,
            deployment_name="replica",
            app_name="app",
            current_num_replicas=len(replicas),
            target_num_replicas=target,
            running_replicas=replicas,
            total_num_requests=0.0,
            total_queued_requests=0.0,
            aggregated_metrics={"load": dict(zip(replicas, loads, strict=True))},
            raw_metrics={},
            capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=4,
            policy_state=self._state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=0.0,
            config=self.config,
        )
        decided, self._state = self._policy(context)
        return decided

    def let_time_pass(self) -> None:
        """As if the same replicas had run for longer than a measurement looks back."""
        self._state["memory"] |= {"since_s": self._state["memory"]["since_s"] - LOOK_BACK_S}


def test_ray_asks_our_policy_and_does_as_it_says(scaling: Any) -> None:
    controller = Controller(scaling.autoscaling_config(SETTINGS))
    assert controller.decide(1, 1.0) == 1  # not measured yet
    controller.let_time_pass()
    assert controller.decide(1, 1.0) == 2
    assert controller.decide(2, 1.0, 1.0) == 2
    controller.let_time_pass()
    assert controller.decide(2, 1.0, 1.0) == 4
    controller.decide(4, 0.1, 0.1, 0.1, 0.1)
    controller.let_time_pass()
    assert controller.decide(4, 0.1, 0.1, 0.1, 0.1) == 1


def test_ray_keeps_one_replica_of_a_deployment_that_may_sleep(scaling: Any) -> None:
    config = Controller(scaling.autoscaling_config(SETTINGS)).config
    assert (config.min_replicas, config.max_replicas) == (1, 4)
    assert config.look_back_period_s == LOOK_BACK_S
    assert (config.upscale_delay_s, config.downscale_delay_s) == (0, 0)


def test_the_same_settings_make_the_same_configuration(scaling: Any) -> None:
    """Ray takes an equal configuration for no change; the control plane tells it again after every restart."""
    assert scaling.autoscaling_config(SETTINGS) == scaling.autoscaling_config(SETTINGS)
