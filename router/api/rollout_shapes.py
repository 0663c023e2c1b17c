"""The JSON of rollouts in the admin API. Keys are only ever added: scripts read this."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from router.api.shape import Shape
from router.domain.analysis import Result
from router.domain.rollout import PauseCause, Phase


class StepView(Shape):
    number: int = Field(description="Counted from 1.")
    text: str = Field(description='In words: "weight 10%".')
    state: Literal["done", "current", "next"]
    spec: dict[str, Any] = Field(description="As a spec has it.")


class SplitView(Shape):
    traffic: dict[str, int]
    mirror_traffic: dict[str, int]


class ReplicasView(Shape):
    ready: int
    wanted: int


class SidesView(Shape):
    stable: ReplicasView
    candidate: ReplicasView


class TallyView(Shape):
    requests: float = Field(description="How many were counted (answers, for agreement).")
    hits: float = Field(description="How many of them failed, were slow, or differed.")
    rate: float


class RowView(Shape):
    metric: str
    result: Result
    sentence: str
    stable: TallyView
    candidate: TallyView
    excess: float = Field(description="The candidate's rate is above stable's by this.")
    bound: float = Field(description="By at most this, proven.")
    margin: float = Field(description="By so much it may be.")
    e_value: float = Field(description="Evidence of harm; from e_needed on it is proof.")
    e_needed: float


class VerdictView(Shape):
    result: Result
    reason: str
    rows: list[RowView]


class RolloutView(Shape):
    id: str
    endpoint: str
    stable: str
    candidate: str
    strategy: str
    phase: Phase
    is_over: bool = Field(description="Nothing changes any more.")
    outcome: Literal["", "promoted", "rolled_back", "aborted"] = Field(
        description="How it was decided; promoted also for a shadow that ended well. Empty while it is open."
    )
    pause: PauseCause | None = Field(description="Why it is paused; null when it is not.")
    reason: str = Field(description="Why it is in this phase, a sentence.")
    holding: str = Field(description="Why it does not go on though it should, a sentence; empty when it does.")
    step: int = Field(description="The number of the step it is at; one more than there are when all are done.")
    steps: list[StepView]
    step_since: datetime
    weight: int = Field(description="Percent of the live traffic that the candidate answers, in force.")
    mirror: int = Field(description="Percent of the requests that the candidate gets a copy of, in force.")
    asked: SplitView
    in_force: SplitView
    replicas: SidesView
    verdict: VerdictView | None = Field(description="The latest of this step.")
    exposure_s: float | None = Field(
        description="Seconds of all the traffic failing that it has cost so far; null before this step's first verdict."
    )
    started_by: str
    started_at: datetime
    undoes: str = Field(description="The id of the rollout that this one takes back.")
    revision: int
    version: str = Field(description="Changes with anything that is shown here: what /changed takes as `seen`.")
    spec: dict[str, Any] = Field(description="What was asked for, as a spec has it.")


class RolloutLineView(Shape):
    """A rollout that is under way, beside its endpoint."""

    id: str
    stable: str
    candidate: str
    phase: Phase
    step: int
    steps: int = Field(description="How many there are.")
    step_text: str
    weight: int
    mirror: int
    reason: str
    holding: str


class RolloutsView(Shape):
    rollouts: list[RolloutView]


class EntryView(Shape):
    rollout: str
    revision: int
    at: datetime
    by: str
    old_phase: Phase
    phase: Phase
    message: str
    is_urgent: bool = Field(description="A person must see this now.")


class TrailView(Shape):
    entries: list[EntryView]


class AnswersView(Shape):
    pairs: int
    differ: int


class DifferenceView(Shape):
    request_id: str
    at: datetime
    reason: str
    stable: dict[str, str] = Field(description="Output to a short rendering.")
    candidate: dict[str, str]


class DifferencesView(Shape):
    endpoint: str
    answers: AnswersView = Field(description="Stable's answers against the candidate's to the same request.")
    noise: AnswersView = Field(description="Stable's answers against its own second ones.")
    mirrored: int = Field(description="Sampled requests that were to be copied to the candidate.")
    arrived: int = Field(description="... and that it answered.")
    differences: list[DifferenceView] = Field(description="The latest, newest first.")


class PromoteRequest(Shape):
    full: bool = Field(default=False, strict=True, description="Take all steps that are left, at once.")


class AbortRequest(Shape):
    reason: str = Field(default="", max_length=500, description="For the audit trail.")
