"""Secrets that the operator gave by reference, read when they are needed and never shown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass, field

from router.models.ports import AccessDenied, Credentials
from router.models.settings import FromCommand, FromEnvironment, FromFile, Host, SecretPlace

_MAX_BYTES = 64 * 1024
_COMMAND_TIMEOUT_S = 30.0
_COMMAND_KEPT_S = 60.0
_END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Kept:
    """`mark`: while it is the same, the value holds."""

    mark: object
    value: str = field(repr=False)


class Secrets:
    """Files are read again when they have changed, commands run again after a minute, the environment is looked at
    each time."""

    def __init__(self) -> None:
        self._kept: dict[SecretPlace, _Kept] = {}
        self._running: dict[SecretPlace, asyncio.Lock] = {}

    async def credentials(self, asked: str, host: Host) -> Credentials:
        """What `host` (settings of the authority `asked`) says. Raises `AccessDenied` when a secret cannot be had."""
        username, password, token = [
            await self._value(asked, name, place) if place else ""
            for name, place in (("username", host.username), ("password", host.password), ("token", host.token))
        ]
        return Credentials(username, password, token)

    async def _value(self, asked: str, name: str, place: SecretPlace) -> str:
        try:
            match place:
                case FromEnvironment(variable):
                    value = os.environ.get(variable, "")
                case FromFile():
                    value = self._from_file(place)
                case FromCommand():
                    value = await self._from_command(place)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise AccessDenied(f"{asked}: its {name} cannot be had from {_words(place)}: {reason}") from None
        if not value:
            raise AccessDenied(f"{asked}: its {name} is empty in {_words(place)}: put the secret there")
        if not (value.isascii() and value.isprintable()):
            raise AccessDenied(f"{asked}: its {name} in {_words(place)} is not one line of plain characters")
        return value

    def _from_file(self, place: FromFile) -> str:
        with open(place.path, "rb") as file:
            status = os.fstat(file.fileno())
            mark = (status.st_mtime_ns, status.st_size, status.st_ino)
            kept = self._kept.get(place)
            if kept is None or kept.mark != mark:
                content = file.read(_MAX_BYTES + 1)
                if len(content) > _MAX_BYTES:
                    raise ValueError("it is larger than a secret should be")
                kept = self._kept[place] = _Kept(mark, _text(content))
        return kept.value

    async def _from_command(self, place: FromCommand) -> str:
        async with self._running.setdefault(place, asyncio.Lock()):
            kept = self._kept.get(place)
            if isinstance(kept, _Kept) and isinstance(kept.mark, float) and time.monotonic() < kept.mark:
                return kept.value
            value = _text(await _output(place.argv))
            self._kept[place] = _Kept(time.monotonic() + _COMMAND_KEPT_S, value)
            return value


async def _output(argv: tuple[str, ...]) -> bytes:
    """What a program prints. Nothing that it started is left when its time is over. Its complaints are not shown: they
    may hold the secret."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = b""
    try:
        async with asyncio.timeout(_COMMAND_TIMEOUT_S):
            while chunk := await process.stdout.read(4096):
                output += chunk
                if len(output) > _MAX_BYTES:
                    raise ValueError("it prints more than a secret should be")
            code = await process.wait()
    except TimeoutError:
        raise ValueError(f"it did not end within {_COMMAND_TIMEOUT_S:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):  # something that left the group may still hold the pipe
            async with asyncio.timeout(_END_TIMEOUT_S):
                await process.communicate()
    if code:
        raise ValueError(f"it ended with {code}")
    return output


def _text(content: bytes) -> str:
    try:
        return content.decode().strip()
    except UnicodeDecodeError:
        raise ValueError("it is not text") from None


def _words(place: SecretPlace) -> str:
    match place:
        case FromEnvironment(name):
            return f"the environment variable {name}"
        case FromFile(path):
            return path
        case FromCommand(argv):
            return f"the command {argv[0]}"
