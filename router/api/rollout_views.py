"""Rollouts → the JSON shapes of the admin API. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from router.api import rollout_shapes as shapes
from router.domain import plain
from router.domain.analysis import Row, Verdict
from router.domain.rollout import Page, Phase, Replicas, Rollout, RolloutSpec, Split
from router.domain.sequential import Tally
from router.domain.strategy import Strategy
from router.rollout_ports import Difference, Entry, Pairs
from router.spec import to_plain

_OUTCOMES: dict[Phase, Literal["promoted", "rolled_back", "aborted"]] = {
    Phase.PROMOTED: "promoted",
    Phase.RETIRING: "promoted",
    Phase.SUCCEEDED: "promoted",
    Phase.ROLLED_BACK: "rolled_back",
    Phase.ABORTED: "aborted",
}


def rollout_view(rollout: Rollout) -> shapes.RolloutView:
    verdict = rollout.verdict
    return shapes.RolloutView(
        id=rollout.id,
        endpoint=rollout.endpoint,
        stable=rollout.stable,
        candidate=rollout.candidate,
        strategy=rollout.strategy.name,
        phase=rollout.phase,
        is_over=rollout.phase.is_terminal,
        outcome=_OUTCOMES.get(rollout.phase, ""),
        pause=rollout.pause,
        reason=rollout.reason,
        holding=rollout.holding,
        step=rollout.step_index + 1,
        steps=_steps(rollout),
        step_since=rollout.step_since,
        weight=rollout.weight_percent,
        mirror=rollout.mirror_percent,
        asked=_split(rollout.asked),
        in_force=_split(rollout.in_force),
        replicas=shapes.SidesView(
            stable=_replicas(rollout.stable_replicas), candidate=_replicas(rollout.candidate_replicas)
        ),
        verdict=_verdict(verdict) if verdict else None,
        exposure_s=verdict.exposure_s if verdict else None,
        started_by=rollout.started_by,
        started_at=rollout.started_at,
        undoes=rollout.undoes,
        revision=rollout.revision,
        version=version_of(rollout),
        spec=spec_of(rollout),
    )


def version_of(rollout: Rollout) -> str:
    """The same for equal rollouts only."""
    return hashlib.blake2b(json.dumps(plain.to_plain(rollout)).encode(), digest_size=12).hexdigest()


def spec_of(rollout: Rollout) -> dict[str, object]:
    """What would start it again."""
    return to_plain(RolloutSpec(rollout.endpoint, rollout.candidate, rollout.strategy, rollout.policy))


def line_view(rollout: Rollout | None) -> shapes.RolloutLineView | None:
    """None when nothing will change any more."""
    if rollout is None or rollout.phase.is_terminal:
        return None
    return shapes.RolloutLineView(
        id=rollout.id,
        stable=rollout.stable,
        candidate=rollout.candidate,
        phase=rollout.phase,
        step=rollout.step_index + 1,
        steps=len(rollout.strategy.steps),
        step_text=str(rollout.step or ""),
        weight=rollout.weight_percent,
        mirror=rollout.mirror_percent,
        reason=rollout.reason,
        holding=rollout.holding,
    )


def _steps(rollout: Rollout) -> list[shapes.StepView]:
    words = to_plain(RolloutSpec(rollout.endpoint, rollout.candidate, Strategy("as written", rollout.strategy.steps)))[
        "steps"
    ]
    views = []
    for index, (step, spec) in enumerate(zip(rollout.strategy.steps, words, strict=True)):
        state: Literal["done", "current", "next"] = "next"
        if index <= rollout.step_index:
            state = "done" if index < rollout.step_index else "current"
        views.append(shapes.StepView(number=index + 1, text=str(step), state=state, spec=spec))
    return views


def _split(split: Split) -> shapes.SplitView:
    mirror = {split.mirror.deployment: split.mirror.percent} if split.mirror else {}
    return shapes.SplitView(traffic=split.traffic.as_dict(), mirror_traffic=mirror)


def _replicas(replicas: Replicas) -> shapes.ReplicasView:
    return shapes.ReplicasView(ready=replicas.ready, wanted=replicas.wanted)


def _verdict(verdict: Verdict) -> shapes.VerdictView:
    return shapes.VerdictView(result=verdict.result, reason=verdict.reason, rows=[_row(row) for row in verdict.rows])


def _row(row: Row) -> shapes.RowView:
    return shapes.RowView(
        metric=row.metric,
        result=row.result,
        sentence=row.sentence,
        stable=_tally(row.stable),
        candidate=_tally(row.candidate),
        excess=row.excess,
        bound=row.bound,
        margin=row.margin,
        e_value=row.e_value,
        e_needed=row.e_needed,
    )


def _tally(tally: Tally) -> shapes.TallyView:
    return shapes.TallyView(requests=tally.of, hits=tally.hits, rate=tally.rate)


def entry_view(entry: Entry) -> shapes.EntryView:
    what = entry.what
    return shapes.EntryView(
        rollout=entry.rollout_id,
        revision=what.revision,
        at=what.at,
        by=what.by,
        old_phase=what.old_phase,
        phase=what.phase,
        message=what.message,
        is_urgent=isinstance(what, Page),
    )


def differences_view(endpoint: str, pairs: Pairs, differences: tuple[Difference, ...]) -> shapes.DifferencesView:
    return shapes.DifferencesView(
        endpoint=endpoint,
        answers=shapes.AnswersView(pairs=pairs.answers.pairs, differ=pairs.answers.disagreements),
        noise=shapes.AnswersView(pairs=pairs.noise.pairs, differ=pairs.noise.disagreements),
        mirrored=pairs.mirrored,
        arrived=pairs.arrived,
        differences=[
            shapes.DifferenceView(
                request_id=item.request_id,
                at=item.at,
                reason=item.reason,
                stable=dict(item.stable),
                candidate=dict(item.candidate),
            )
            for item in differences
        ],
    )
