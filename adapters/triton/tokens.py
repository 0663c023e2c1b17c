"""Files that hold the token of a restricted Triton. Implements `router.triton_tokens.TokenReader`."""

from __future__ import annotations

from pathlib import Path

from router.domain.tls import Secret
from router.domain.triton import RunningTriton
from router.domain.triton_token import BadToken, TritonToken

_MAX_BYTES = 8192


class TokenFiles:
    def read(self, token: TritonToken) -> Secret:
        """Raises `BadToken`."""
        try:
            with Path(token.file).open("rb") as file:
                content = file.read(_MAX_BYTES)
        except OSError as error:
            raise BadToken(f"{token.file} cannot be read: {error.strerror}") from None
        return Secret(token.value_in(content.decode("ascii", errors="replace")).encode())


def shown_to(triton: RunningTriton, *, is_grpc: bool) -> dict[str, str]:
    """The headers that these Tritons want to see, over either protocol. Raises `BadToken`."""
    token = triton.restricted
    if token is None:
        return {}
    return {token.header_of(is_grpc=is_grpc): TokenFiles().read(token).value.decode()}
