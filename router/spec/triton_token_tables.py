"""The keys of `triton.restricted`. The token is named by its file and never written into a spec."""

from __future__ import annotations

from router.domain.triton_token import TritonToken
from router.spec.rollout_values import Text
from router.spec.sections import Key, Section
from router.spec.triton_tls_tables import FileReference

TRITON_TOKEN = Section(
    TritonToken,
    (
        Key(
            "header",
            "header",
            Text(),
            "The name that the Tritons were started with (--http-restricted-api=…:NAME=VALUE, and "
            "--grpc-restricted-protocol).",
            is_required=True,
        ),
        Key(
            "token",
            "file",
            FileReference(),
            "Holds NAME=VALUE, as Triton's option has it. A new value in it is in force within seconds.",
            is_required=True,
        ),
    ),
)
