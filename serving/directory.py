"""Who serves what, right now: replicas announce themselves under leases. Pure state; the actor around it is an adapter.

A lease that is not renewed ends: that is how a killed replica leaves. A failed replica's last words are kept without a
lease until another replica of its deployment is ready, or the deployment is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.domain.routing import Replica, ReplicaState

ANNOUNCE_EVERY_S = 1.0
# Whoever is killed is avoided by Envoy at once, lease or not; a replica on a machine with no core to spare can be late
# by seconds, and taking it away then would turn a slow deployment into none.
LEASE_S = 15.0
_STALL_S = 2.0

# A replica's life goes one way, but for trouble that comes and passes. Calls to an asynchronous Ray actor may overtake
# each other, so that "loading" can arrive after "failed".
_AGE = {
    ReplicaState.LOADING: 0,
    ReplicaState.READY: 1,
    ReplicaState.TROUBLED: 1,
    ReplicaState.DRAINING: 2,
    ReplicaState.FAILED: 3,
}


class Directory:
    """`version` grows with every visible change, so that watchers can wait for the next one."""

    def __init__(self) -> None:
        self.version = 0
        self._replicas: dict[str, Replica] = {}
        self._lease_ends_s: dict[str, float] = {}
        self._released: set[str] = set()
        self._looked_s: float | None = None

    def announce(self, replica: Replica, now_s: float) -> bool:
        """Add or renew. Returns whether the replica has been released: no Envoy sends it requests any more.

        What a replica said earlier and arrives later changes nothing.
        """
        known = self._replicas.get(replica.id)
        if known is not None and _AGE[replica.state] < _AGE[known.state]:
            return replica.id in self._released
        if known != replica:
            if replica.state in (ReplicaState.READY, ReplicaState.FAILED):
                self._forget(self._failed(replica.endpoint, replica.deployment))
            self._replicas[replica.id] = replica
            self.version += 1
        if replica.state is not ReplicaState.FAILED:
            self._lease_ends_s[replica.id] = now_s + LEASE_S
        else:
            self._lease_ends_s.pop(replica.id, None)
        return replica.id in self._released

    def withdraw(self, replica_id: str) -> None:
        """The replica has stopped."""
        if replica_id in self._replicas:
            self._forget([replica_id])
            self.version += 1
        self._released.discard(replica_id)

    def release(self, replica_ids: tuple[str, ...]) -> None:
        """No Envoy sends these replicas requests any more: they may finish what they have and stop."""
        self._released.update(replica_id for replica_id in replica_ids if replica_id in self._replicas)

    def expire(self, now_s: float) -> None:
        """Drop replicas whose lease has ended.

        Called often. When the last call is long ago, it was the directory that stood still (a suspended machine, a
        frozen process), not the replicas: their leases are prolonged by that gap, so that they can be heard first.
        """
        gap_s = now_s - self._looked_s if self._looked_s is not None else 0.0
        self._looked_s = now_s
        if gap_s > _STALL_S:
            self._lease_ends_s = {replica_id: end_s + gap_s for replica_id, end_s in self._lease_ends_s.items()}
        ended = [replica_id for replica_id, end_s in self._lease_ends_s.items() if end_s <= now_s]
        if ended:
            self._forget(ended)
            self._released.difference_update(ended)
            self.version += 1

    def forget_deployment(self, endpoint: str, deployment: str) -> None:
        """Drop the last words of failed replicas of a deployment that is no longer wanted."""
        failed = self._failed(endpoint, deployment)
        if failed:
            self._forget(failed)
            self.version += 1

    def replicas(self) -> tuple[Replica, ...]:
        return tuple(sorted(self._replicas.values(), key=lambda replica: replica.id))

    def _failed(self, endpoint: str, deployment: str) -> list[str]:
        return [
            replica.id
            for replica in self._replicas.values()
            if (replica.endpoint, replica.deployment) == (endpoint, deployment) and replica.state is ReplicaState.FAILED
        ]

    def _forget(self, replica_ids: Iterable[str]) -> None:
        for replica_id in replica_ids:
            self._replicas.pop(replica_id, None)
            self._lease_ends_s.pop(replica_id, None)
