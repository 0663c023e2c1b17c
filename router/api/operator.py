"""Who asks, as the routes see it. The guard has found the operator behind the token before any route runs."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, cast

from fastapi import Depends, Header, Request
from starlette.types import Scope

from router.access import ROOT
from router.domain.access import Operator

SCOPE_KEY = "crossfade.operator"

_NOBODY_IN_PARTICULAR = "an operator"
_NAME = re.compile(r"[ -~]{1,64}")

# What `force` means where a change made by hand may cross a rollout.
CROSSES = "Also while a rollout is under way: it is aborted first."


def operator_of(scope: Scope) -> Operator:
    return cast(Operator, scope[SCOPE_KEY])


def source_of(scope: Scope) -> str:
    """The address of whoever asks; nobody but this gateway's own user comes in without one."""
    client = scope.get("client")
    return client[0] if client else "this machine"


def _operator(request: Request) -> Operator:
    return operator_of(request.scope)


def _caller(
    request: Request,
    x_crossfade_by: Annotated[str, Header(description="Your name, for the audit log.")] = "",
) -> str:
    """For the audit log: the token's name is proven, the name that the caller gives is not.

    "ann" with the root token on this machine, else "ann (token ci, from 10.0.0.7)".
    """
    operator, source, name = operator_of(request.scope), source_of(request.scope), x_crossfade_by.strip()
    shown = name if _NAME.fullmatch(name) else _NOBODY_IN_PARTICULAR
    facts = [f"token {operator.name}"] if operator.name != ROOT else []
    if not _is_here(source):
        facts.append(f"from {source}")
    return f"{shown} ({', '.join(facts)})" if facts else shown


def _is_here(source: str) -> bool:
    try:
        return ipaddress.ip_address(source).is_loopback
    except ValueError:
        return True  # no network was involved


Asking = Annotated[Operator, Depends(_operator)]
Caller = Annotated[str, Depends(_caller)]
