from dataclasses import replace

from router.domain.routing import Replica, ReplicaState, UnixAddress
from serving.directory import LEASE_S, Directory


def a_replica(replica_id: str = "r1", state: ReplicaState = ReplicaState.READY, reason: str = "") -> Replica:
    return Replica(replica_id, "fraud", "blue", "g1", UnixAddress(f"/run/{replica_id}.sock"), state, reason)


def look_every_second(directory: Directory, until_s: float, since_s: float = 0) -> None:
    for second in range(int(since_s), int(until_s) + 1):
        directory.expire(now_s=second)


def test_an_announced_replica_is_listed_and_renewing_it_changes_nothing() -> None:
    directory = Directory()
    directory.announce(a_replica(), now_s=0)
    version = directory.version
    directory.announce(a_replica(), now_s=1)
    assert directory.replicas() == (a_replica(),)
    assert directory.version == version


def test_a_lease_that_is_not_renewed_ends() -> None:
    directory = Directory()
    directory.announce(a_replica("r1"), now_s=0)
    directory.announce(a_replica("r2"), now_s=0)
    directory.announce(a_replica("r2"), now_s=LEASE_S - 1)
    look_every_second(directory, until_s=LEASE_S)
    assert [replica.id for replica in directory.replicas()] == ["r2"]


def test_a_directory_that_stood_still_does_not_hold_it_against_the_replicas() -> None:
    directory = Directory()
    directory.announce(a_replica(), now_s=0)
    look_every_second(directory, until_s=1)
    directory.expire(now_s=100)
    assert directory.replicas() == (a_replica(),)
    look_every_second(directory, since_s=101, until_s=100 + LEASE_S)
    assert directory.replicas() == ()


def test_a_change_of_state_is_a_new_version() -> None:
    directory = Directory()
    directory.announce(a_replica(state=ReplicaState.LOADING), now_s=0)
    version = directory.version
    directory.announce(a_replica(state=ReplicaState.READY), now_s=1)
    assert directory.version > version


def test_trouble_comes_and_passes_until_the_replica_drains() -> None:
    directory = Directory()
    ready, troubled = a_replica(state=ReplicaState.READY), a_replica(state=ReplicaState.TROUBLED, reason="no answer")
    for replica in (ready, troubled, ready, troubled):
        directory.announce(replica, now_s=0)
        assert directory.replicas() == (replica,)
    draining = a_replica(state=ReplicaState.DRAINING)
    for replica in (draining, troubled, ready):
        directory.announce(replica, now_s=0)
    assert directory.replicas() == (draining,)


def test_words_that_were_overtaken_change_nothing() -> None:
    directory = Directory()
    failed = a_replica("r1", ReplicaState.FAILED, "no such file")
    directory.announce(failed, now_s=0)
    version = directory.version
    assert not directory.announce(a_replica("r1", ReplicaState.LOADING), now_s=0)
    look_every_second(directory, until_s=3 * LEASE_S)
    assert directory.replicas() == (failed,)
    assert directory.version == version


def test_a_draining_replica_hears_when_it_is_released() -> None:
    directory = Directory()
    draining = replace(a_replica(), state=ReplicaState.DRAINING)
    assert not directory.announce(draining, now_s=0)
    directory.release(("r1", "a stranger"))
    assert directory.announce(draining, now_s=1)
    directory.withdraw("r1")
    assert directory.replicas() == ()


def test_last_words_stay_until_a_peer_is_ready() -> None:
    directory = Directory()
    directory.announce(a_replica("r1", ReplicaState.FAILED, "out of memory"), now_s=0)
    directory.expire(now_s=1000)
    assert directory.replicas()[0].reason == "out of memory"
    directory.announce(a_replica("r2", ReplicaState.LOADING), now_s=1000)
    assert len(directory.replicas()) == 2
    directory.announce(a_replica("r2", ReplicaState.READY), now_s=1001)
    assert [replica.id for replica in directory.replicas()] == ["r2"]


def test_a_replica_that_fails_again_and_again_is_listed_once() -> None:
    directory = Directory()
    for attempt in range(5):
        directory.announce(a_replica(f"r{attempt}", ReplicaState.FAILED, f"attempt {attempt}"), now_s=attempt)
    assert [replica.reason for replica in directory.replicas()] == ["attempt 4"]


def test_last_words_of_a_forgotten_deployment_go() -> None:
    directory = Directory()
    directory.announce(a_replica("r1", ReplicaState.FAILED, "broken"), now_s=0)
    directory.forget_deployment("fraud", "green")
    assert len(directory.replicas()) == 1
    directory.forget_deployment("fraud", "blue")
    assert directory.replicas() == ()
