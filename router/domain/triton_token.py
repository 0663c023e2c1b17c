"""The token of a Triton's restricted API: what its operator wants to see before anything is answered."""

from __future__ import annotations

import os.path
import re
from dataclasses import dataclass

from router.domain.errors import Invalid

GRPC_PREFIX = "triton-grpc-protocol-"  # before the header's name, over gRPC

_HEADER = re.compile("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VALUE = re.compile(r"[\x21-\x7e]{1,4096}")
# What HTTP itself, Envoy or this gateway reads.
_TAKEN = re.compile(
    "accept.*|authorization|connection|content-.*|cookie|expect|grpc-.*|host|inference-header-content-length|"
    "keep-alive|te|trailers?|transfer-encoding|upgrade|user-agent|x-crossfade-.*|x-envoy-.*|x-forwarded-.*|x-request-id"
)


class BadToken(ValueError):
    """A token that cannot be used. The message tells why, and nothing of what was read."""


@dataclass(frozen=True, slots=True)
class TritonToken:
    """`header`: its name. `file`: a path where it is read: on the gateway's machine, or where a bridge's replicas run.

    What is in it is told nobody but the Tritons.
    """

    header: str
    file: str

    def __post_init__(self) -> None:
        if not _HEADER.fullmatch(self.header) or _TAKEN.fullmatch(self.header):
            raise Invalid(
                "triton.restricted.header",
                f"{self.header[:60]!r} cannot be the name of a token",
                "use the name that Triton was started with: small letters, digits and '-', such as x-triton-token",
            )
        if not os.path.isabs(self.file):
            raise Invalid(
                "triton.restricted.token", f"{self.file[:60]!r} is a relative path", "write the absolute path"
            )

    def header_of(self, *, is_grpc: bool) -> str:
        return GRPC_PREFIX + self.header if is_grpc else self.header

    def value_in(self, content: str) -> str:
        """The file holds one line, as Triton's own option has it: NAME=VALUE, and the name is `header`.

        That it says itself which token it holds keeps a spec from having any other file sent to a server of its choice.
        Raises `BadToken`.
        """
        name, separator, value = content.strip("\r\n").partition("=")
        if name != self.header or not separator:
            raise BadToken(f"{self.file} does not hold {self.header}=VALUE, as Triton's option has it")
        if not _VALUE.fullmatch(value):
            raise BadToken(f"{self.file}: the token is not one word of at most 4096 printable characters")
        return value
