"""The key that opens calls which a Triton was told to restrict, in the file that a spec names for it.

https://github.com/triton-inference-server/server/blob/main/docs/customization_guide/inference_protocols.md
"""

from __future__ import annotations

import re
from pathlib import Path

_GRPC_PREFIX = "triton-grpc-protocol-"
_VALUE = re.compile(rb"[!-~](?:[ -~]{0,4094}[!-~])?")  # what a header can carry as it is


def restricted_metadata(header: str, path: str) -> tuple[tuple[str, str], ...]:
    """What a call over gRPC shows. Raises `OSError`, in words that name the file and do not quote it."""
    try:
        with Path(path).open("rb") as file:
            value = file.read(8192).rstrip(b"\r\n")
    except OSError as error:
        raise OSError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    if not _VALUE.fullmatch(value):
        raise OSError(f"{path}: holds no key: one line of at most 4096 letters, digits and signs")
    return ((_GRPC_PREFIX + header, value.decode()),)
