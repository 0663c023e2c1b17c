"""Secrets that `docker login` (podman, oras, helm …) left on this machine: its config.json, and credential helpers.

The file: https://docs.docker.com/reference/cli/docker/login/#credential-stores; a helper is a program
`docker-credential-NAME` that takes a host on stdin after the argument `get` and answers in JSON. What it says is used
and forgotten; nothing is logged.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.models.ports import AccessDenied, Credentials

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HELPER_TIMEOUT_S = 30.0
_MAX_BYTES = 1024 * 1024
_NOT_FOUND = b"credentials not found"  # docker-credential-helpers, credentials/error.go
_IDENTITY_TOKEN = "<token>"
# Azure's registry, the one that gives identity tokens out, takes them as the password of this user.
_IDENTITY_USER = "00000000-0000-0000-0000-000000000000"


class DockerCredentials:
    """`path`: of config.json, which need not exist, and is read again each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def credentials(self, host: str) -> Credentials:
        """All empty when there are none for `host` (with its port). Raises `AccessDenied` when they cannot be had."""
        config = await asyncio.to_thread(self._config)
        key = _DOCKER_HUB_KEY if host == "docker.io" else host
        helpers = config.get("credHelpers")
        helper = (helpers.get(key) if isinstance(helpers, dict) else None) or config.get("credsStore")
        if helper:
            found = await self._asked(str(helper), key)
            if found != Credentials():
                return found
        return self._written(config.get("auths"), key)

    def _config(self) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                config = json.loads(file.read(_MAX_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
            raise AccessDenied(f"{self._path}: cannot be read ({reason}): sign in again with `docker login`") from None
        return config if isinstance(config, dict) else {}

    def _written(self, auths: Any, key: str) -> Credentials:
        entries = auths if isinstance(auths, Mapping) else {}
        entry = next((entries[written] for written in entries if _host_of(written) == _host_of(key)), None)
        if not isinstance(entry, dict):
            return Credentials()
        if token := entry.get("identitytoken"):
            return Credentials(_IDENTITY_USER, str(token))
        try:
            pair = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise AccessDenied(
                f"{self._path}: the entry of {key} is damaged: sign in again with `docker login`"
            ) from None
        username, _, password = pair.partition(":")
        return Credentials(username, password.strip("\0"))

    async def _asked(self, helper: str, key: str) -> Credentials:
        program = f"docker-credential-{helper}"
        if not _HELPER.fullmatch(helper):
            raise AccessDenied(f"{self._path}: {helper[:80]!r} is not the name of a credential helper")
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise AccessDenied(f"{self._path} names {program}, which cannot be run: {error.strerror}") from None
        try:
            async with asyncio.timeout(_HELPER_TIMEOUT_S):
                answer, _ = await process.communicate(key.encode())
        except TimeoutError:
            raise AccessDenied(f"{program} did not answer within {_HELPER_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            if _NOT_FOUND in answer:
                return Credentials()
            raise AccessDenied(f"{program} failed with code {process.returncode} for {key}: sign in again")
        return _helped(answer, program)


def _helped(answer: bytes, program: str) -> Credentials:
    try:
        said = json.loads(answer)
        username, secret = said["Username"], said["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise AccessDenied(f"{program} answered with something else than a username and a secret") from None
    if not (isinstance(username, str) and isinstance(secret, str)):
        raise AccessDenied(f"{program} answered with something else than a username and a secret")
    return Credentials(_IDENTITY_USER if username == _IDENTITY_TOKEN else username, secret)


def _host_of(key: str) -> str:
    """Old clients wrote https://host/v1/ where newer ones write the host."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
