"""This process in Ray: how it comes in, and what it leaves behind when the gateway ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from router.ports import Runtime, RuntimeUnavailable

log = logging.getLogger(__name__)

# Of the time that the supervisor leaves the control plane for its end (children.py).
_LEAVE_TIMEOUT_S = 2.0


class RayMembership:
    """`runtime_of` imports Ray, which takes seconds, and so it is called in a thread."""

    def __init__(
        self, runtime_of: Callable[[], Runtime], is_ray_ours: bool, leave_timeout_s: float = _LEAVE_TIMEOUT_S
    ) -> None:
        self._runtime_of = runtime_of
        self._is_ray_ours = is_ray_ours
        self._leave_timeout_s = leave_timeout_s
        self._runtime: Runtime | None = None

    async def begin(self) -> Runtime:
        """Not connected yet."""
        self._runtime = await asyncio.to_thread(self._runtime_of)
        return self._runtime

    async def leave(self) -> None:
        """A Ray of others' is left as it was found. Our own ends with us. Never raises: the gateway ends anyway."""
        if self._runtime is None or self._is_ray_ours:
            return
        try:
            async with asyncio.timeout(self._leave_timeout_s):
                await self._runtime.leave()
        except (RuntimeUnavailable, TimeoutError) as error:
            log.warning("the directory of replicas may have stayed in Ray: %s", str(error) or "Ray does not answer")
