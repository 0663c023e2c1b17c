"""Revoked clients on connections that are open already: the handshake judged their certificate before it was revoked.

Each request bears the serial number of its connection's certificate in a header that the gateway alone sets, and is
refused when that number is on a revocation list. The numbers come over a discovery stream of their own (ECDS): a
listener that held them would drop every connection whenever one client leaves.

The number alone is compared, without its issuer, whose spelling differs from library to library. CAs have chosen
numbers at random for long (RFC 5280 wants them unique within a CA, the CA/Browser Forum 64 random bits).
"""

from __future__ import annotations

from typing import Any

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_rbac_pb2
from envoy.type.matcher.v3 import http_inputs_pb2
from xds.core.v3 import extension_pb2 as xds_extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from router.domain.tls import ClientTrust
from router.xds.extensions import discovered_filter, extension
from router.xds.gateway import PEER_HEADER
from router.xds.names import EXTENSION, Key
from router.xds.resources import Resource, packed

_NAME = "crossfade.revoked"
REVOCATIONS = Key(EXTENSION, _NAME)

_Matcher = matcher_pb2.Matcher
_Tree = _Matcher.MatcherTree


def peer_note() -> Any:
    """The mutation that notes whose connection it is. Without a certificate, nothing is noted."""
    note = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=PEER_HEADER, value="%DOWNSTREAM_PEER_SERIAL%"),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return mutation_rules_pb2.HeaderMutation(append=note)


def revocation_filters() -> list[Any]:
    """Its configuration is `revocation_list`."""
    return [discovered_filter(_NAME, filter_rbac_pb2.RBAC())]


def revocation_list(trust: ClientTrust) -> Resource:
    """Looking a number up takes the same time however many there are."""
    rules = filter_rbac_pb2.RBAC()
    if trust.revoked:
        refused = {serial_text(number): _on_match("revoked", rbac_pb2.RBAC.DENY) for number in sorted(trust.revoked)}
        asked = http_inputs_pb2.HttpRequestHeaderMatchInput(header_name=PEER_HEADER)
        rules.matcher.CopyFrom(
            _Matcher(
                matcher_tree=_Tree(
                    input=xds_extension_pb2.TypedExtensionConfig(name="peer", typed_config=packed(asked)),
                    exact_match_map=_Tree.MatchMap(map=refused),
                ),
                on_no_match=_on_match("others", rbac_pb2.RBAC.ALLOW),
            )
        )
    return extension(_NAME, packed(rules))


def serial_text(number: int) -> str:
    """As Envoy spells it: whole bytes in hexadecimal, lower case."""
    return number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big").hex()


def _on_match(name: str, action: int) -> Any:
    done = xds_extension_pb2.TypedExtensionConfig(
        name="action", typed_config=packed(rbac_pb2.Action(name=name, action=action))
    )
    return _Matcher.OnMatch(action=done)
