"""References into object stores: what they may look like, and that a pinned one is read back as it was meant."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.registries.cloud_reference import CloudReference, parsed, pinned
from router.domain.errors import Invalid, ModelUnavailable
from router.domain.model_ref import ModelRef

# Seconds mean nothing on a busy machine.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LISTING = "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://b-1/a/m.onnx", CloudReference("s3", "b-1", "a/m.onnx", False)),
        ("gs://b/a/", CloudReference("gs", "b", "a", True)),
        ("s3://b", CloudReference("s3", "b", "", True)),
        ("s3://b/", CloudReference("s3", "b", "", True)),
        (
            "az://c/m?versionId=2026-01-01T00:00:00Z",
            CloudReference("az", "c", "m", False, version="2026-01-01T00:00:00Z"),
        ),
        ("gs://b/m#1795516042806387", CloudReference("gs", "b", "m", False, version="1795516042806387")),
        ("s3://b/m#etag=0x8D/-1", CloudReference("s3", "b", "m", False, etag="0x8D/-1")),
        (f"s3://b/f/#listing={LISTING}", CloudReference("s3", "b", "f", True, listing=LISTING)),
        ("abfss://c@acc1.dfs.core.windows.net/f/m", CloudReference("az", "c", "f/m", False, account="acc1")),
    ],
)
def test_references_are_taken_apart(text: str, expected: CloudReference) -> None:
    assert parsed(ModelRef.parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "s3:///m",
        "s3://b//m",
        "s3://b/a/../m",
        "s3://../m",
        "s3://b/a\\m",
        "s3://b/a\x07m",
        "abfss://c/m",
        "abfss://c@acc.evil.test/m",
        "abfss://c@a.b.dfs.core.windows.net/m",
        "abfss://@acc.dfs.core.windows.net/m",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ModelUnavailable):
        parsed(ModelRef.parse(text))


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "abfss", "oci", "https", "http"])
def test_a_password_is_refused_and_not_repeated(scheme: str) -> None:
    with pytest.raises(Invalid, match="holds a user or a password") as refused:
        ModelRef.parse(f"{scheme}://user:s3cret@b/m")
    assert "s3cret" not in str(refused.value) + refused.value.hint


def test_an_at_sign_elsewhere_is_no_password() -> None:
    for text in ("oci://r.test:5000/m@sha256:00", "abfss://c@a.dfs.core.windows.net/m", "file:a:b@c/m.onnx"):
        assert str(ModelRef.parse(text)) == text


_WORDS = st.text("abcXYZ019-_.~/+=", min_size=1, max_size=30)


@PATIENT
@given(
    st.sampled_from(["s3://b/a/m", "gs://b/m", "az://c/x/m", "abfss://c@acc.dfs.core.windows.net/m"]),
    st.sampled_from(["version", "etag", "listing"]),
    _WORDS,
)
def test_what_is_pinned_is_read_back(text: str, kind: str, word: str) -> None:
    reference = parsed(ModelRef.parse(text))
    match kind:
        case "version" if reference.provider == "gs":
            word = str(len(word))
        case "listing":
            word = LISTING
    again = parsed(ModelRef.parse(pinned(ModelRef.parse(text), reference, **{kind: word})))
    assert (again.provider, again.bucket, again.key, again.account) == (
        reference.provider,
        reference.bucket,
        reference.key,
        reference.account,
    )
    assert getattr(again, kind) == word
    assert again.is_pinned
    assert again.is_folder == (kind == "listing")
