"""Watching: what follows when the reference of the model that has the traffic names another model. States and events.

What happens when is in `watch_transitions`. A reference is an alias or a tag: `models:/fraud@champion`, `oci://…:prod`.
Two things tell models apart: the source's revision, cheap to ask for, and the digest of the files, known once they are
here. What was refused, rolled back or taken out of service is remembered by both, and not tried again by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from router.domain.errors import Invalid
from router.domain.policy import Policy
from router.domain.strategy import Strategy, named_strategy
from router.domain.window import Window

MIN_EVERY_S = 1.0
MAX_EVERY_S = 7 * 86400.0
MAX_SPOILT = 3  # failed tries in a row of which the last brought a spoilt model, and it is not tried again by itself
MAX_BARRED = 50  # models remembered for each endpoint; the oldest are forgotten first


class WatchPolicy(StrEnum):
    AUTO = "auto"  # fetch, check, roll out
    MANUAL = "manual"  # fetch, check, propose
    NOTIFY = "notify"  # only tell


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a rollout that nobody started goes: its steps, and what is tolerated."""

    strategy: Strategy = field(default_factory=lambda: named_strategy("canary"))
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if not self.strategy.moves_traffic:
            raise Invalid("watch.rollout.strategy", "moves no traffic", "use canary, linear or all_at_once")


@dataclass(frozen=True, slots=True)
class Watch:
    """What an operator asks for. `window`: when a rollout may begin by itself; None: at any time."""

    policy: WatchPolicy = WatchPolicy.NOTIFY
    every_s: float = 60.0
    window: Window | None = None
    rollout: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        if not MIN_EVERY_S <= self.every_s <= MAX_EVERY_S:
            raise Invalid("watch.every", f"{self.every_s:g} s is out of range", "use 1s to 7d")


@dataclass(frozen=True, slots=True)
class Known:
    """A model, as far as it is known. `revision` and `digest`: "" when not; `pinned` and `version` are for people."""

    revision: str = ""
    digest: str = ""
    pinned: str = ""
    version: str = ""

    def is_same(self, other: Known) -> bool:
        """By revision or by digest: the same bytes under another version are the same model."""
        return bool(
            (self.revision and self.revision == other.revision) or (self.digest and self.digest == other.digest)
        )

    def __str__(self) -> str:
        return self.pinned or self.digest[:12] or self.revision or "nothing yet"


@dataclass(frozen=True, slots=True)
class Barred:
    """A model that is not tried again by itself, and why."""

    model: Known
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Consent:
    """An operator said yes: at once, also outside the window, also for a model that was barred."""

    by: str
    may_change_signature: bool = False


# --- what is true of the reference ---


@dataclass(frozen=True, slots=True)
class Unseen:
    """The source has not said yet what the reference names."""


@dataclass(frozen=True, slots=True)
class Current:
    """It names what is in service."""


@dataclass(frozen=True, slots=True)
class Moved:
    """It names another model, which is not here yet."""

    model: Known
    consent: Consent | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """The other model is here, and passed its checks. It waits: for a rollout to end, the window, an operator.

    `hindrance`: why a rollout could not begin, "" when none was tried; the next one is tried at `try_at`.
    """

    model: Known
    since: datetime
    try_at: datetime
    consent: Consent | None = None
    hindrance: str = ""


@dataclass(frozen=True, slots=True)
class Rolling:
    """A rollout moves the traffic to it."""

    model: Known
    rollout: str  # its id


@dataclass(frozen=True, slots=True)
class Stopped:
    """It names a model that is barred."""

    model: Known


Stage = Unseen | Current | Moved | Ready | Rolling | Stopped


@dataclass(frozen=True, slots=True)
class Watched:
    """One endpoint's reference, whole. `service`: the model that has the traffic.

    `left`: what had it before somebody moved it away by hand, until it is clear whether the reference still names that.
    `answered_at`: when the source last said anything; `next_at`: when it is asked next. `failures`: of asking and
    fetching, in a row; `trouble`: the last one's words.
    """

    endpoint: str
    ref: str
    service: Known
    next_at: datetime
    stage: Stage = Unseen()
    left: Known = Known()
    barred: tuple[Barred, ...] = ()
    answered_at: datetime | None = None
    failures: int = 0
    trouble: str = ""
    revision: int = 1  # grows with every change that is told

    def bar_of(self, model: Known) -> Barred | None:
        return next((bar for bar in reversed(self.barred) if bar.model.is_same(model)), None)

    @property
    def seen(self) -> str:
        """The revision that the source named last, "" when it has not."""
        match self.stage:
            case Moved(model) | Ready(model) | Rolling(model) | Stopped(model):
                return model.revision
            case _:
                return self.service.revision


# --- what happens ---


@dataclass(frozen=True, slots=True)
class InService:
    """This deployment's model has all the traffic, by this reference. Told whenever it may have changed."""

    ref: str
    model: Known


@dataclass(frozen=True, slots=True)
class Unmoved:
    """The source says that the reference still names this revision."""

    revision: str


@dataclass(frozen=True, slots=True)
class Named:
    """The source says what the reference names; `model` has a revision and perhaps a digest."""

    model: Known


@dataclass(frozen=True, slots=True)
class Failed:
    """The source did not answer, or the fetching failed, in a way that may pass."""

    reason: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model is here, verified and admitted."""

    model: Known


@dataclass(frozen=True, slots=True)
class Refused:
    """The model is no good: a check said so, and will say so again."""

    model: Known
    reason: str


@dataclass(frozen=True, slots=True)
class CameSpoilt:
    """The model did not come whole, or not as announced: the line's fault, or the model's."""

    model: Known
    reason: str


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollout to the model that is ready has begun."""

    rollout: str


@dataclass(frozen=True, slots=True)
class Hindered:
    """The rollout could not begin."""

    reason: str


@dataclass(frozen=True, slots=True)
class Vanished:
    """The model that was ready is not here any more."""

    reason: str


class Outcome(StrEnum):
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    LOST = "lost"  # nobody knows it any more


@dataclass(frozen=True, slots=True)
class Ended:
    rollout: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    consent: Consent


Event = (
    InService
    | Unmoved
    | Named
    | Failed
    | Prepared
    | Refused
    | CameSpoilt
    | Begun
    | Hindered
    | Vanished
    | Ended
    | Accepted
)


# --- what follows ---


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the source whether the reference names something else than `seen`, and then what."""

    seen: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Fetch what the reference names, and check it."""

    may_change_signature: bool


@dataclass(frozen=True, slots=True)
class Begin:
    """Deploy the model beside the one in service, and begin a rollout to it, in the name of `by`."""

    model: Known
    by: str


Command = Look | Prepare | Begin


@dataclass(frozen=True, slots=True)
class News:
    """For the event log and whoever listens. `kind` is a stable past-tense word."""

    kind: str
    revision: int
    at: datetime
    message: str


@dataclass(frozen=True, slots=True)
class Terms:
    """What the endpoint's spec says, and its place between other endpoints: `jitter` from 0 to 1, always the same."""

    watch: Watch
    jitter: float


@dataclass(frozen=True, slots=True)
class Transition:
    """Save `watched` before anybody hears `news`."""

    watched: Watched
    news: tuple[News, ...] = ()
