"""What a replica tells Prometheus about its model: text exposition format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from serving.exchange import Cancel, Handler, Header, HttpRequest, HttpResponse, Reply
from serving.histogram import HistogramSnapshot
from serving.statistics import ModelCounters

PATH = b"/metrics"
TEXT: Header = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")


def metrics_handler(counters: Callable[[], ModelCounters], labels: Mapping[str, str]) -> Handler:
    """Answers GET with the model's metrics. `labels` say whose they are; their values need no escaping."""

    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        if request.method == b"GET":
            reply(HttpResponse(200, (TEXT,), (model_metrics(counters(), labels).encode(),)))
        else:
            reply(HttpResponse(405, (TEXT, (b"allow", b"GET")), (b"use GET\n",)))
        return None

    return handle


def model_metrics(counters: ModelCounters, labels: Mapping[str, str]) -> str:
    own = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return "".join(f"{line}\n" for family in _families(counters, own) for line in family)


def _families(counters: ModelCounters, own: str) -> Iterator[Iterable[str]]:
    outcomes = {
        "succeeded": counters.succeeded,
        "failed": counters.failed,
        "refused": sum(counters.refused.values()),
        "deadline_missed": counters.deadline_missed,
    }
    yield _family(
        "requests_total",
        "counter",
        "Requests by how they ended: answered, failed by the model, refused at once, or too late for the model.",
        [(f'{own},outcome="{outcome}"', count) for outcome, count in outcomes.items()],
    )
    yield _family(
        "refused_total",
        "counter",
        "Requests refused at once, by the reason.",
        [(f'{own},reason="{reason}"', count) for reason, count in counters.refused.items()],
    )
    yield _family(
        "deadline_missed_total",
        "counter",
        "Requests whose deadline passed before they reached the model.",
        [(own, counters.deadline_missed)],
    )
    yield _family(
        "cancelled_total", "counter", "Requests whose client went away before the answer.", [(own, counters.cancelled)]
    )
    yield _histogram(
        "request_seconds", "From a request's arrival to its answer, for those that ran.", own, counters.request_s
    )
    yield _histogram("queue_seconds", "From a request's arrival to the run that it was part of.", own, counters.queue_s)
    yield _histogram("batch_rows", "Rows of one run of the model.", own, counters.batch_rows)
    yield _family(
        "padded_positions_total",
        "counter",
        "Positions along the padded axis that the model computed: those asked for, and those that padding added.",
        [(f'{own},kind="asked"', counters.positions), (f'{own},kind="padding"', counters.padding)],
    )
    yield _family(
        "busy_seconds_total",
        "counter",
        "Time in which the model ran, added up over its slots.",
        [(own, counters.busy_s)],
    )
    yield _family("pending_requests", "gauge", "Requests accepted and not yet answered.", [(own, counters.pending)])


def _family(name: str, kind: str, meaning: str, samples: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# HELP crossfade_model_{name} {meaning}"
    yield f"# TYPE crossfade_model_{name} {kind}"
    for labels, value in samples:
        yield f"crossfade_model_{name}{{{labels}}} {value}"


def _histogram(name: str, meaning: str, own: str, found: HistogramSnapshot) -> Iterator[str]:
    yield f"# HELP crossfade_model_{name} {meaning}"
    yield f"# TYPE crossfade_model_{name} histogram"
    count = 0
    for bound, more in zip((*found.bounds, "+Inf"), found.counts, strict=True):
        count += more
        yield f'crossfade_model_{name}_bucket{{{own},le="{bound}"}} {count}'
    yield f"crossfade_model_{name}_sum{{{own}}} {found.total}"
    yield f"crossfade_model_{name}_count{{{own}}} {count}"
