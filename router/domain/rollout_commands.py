"""What a rollout's state asks of the world, and when time alone changes it. Derived, so a crash loses none of it."""

from __future__ import annotations

from datetime import datetime, timedelta

from router.domain.analysis import Result
from router.domain.rollout import ApplyTraffic, Command, Phase, Rollout, Scale
from router.domain.strategy import Analyze, ForSeconds, Pause

ROOM_WAIT_S = 30.0  # so long a way back waits for stable's missing replicas while the candidate still answers


def commands_of(rollout: Rollout) -> tuple[Command, ...]:
    """All that should be true now. Each may be repeated, and in this order."""
    if rollout.phase.is_terminal:
        return ()
    # Whoever retires must not be asked to answer for others any more.
    is_shielded = rollout.policy.shield and rollout.phase is not Phase.RETIRING
    traffic = ApplyTraffic(rollout.asked, is_shielded)
    match rollout.phase:
        case Phase.PENDING:
            stable = Scale(rollout.stable, rollout.stable_size)
            return traffic, stable, Scale(rollout.candidate, rollout.candidate_size)
        case Phase.RETIRING:
            return traffic, Scale(rollout.stable, 0)
        case _:
            return (traffic,)


def wake_at(rollout: Rollout) -> datetime | None:
    """When to send `Ticked` next, if nothing else happens; None when time alone changes nothing."""
    delay_s: float | None = None
    match rollout.phase, rollout.step:
        case Phase.PENDING, _:
            delay_s = rollout.policy.max_wait_s
        case Phase.PROGRESSING, Pause(ForSeconds(duration_s)):
            delay_s = duration_s
        case Phase.PROGRESSING, Analyze(bake_s):
            is_passing = rollout.verdict is not None and rollout.verdict.result is Result.PASS
            delay_s = bake_s if is_passing else max(bake_s, rollout.policy.max_wait_s)
        case Phase.PROMOTED, _:
            delay_s = rollout.policy.keep_old_s
        case ((Phase.ROLLING_BACK | Phase.ABORTING), _) if rollout.holding and rollout.stable_replicas.ready:
            delay_s = ROOM_WAIT_S
        case _:
            pass
    return None if delay_s is None else rollout.step_since + timedelta(seconds=delay_s)
