"""A replica that runs a Triton: starts it, watches it, starts it again, gives its address to Envoy, and drains it.

No request passes through this process, unless Envoy is on another host (triton_relay.py). To whoever looks at the
directory, each life of the Triton is a replica of its own: one that died is withdrawn at once, and the next one has
another address and another name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from router.domain.errors import CrossfadeError, ModelUnavailable
from router.domain.routing import Replica, ReplicaState, UnixAddress
from serving.certified import Tell
from serving.directory import ANNOUNCE_EVERY_S
from serving.load import LoadMeter
from serving.replica import RELEASE_WAIT_S, Announcer, ReplicaConfig
from serving.triton_life import PROBE_EVERY_S, Answered, Ended, Event, Failed, Life, Phase, Started, follow
from serving.triton_ports import RunningTriton, TritonHome

log = logging.getLogger(__name__)

# A port can be taken between being found free and being opened.
_FIRST_STARTS = 3

# It is given what tells what it waits for.
MakeHome = Callable[[Tell], Awaitable[TritonHome]]


class _PortTaken(ModelUnavailable):
    """Triton ended because of it."""


class TritonReplica:
    """Runs on one event loop. `start` returns when the model answers; `stop` drains it."""

    def __init__(self, replica_id: str, config: ReplicaConfig, announcer: Announcer, make_home: MakeHome) -> None:
        spec = config.deployed.spec
        assert spec.managed is not None
        self._id = replica_id
        self._lives = 0
        self._config = config
        self._announcer = announcer
        self._make_home = make_home
        self._self = Replica(
            id=f"{replica_id}-0",
            endpoint=spec.endpoint,
            deployment=spec.name,
            generation=config.deployed.generation,
            address=UnixAddress(""),
            state=ReplicaState.LOADING,
        )
        self._telling = asyncio.Lock()  # what is told is told in order
        self.life = Life(start_timeout_s=spec.managed.start_timeout_s)
        self._home: TritonHome | None = None
        self._triton: RunningTriton | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._meter = LoadMeter(time.monotonic())

    async def start(self) -> None:
        """Raises `CrossfadeError` when the model cannot serve, or Triton cannot."""
        self._announcing = asyncio.create_task(self._keep_announcing(), name="announce")
        try:
            self._home = await self._make_home(self._wait_for)
            triton = await self._first_life(self._home)
        except CrossfadeError as error:
            await self._tell(replace(self._self, state=ReplicaState.FAILED, reason=str(error)))
            await self._close()
            raise
        except BaseException:
            await self._close()
            raise
        self._watching = asyncio.create_task(self._keep_alive(self._home, triton), name="watch")

    async def stop(self) -> None:
        """Leave the data plane first, let Triton finish what is under way, then end it."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self.life.phase is Phase.READY and self._triton is not None:
            await self._tell(replace(self._self, state=ReplicaState.DRAINING))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RELEASE_WAIT_S):
                    await self._be_released()
            grace_s = self._config.deployed.spec.request_settings.request_timeout_ms / 1000
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._triton.drain()
        await self._close()
        async with self._telling:
            await self._announcer.withdraw(self._self.id)
        log.info("stopped")

    async def load(self) -> float:
        """How busy its instances were since the call before: see serving/load.py."""
        if self._triton is None or self.life.phase is not Phase.READY:
            return 0.0
        try:
            done = await self._triton.work_done()
        except (ModelUnavailable, TimeoutError):
            return 0.0
        return self._meter.sample(time.monotonic(), done, thread_s=0.0)

    def check(self) -> None:
        """Raises when nobody watches Triton any more. May be called from any thread."""
        if self._watching is not None and self._watching.done() and not self._watching.cancelled():
            raise RuntimeError(f"nobody watches Triton any more: {self._watching.exception()!r}")

    # -- lives

    async def _first_life(self, home: TritonHome) -> RunningTriton:
        """A model that does not load now will not load later: whoever deploys it is told at once."""
        for start in range(1, _FIRST_STARTS + 1):
            triton = await self._begin(home)
            try:
                await self._loaded(triton)
            except ModelUnavailable as error:
                await self._bury(triton, str(error))
                if start == _FIRST_STARTS or not isinstance(error, _PortTaken):
                    raise
            else:
                return triton
        raise AssertionError("the last start returns or raises")

    async def _keep_alive(self, home: TritonHome, triton: RunningTriton) -> None:
        """For ever."""
        while True:
            await self._watched(triton)
            while self.life.phase is not Phase.READY:
                await asyncio.sleep(max(0.0, self.life.again_at_s - time.monotonic()))
                try:
                    triton = await self._begin(home)
                except ModelUnavailable as error:
                    await self._follow(Started())
                    await self._follow(Ended(str(error)))
                    continue
                try:
                    await self._loaded(triton)
                except ModelUnavailable as error:
                    await self._bury(triton, str(error))

    async def _begin(self, home: TritonHome) -> RunningTriton:
        self._triton = await home.start()
        self._meter = LoadMeter(time.monotonic())
        await self._follow(Started())
        return self._triton

    async def _loaded(self, triton: RunningTriton) -> None:
        """Raises `ModelUnavailable`."""
        loading = asyncio.create_task(triton.loaded(), name="load")
        ending = asyncio.create_task(triton.ended(), name="end")
        both = {loading, ending}
        try:
            while not loading.done() and self.life.phase is Phase.LOADING:
                left_s = self.life.since_s + self.life.start_timeout_s - time.monotonic()
                await asyncio.wait(both, timeout=max(left_s, 0.001), return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    how = ending.result()
                    raise _PortTaken(how.words) if how.is_port_taken else ModelUnavailable(how.words)
                if not loading.done():
                    await self._follow(Failed("it was still at it"))
            if self.life.phase is Phase.HUNG:
                raise ModelUnavailable(self.life.reason)
            loading.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
        await self._follow(Answered())

    async def _watched(self, triton: RunningTriton) -> None:
        """Returns when its process is gone."""
        ending = asyncio.create_task(triton.ended(), name="end")
        try:
            while True:
                await asyncio.wait({ending}, timeout=PROBE_EVERY_S)
                if ending.done():
                    await self._bury(triton, ending.result().words)
                    return
                await self._follow(await _probed(triton))
                if self.life.phase is Phase.HUNG:
                    await self._bury(triton, self.life.reason)
                    return
        finally:
            ending.cancel()

    async def _bury(self, triton: RunningTriton, reason: str) -> None:
        """Envoy forgets it first."""
        await self._leave(reason)
        await triton.end()
        await self._follow(Ended(reason))

    async def _follow(self, event: Event) -> None:
        before, self.life = self.life, follow(self.life, event, time.monotonic())
        if self.life.phase is before.phase:
            return
        log.info("triton", extra={"from": before.phase, "to": self.life.phase, "reason": self.life.reason})
        if self.life.phase is Phase.READY:
            assert self._triton is not None
            ready = replace(self._self, address=self._triton.address, state=ReplicaState.READY, reason="")
            await self._tell(ready)
        elif self._self.state is ReplicaState.LOADING:
            await self._tell(replace(self._self, reason=self.life.reason or "Triton is loading the model"))

    # -- what is told

    async def _leave(self, reason: str) -> None:
        """Whoever answered until now does so no more; the next one has a name of its own."""
        if self._self.state is not ReplicaState.READY:
            return
        async with self._telling:
            await self._announcer.withdraw(self._self.id)  # first: one that stops meanwhile does it again
            self._lives += 1
            self._self = replace(
                self._self,
                id=f"{self._id}-{self._lives}",
                address=UnixAddress(""),
                state=ReplicaState.LOADING,
                reason=reason,
            )
        await self._tell(self._self)

    async def _wait_for(self, what: str) -> None:
        if what != self._self.reason:
            await self._tell(replace(self._self, reason=what))

    async def _tell(self, replica: Replica) -> bool:
        async with self._telling:
            self._self = replica
            return await self._announcer.announce(replica)

    async def _keep_announcing(self) -> None:
        while True:
            async with self._telling:
                await self._announcer.announce(self._self)
            await asyncio.sleep(ANNOUNCE_EVERY_S)

    async def _be_released(self) -> None:
        while not await self._tell(self._self):  # noqa: ASYNC110 (the directory is asked, it cannot call)
            await asyncio.sleep(0.05)

    async def _close(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
            await asyncio.gather(self._announcing, return_exceptions=True)
        if self._home is not None:
            await self._home.close()


async def _probed(triton: RunningTriton) -> Event:
    try:
        reason = await triton.why_not_ready()
    except TimeoutError:
        return Failed("it does not answer")
    except ModelUnavailable as error:
        return Failed(str(error))
    return Failed(reason) if reason else Answered()
