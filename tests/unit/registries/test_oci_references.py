"""What may stand behind oci://, and what may not."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.registries.oci_reference import OciReference, parsed
from router.domain.errors import ModelUnavailable
from router.domain.model_ref import ModelRef

# Seconds mean nothing on a busy machine.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ghcr.io/team/model:1.0", OciReference("ghcr.io", "team/model", "1.0", "")),
        ("localhost:5000/m:_x.Y-1", OciReference("localhost:5000", "m", "_x.Y-1", "")),
        ("[::1]:5000/a__b/c-d.e:t", OciReference("[::1]:5000", "a__b/c-d.e", "t", "")),
        (f"r.test/m@sha256:{HEX}", OciReference("r.test", "m", "", HEX)),
        (f"r.test/m:1.0@sha256:{HEX}", OciReference("r.test", "m", "1.0", HEX)),
    ],
)
def test_references_are_taken_apart(text: str, expected: OciReference) -> None:
    assert parsed(ModelRef("oci", text)) == expected


def test_a_digest_is_asked_for_rather_than_the_tag_beside_it() -> None:
    assert parsed(ModelRef("oci", f"r.test/m:1.0@sha256:{HEX}")).target == f"sha256:{HEX}"


def test_docker_hub_answers_under_another_name() -> None:
    assert parsed(ModelRef("oci", "docker.io/library/m:1")).api_host == "registry-1.docker.io"


@pytest.mark.parametrize(
    "text",
    [
        "r.test/m",
        "r.test/m:",
        "r.test/:1",
        "r.test",
        "/m:1",
        "user:secret@r.test/m:1",
        "r.test/../m:1",
        "r.test/a/../../m:1",
        "r.test/M:1",
        "r.test/a//b:1",
        "r.test/a/:1",
        "r.test/-a:1",
        "r.test/m:1/2",
        "r.test/m:.1",
        f"r.test/m:{'x' * 129}",
        f"r.test/{'a/' * 200}a:1",
        "r.test/m%2f..:1",
        "r.test/m?x:1",
        "r.test/m#x:1",
        "r.test:port/m:1",
        "-r.test/m:1",
        "r.test/m@sha256:../../etc/passwd",
        f"r.test/m@sha256:{HEX[:-1]}",
        f"r.test/m@sha256:{HEX}0",
        f"r.test/m@sha256:{HEX.upper()}",
        f"r.test/m@sha512:{HEX * 2}",
        f"r.test/m@{HEX}",
        "r.test/m@",
        "r.test/m:1\n",
        "r.test /m:1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ModelUnavailable):
        parsed(ModelRef("oci", text))


@PATIENT
@given(st.text(max_size=60))
def test_what_is_taken_is_safe_in_a_url(text: str) -> None:
    try:
        found = parsed(ModelRef("oci", f"r.test/{text}"))
    except ModelUnavailable:
        return
    path = f"{found.repository}/{found.target}"
    assert path.isascii()
    assert not set(path) & set("%?#\\ \t\r\n")
    assert ".." not in found.repository.split("/")
