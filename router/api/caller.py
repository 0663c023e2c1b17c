"""Who asks: what the audit trail shows. A name that the caller gives, not one that is proven: the token is shared."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header

_NOBODY_IN_PARTICULAR = "an operator"
_NAME = re.compile(r"[ -~]{1,64}")


def _caller(
    x_crossfade_by: Annotated[str, Header(description="Your name, for the audit trail.")] = "",
) -> str:
    name = x_crossfade_by.strip()
    return name if _NAME.fullmatch(name) else _NOBODY_IN_PARTICULAR


# What `force` means where a change made by hand may cross a rollout.
CROSSES = "Also while a rollout is under way: it is aborted first."

Caller = Annotated[str, Depends(_caller)]
