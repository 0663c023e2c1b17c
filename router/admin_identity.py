"""Who asks the control plane, and with which token."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

from router.client_errors import Unreachable

_MAX_CALLER_LENGTH = 64


def find_token(token_file: str | None, data_dir: str) -> str:
    """The admin token: from `token_file`, else CROSSFADE_TOKEN, else `<data_dir>/admin.token`. Raises `Unreachable`."""
    if token_file is None and (token := os.environ.get("CROSSFADE_TOKEN", "").strip()):
        return token
    path = Path(token_file) if token_file is not None else Path(data_dir, "admin.token")
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise Unreachable(
            f"no admin token: {path}: {reason}. Is `crossfade up` running with this data directory? "
            "Otherwise name another one with --data-dir, --token-file or CROSSFADE_TOKEN"
        ) from None
    if not token.isascii() or not token.isprintable() or not token:
        raise Unreachable(f"no admin token: {path} does not hold one")
    return token


def caller() -> str:
    """Who runs this process, as the header `x-crossfade-by` takes it; empty when that is not known."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in some containers
        return ""
    return name.encode("ascii", "replace").decode()[:_MAX_CALLER_LENGTH]
