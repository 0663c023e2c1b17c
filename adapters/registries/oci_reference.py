"""What `oci://…` may look like: host, repository, and a tag or a digest.

The grammar is the distribution specification's (opencontainers/distribution-spec, "Pulling manifests"), taken strictly:
what stands here goes into URLs as it is.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef
from router.domain.model_tree import checked_digest

_HOST = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250}[A-Za-z0-9])?|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_MAX_REPOSITORY = 255
_DOCKER_HUB = "docker.io"
_DOCKER_HUB_API = "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class OciReference:
    """`host` with its port. `digest`: 64 hex digits, or "" when the tag alone names the model, which may move."""

    host: str
    repository: str
    tag: str
    digest: str

    @property
    def target(self) -> str:
        """What the registry is asked for."""
        return f"sha256:{self.digest}" if self.digest else self.tag

    @property
    def api_host(self) -> str:
        """Docker Hub answers under another name than the one it is written with."""
        return _DOCKER_HUB_API if self.host == _DOCKER_HUB else self.host

    def pinned(self, digest: str) -> str:
        return f"oci://{self.host}/{self.repository}@sha256:{digest}"


def parsed(ref: ModelRef) -> OciReference:
    """Raises `ModelUnavailable` for anything but host/repository:tag and host/repository@sha256:…"""
    host, _, rest = ref.location.partition("/")
    named, _, digest = rest.partition("@")
    repository, _, tag = named.partition(":")
    if not _HOST.fullmatch(host):
        raise ModelUnavailable(f"{ref}: {host[:80]!r} is not the name of a registry: write oci://host/repository:tag")
    if len(repository) > _MAX_REPOSITORY or not _REPOSITORY.fullmatch(repository):
        raise ModelUnavailable(f"{ref}: {repository[:80]!r} is not the name of a repository (lower case, with slashes)")
    if tag and not _TAG.fullmatch(tag):
        raise ModelUnavailable(f"{ref}: {tag[:80]!r} is not a tag")
    if "@" not in rest:
        if not tag:
            raise ModelUnavailable(f"{ref}: say which one: add a tag (:1.0) or a digest (@sha256:…)")
        return OciReference(host, repository, tag, "")
    return OciReference(host, repository, tag, checked(digest, str(ref)))


def checked(digest: str, where: str) -> str:
    """The 64 hex digits of `sha256:…`. Raises `ModelUnavailable`, also for other algorithms."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256":
        raise ModelUnavailable(f"{where}: {digest[:80]!r} is not a digest that can be checked: sha256:<64 hex digits>")
    try:
        return checked_digest(value)
    except Invalid as error:
        raise ModelUnavailable(f"{where}: {error}") from None


def is_loopback(host: str) -> bool:
    """This machine, by name or address; with or without a port."""
    match = _HOST.fullmatch(host)
    name = match["name"].strip("[]") if match else ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
