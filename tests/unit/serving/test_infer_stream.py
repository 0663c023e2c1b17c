"""A stream of infer requests: order, errors between, how much is let in, and every way it ends. No sockets."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from serving.errors import DeadlinePassed, ModelFailed, ScoringError, TooLarge, Unavailable
from serving.exchange import Header, HttpRequest, HttpResponse, RequestStream
from serving.grpc_framing import Frame, FrameReader
from serving.infer_stream import MAX_UNDER_WAY, StreamedInfer
from serving.messages import InferReply, InferRequest
from tests.unit.serving.scripted_model import GRPC, NAME, NOW_S, VERSION, ScriptedModel, frame, raw_request

LIMIT = 10_000
REQUEST_TIMEOUT_S = 5.0


class Recorded:
    """Implements `StreamReply`."""

    def __init__(self) -> None:
        self.head: Sequence[Header] | None = None
        self.data = b""
        self.trailers: Sequence[Header] | None = None
        self.refused: HttpResponse | None = None
        self.is_paused = False
        self.is_full = False

    def begin(self, headers: Sequence[Header]) -> None:
        assert self.head is None
        self.head = headers

    def write(self, parts: Sequence[bytes | memoryview]) -> None:
        assert self.head is not None
        assert self.trailers is None
        self.data += b"".join(parts)

    def end(self, trailers: Sequence[Header]) -> None:
        assert self.head is not None
        assert self.trailers is None
        self.trailers = trailers

    def refuse(self, response: HttpResponse) -> None:
        assert self.head is None
        assert self.refused is None
        self.refused = response

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    @property
    def answers(self) -> list[tuple[str, str]]:
        """(id, error) of each."""
        reader = FrameReader(LIMIT * 100)
        reader.feed(self.data)
        found = []
        while (one := reader.take()) is not None:
            response = service_pb2.ModelStreamInferResponse.FromString(one.data)
            found.append((response.infer_response.id, response.error_message))
        assert reader.is_empty
        return found

    @property
    def status(self) -> str | None:
        """The gRPC status that the stream ended with, wherever it stands."""
        headers = self.trailers if self.refused is None else self.refused.headers
        return None if headers is None else dict(headers)[b"grpc-status"].decode()


class Stream:
    def __init__(self, model: ScriptedModel, headers: dict[bytes, bytes] | None = None) -> None:
        self.model = model
        self.reply = Recorded()
        opened = StreamedInfer(model, LIMIT, REQUEST_TIMEOUT_S, lambda: NOW_S).open(
            HttpRequest(b"POST", b"/", GRPC | (headers or {}), b""), self.reply
        )
        assert opened is not None
        self.stream: RequestStream = opened

    def send(self, *ids: str) -> None:
        for one in ids:
            self.stream.received(frame(request(one)))


def request(id: str, parameters: dict[str, int] | None = None):
    message = raw_request(x=np.ones((1, 2), np.float32))
    message.id = id
    for key, value in (parameters or {}).items():
        message.parameters[key].int64_param = value
    return message


def answering(outcomes: dict[str, ScoringError]) -> Callable[[InferRequest], InferReply | ScoringError]:
    """Outputs for all but those ids."""

    def answer(asked: InferRequest) -> InferReply | ScoringError:
        output = ("y", "FP32", asked.inputs["x"])
        return outcomes.get(asked.id) or InferReply(NAME, VERSION, asked.id, [output])

    return answer


@given(st.lists(st.tuples(st.sampled_from([0, 1, 7]), st.binary(max_size=40)), max_size=8), st.data())
def test_frames_are_the_same_however_the_bytes_are_cut(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    text = b"".join(bytes([flag]) + len(body).to_bytes(4, "big") + body for flag, body in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    reader = FrameReader(40)
    found: list[Frame] = []
    for begin, end in pairwise([0, *cuts, len(text)]):
        reader.feed(text[begin:end])
        while (one := reader.take()) is not None:
            found.append(one)
    assert found == [Frame(flag, body) for flag, body in sent]
    assert reader.is_empty


def test_a_frame_over_the_limit_is_refused_on_its_promise() -> None:
    reader = FrameReader(40)
    reader.feed(b"\0" + (41).to_bytes(4, "big"))
    with pytest.raises(TooLarge, match="41 bytes, the limit is 40"):
        reader.take()


@given(st.permutations(range(6)))
def test_answers_come_in_the_order_of_the_requests_whichever_is_ready_first(order: Sequence[int]) -> None:
    stream = Stream(ScriptedModel(hold=True))
    stream.send(*"abcdef")
    stream.stream.ended()
    for position, number in enumerate(order):
        stream.model.held[number]()
        done = set(order[: position + 1])
        ready = next((one for one in range(6) if one not in done), 6)
        assert [one for one, _ in stream.reply.answers] == list("abcdef"[:ready])
    assert stream.reply.status == "0"


def test_an_answer_is_the_unary_one_and_the_last_to_its_request() -> None:
    stream = Stream(ScriptedModel())
    stream.send("a")
    response = service_pb2.ModelStreamInferResponse.FromString(stream.reply.data[5:])
    assert response.infer_response == service_pb2.ModelInferResponse(
        model_name=NAME,
        model_version=VERSION,
        id="a",
        outputs=[service_pb2.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=[1, 2])],
        raw_output_contents=[np.ones((1, 2), np.float32).tobytes()],
        parameters={"triton_final_response": service_pb2.InferParameter(bool_param=True)},
    )


def test_what_is_wrong_with_one_request_is_its_answer_and_the_stream_goes_on() -> None:
    failures = {"b": ModelFailed("poison"), "c": DeadlinePassed("late")}
    stream = Stream(ScriptedModel(answer=answering(failures)))
    stream.send("a", "b", "c")
    stream.stream.received(frame(b"\xff\xff"))
    stream.stream.received(frame(request("d", {"sequence_id": 1})))
    stream.stream.received(b"\1\0\0\0\1x")
    stream.send("e")
    stream.stream.ended()
    assert stream.reply.answers == [
        ("a", ""),
        ("b", "poison"),
        ("c", "late"),
        ("", "the message is not a valid inference.ModelInferRequest"),
        ("d", "parameter 'sequence_id' is not supported: models here keep no state between requests"),
        ("", "the gRPC frame is marked as compressed, but grpc-encoding names no compression"),
        ("e", ""),
    ]
    assert stream.reply.status == "0"


def test_outputs_that_cannot_be_encoded_are_an_error_of_their_request() -> None:
    def wrong(asked: InferRequest) -> InferReply:
        return InferReply(NAME, VERSION, asked.id, [("y", "FP32", np.ones((1, 2), np.float64))])

    stream = Stream(ScriptedModel(answer=wrong))
    stream.send("a")
    [(which, error)] = stream.reply.answers
    assert which == "a"
    assert "FP32" in error


def test_messages_may_be_compressed() -> None:
    stream = Stream(ScriptedModel(), {b"grpc-encoding": b"gzip"})
    packed = gzip.compress(request("a").SerializeToString())
    stream.stream.received(b"\1" + len(packed).to_bytes(4, "big") + packed)
    stream.send("b")
    assert stream.reply.answers == [("a", ""), ("b", "")]


def test_each_request_has_the_deployments_time_or_less_and_none_outlives_the_stream() -> None:
    stream = Stream(ScriptedModel(hold=True))
    for parameters in ({}, {"timeout": 1_000_000}, {"timeout": 9_000_000}):
        stream.stream.received(frame(request("a", parameters)))
    assert stream.model.deadlines_s == [NOW_S + 5, NOW_S + 1, NOW_S + 5]
    short = Stream(ScriptedModel(hold=True), {b"grpc-timeout": b"2S"})
    short.send("a")
    assert short.model.deadlines_s == [NOW_S + 2]


async def test_only_so_many_requests_are_let_in_and_the_rest_waits_with_the_client() -> None:
    stream = Stream(ScriptedModel(hold=True))
    stream.stream.received(b"".join(frame(request(str(number))) for number in range(MAX_UNDER_WAY + 10)))
    assert len(stream.model.requests) == MAX_UNDER_WAY
    assert stream.reply.is_paused
    stream.model.held[1]()  # answered, and not written yet: still under way
    assert len(stream.model.requests) == MAX_UNDER_WAY
    stream.model.held[0]()
    assert len(stream.model.requests) == MAX_UNDER_WAY + 2
    for number in range(2, MAX_UNDER_WAY + 10):
        stream.model.held[number]()
    assert not stream.reply.is_paused
    stream.stream.ended()
    assert [one for one, _ in stream.reply.answers] == [str(number) for number in range(MAX_UNDER_WAY + 10)]
    assert stream.reply.status == "0"


def test_large_requests_are_bounded_by_their_bytes() -> None:
    stream = Stream(ScriptedModel(hold=True))
    rows = np.ones((64, 2), np.float32)
    size = len(raw_request(x=rows).SerializeToString())
    for _ in range(40):
        stream.stream.received(frame(raw_request(x=rows)))
    assert len(stream.model.requests) == -(-LIMIT // size)
    assert stream.reply.is_paused


def test_compressed_ones_by_what_they_grow_to_until_they_are_answered() -> None:
    stream = Stream(ScriptedModel(hold=True), {b"grpc-encoding": b"gzip"})
    message = raw_request(x=np.ones((600, 2), np.float32)).SerializeToString()
    packed = gzip.compress(message)
    assert len(packed) * 40 < LIMIT < 3 * len(message)
    for _ in range(40):
        stream.stream.received(b"\1" + len(packed).to_bytes(4, "big") + packed)
    for answered in range(10):
        assert len(stream.model.requests) == answered + -(-LIMIT // len(message))
        assert stream.reply.is_paused
        stream.model.held[answered]()


def test_a_client_that_does_not_read_is_asked_nothing_more() -> None:
    stream = Stream(ScriptedModel(hold=True))
    stream.send("a", "b")
    stream.reply.is_full = True
    stream.model.held[0]()
    stream.send("c")
    assert stream.reply.answers == []
    assert len(stream.model.requests) == 2
    assert stream.reply.is_paused
    stream.reply.is_full = False
    stream.stream.drained()
    assert [one for one, _ in stream.reply.answers] == ["a"]
    assert len(stream.model.requests) == 3
    assert not stream.reply.is_paused


async def test_thousands_of_hopeless_requests_in_one_read_leave_room_for_others() -> None:
    stream = Stream(ScriptedModel())
    stream.stream.received(frame(b"\xff\xff") * 1000)
    stream.stream.ended()
    assert 0 < len(stream.reply.answers) <= 2 * MAX_UNDER_WAY
    for _ in range(1000 // MAX_UNDER_WAY + 1):
        await asyncio.sleep(0)  # a turn of the loop each
    assert len(stream.reply.answers) == 1000
    assert stream.reply.status == "0"


def test_who_goes_away_takes_the_unanswered_requests_along() -> None:
    stream = Stream(ScriptedModel(hold=True))
    stream.send("a", "b", "c")
    stream.model.held[1]()
    stream.stream.cancelled()
    assert stream.model.cancelled == 2
    assert stream.reply.answers == []


def test_a_stream_without_requests_ends_well() -> None:
    stream = Stream(ScriptedModel())
    stream.stream.ended()
    assert stream.reply.status == "0"


@pytest.mark.parametrize("rest", [b"\0\0", frame(b"abc")[:-1]])
def test_a_stream_that_ends_within_a_message_fails_after_what_came_before(rest: bytes) -> None:
    stream = Stream(ScriptedModel())
    stream.send("a")
    stream.stream.received(rest)
    stream.stream.ended()
    assert stream.reply.answers == [("a", "")]
    assert stream.reply.status == "3"


def test_a_message_over_the_limit_ends_the_stream_after_what_came_before() -> None:
    stream = Stream(ScriptedModel(hold=True))
    stream.send("a")
    stream.stream.received(b"\0" + (LIMIT + 1).to_bytes(4, "big"))
    assert stream.reply.status is None
    stream.model.held[0]()
    assert stream.reply.answers == [("a", "")]
    assert stream.reply.status == "8"


def test_a_replica_that_stops_finishes_what_is_under_way_and_then_the_stream() -> None:
    stream = Stream(ScriptedModel(hold=True))
    stream.send("a", "b")
    stream.stream.close_soon()
    stream.send("c")
    stream.model.held[1]()
    assert stream.reply.status is None
    stream.model.held[0]()
    assert stream.reply.answers == [("a", ""), ("b", "")]
    assert stream.reply.status == "14"
    assert len(stream.model.requests) == 2


def test_a_model_that_takes_no_more_ends_the_stream_where_it_does() -> None:
    stream = Stream(ScriptedModel(hold=True, answer=answering({"b": Unavailable("draining")})))
    stream.send("a", "b", "c")
    stream.stream.ended()
    stream.model.held[1]()
    stream.model.held[0]()
    assert stream.reply.answers == [("a", "")]
    assert stream.reply.status == "14"
    assert stream.model.cancelled == 1


def test_a_stream_of_which_nothing_was_answered_is_sent_elsewhere() -> None:
    stream = Stream(ScriptedModel(answer=answering({"a": Unavailable("draining")})))
    stream.send("a")
    assert stream.reply.refused is not None
    assert stream.reply.status == "14"
    assert (b"x-crossfade-retry", b"1") in stream.reply.refused.headers


@pytest.mark.parametrize(
    ("method", "headers", "is_ready", "status"),
    [
        (b"GET", GRPC, True, "12"),
        (b"POST", {b"content-type": b"application/json"}, True, "12"),
        (b"POST", GRPC | {b"grpc-timeout": b"soon"}, True, "3"),
        (b"POST", GRPC, False, "14"),
    ],
)
def test_what_is_no_stream_for_us_is_refused_at_once(
    method: bytes, headers: dict[bytes, bytes], is_ready: bool, status: str
) -> None:
    model, reply = ScriptedModel(), Recorded()
    model.is_ready = is_ready
    opened = StreamedInfer(model, LIMIT, REQUEST_TIMEOUT_S, lambda: NOW_S).open(
        HttpRequest(method, b"/", headers, b""), reply
    )
    assert opened is None
    assert reply.status == status
