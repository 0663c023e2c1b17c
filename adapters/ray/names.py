"""How a generation of a deployment is called in Ray Serve. Imports no Ray, which takes seconds."""

from __future__ import annotations

# Not in the alphabet of names, so an application's name can be taken apart again. ('#' is Ray Serve's own separator.)
_SEPARATOR = "~"


def app_name(gateway_id: str, endpoint: str, deployment: str, generation: str) -> str:
    return _SEPARATOR.join((gateway_id, endpoint, deployment, generation))


def app_parts(gateway_id: str, name: str) -> tuple[str, str, str] | None:
    """(endpoint, deployment, generation) of one of this gateway's applications; None for anybody else's."""
    owner, *parts = name.split(_SEPARATOR)
    if owner != gateway_id or len(parts) != 3:
        return None
    endpoint, deployment, generation = parts
    return endpoint, deployment, generation
