"""The keys of `triton.tls`. Certificates and keys are named by their files and never written into a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from router.domain.triton_tls import TritonTls
from router.spec.nodes import MapNode, Node, describe
from router.spec.problems import did_you_mean
from router.spec.reading import WRONG, At, distinct_entries
from router.spec.rollout_values import Text
from router.spec.sections import Key, Section
from router.spec.values import Flag, LocalPath

_PATH = LocalPath()


@dataclass(frozen=True, slots=True)
class FileReference:
    """`{file: PATH}`, of a file on the gateway's machine, or on those of replicas. The value is the path."""

    def read(self, node: Node, at: At) -> Any:
        if not isinstance(node, MapNode):
            return at.wrong(node, f"must name a file, not {describe(node)}", "such as {file: /tls/key.pem}")
        path: Any = WRONG
        for name, key, value in distinct_entries(node, at):
            if name != "file":
                at.key(name).wrong(key, "is not a key here", did_you_mean(name, ("file",)))
                return WRONG
            path = _PATH.read(value, at.key(name))
        return at.wrong(node, "the key 'file' is missing", "the path of the file") if not node.entries else path

    def plain(self, value: str) -> Any:
        return {"file": value} if value else None

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {"file": _PATH.schema()},
            "required": ["file"],
            "additionalProperties": False,
        }


TRITON_TLS = Section(
    TritonTls,
    (
        Key("ca", "ca", FileReference(), "Of the CA that signed the Tritons' certificates: PEM.", is_required=True),
        Key("certificate", "certificate", FileReference(), "What is shown to Tritons that ask for one (mTLS): PEM."),
        Key("key", "key", FileReference(), "The certificate's private key: PEM, without a passphrase."),
        Key(
            "server_name",
            "server_name",
            Text(),
            "The name or address in the Tritons' certificates. Left out: the host, if all servers have the same.",
        ),
        Key(
            "http",
            "has_http",
            Flag(),
            "With mode direct, whether http_port speaks TLS as well: a proxy's before Triton, whose own cannot. Left "
            "out: the deployment answers gRPC alone.",
        ),
    ),
)
