"""What the replicas tell, put together. Sockets are real: this asks as the control plane does."""

from __future__ import annotations

from pathlib import Path

from router.domain.routing import Replica, ReplicaState, TcpAddress, UnixAddress
from router.replica_metrics import ReplicaMetrics, merged
from serving.exchange import Cancel, HttpRequest, HttpResponse, Reply
from serving.listener import GATEWAY_HEADER, Listener
from tests.internal_ca import certified, client_of, client_without_tls, internal_ca

HEAD = "# HELP a_total Things.\n# TYPE a_total counter\n"


def test_samples_of_a_family_stand_together_and_its_head_comes_once() -> None:
    one = HEAD + 'a_total{r="1"} 1\n# HELP b Others.\n# TYPE b gauge\nb{r="1"} 5\n'
    two = HEAD + 'a_total{r="2"} 2\n'
    assert merged([one, "", two]) == (
        HEAD + 'a_total{r="1"} 1\na_total{r="2"} 2\n# HELP b Others.\n# TYPE b gauge\nb{r="1"} 5\n'
    )


def replica(number: int, address: UnixAddress | TcpAddress, state: ReplicaState = ReplicaState.READY) -> Replica:
    return Replica(f"r{number}", "fraud", "blue", "g", address, state)


async def serving(path: str, text: str) -> Listener:
    def handle(request: HttpRequest, reply: Reply) -> Cancel | None:
        if request.path == b"/metrics" and request.headers[GATEWAY_HEADER] == b"secret":
            reply(HttpResponse(200, [], [text.encode()]))
        return None  # another path stays without an answer

    listener = Listener(handle, b"secret", 1000)
    await listener.open_unix(path)
    return listener


async def test_every_ready_replica_is_asked_and_whoever_does_not_answer_is_left_out(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.sock") for number in range(3)]
    listeners = [await serving(path, HEAD + f'a_total{{r="{at}"}} {at}\n') for at, path in enumerate(paths)]
    replicas = [
        replica(2, UnixAddress(paths[2]), ReplicaState.LOADING),
        replica(1, UnixAddress(paths[1])),
        replica(0, UnixAddress(paths[0])),
        replica(3, UnixAddress(str(tmp_path / "gone.sock"))),
    ]
    text = await ReplicaMetrics(client_without_tls("secret"), lambda: replicas).gather()
    assert text == HEAD + 'a_total{r="0"} 0\na_total{r="1"} 1\n'
    assert await ReplicaMetrics(client_without_tls("wrong"), lambda: replicas).gather() == ""
    for listener in listeners:
        await listener.close(grace_s=0)


async def test_replicas_on_other_hosts_are_asked_at_their_address(tmp_path: Path) -> None:
    listener = await serving(str(tmp_path / "unused"), HEAD + "a_total 7\n")
    other = Listener(listener.handler, b"secret", 1000)
    ca = internal_ca()
    port = await other.open_tcp("127.0.0.1", tls=certified(ca).context)
    replicas = [replica(1, TcpAddress("127.0.0.1", port))]
    text = await ReplicaMetrics(client_of(ca, "secret"), lambda: replicas).gather()
    assert await ReplicaMetrics(client_without_tls("secret"), lambda: replicas).gather() == ""
    assert text == HEAD + "a_total 7\n"
    await other.close(grace_s=0)
    await listener.close(grace_s=0)


async def test_without_replicas_there_is_nothing_to_tell() -> None:
    assert await ReplicaMetrics(client_without_tls("secret"), list).gather() == ""
