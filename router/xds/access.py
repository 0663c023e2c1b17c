"""Access in Envoy: who is let through to an endpoint, decided before a replica, or Envoy itself, says a word for it.

A key is hashed and looked up among the hashes of the endpoint's keys, which come with its routes: only hashes are in
Envoy's configuration, and a revoked key stops as soon as Envoy acknowledges the routes without it. Envoy's own filter
for keys wants them in clear, and its filter for passwords takes SHA-1 and `Basic` alone; so the hash is some Lua. It
compares no key with a key: who measures how long a look-up takes learns of the hash of what he sent, no more. A worker
remembers the hashes of the keys that it let in, and asks the routes each time whether they still let them in.

The Lua stands twice. At the front, where the path names the endpoint, so that a stranger's body is never gathered. And
behind the translation (translation.py), for calls that name their endpoint in another way, gRPC above all.

Envoy lets a request pass when a script fails. So the script does not decide: it notes whose key it saw, in a header
that is taken from no client, and a gate at the end, which is no Lua, lets nobody into a protected endpoint without it.

Certificates were verified by the handshake, so the gates alone judge their names. Tokens are in tokens.py.

Measured (2-core machine, not idle, CPU of Envoy per JSON request, 32 connections of wrk): TLS adds 4 µs, a key 9: to
call any script at all 5, to ask the routes 3, the gate 1. Without the remembered hash it would be 3 more, and with the
second script for every request another 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2 as rc
from envoy.extensions.filters.http.lua.v3 import lua_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as filter_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue

from router.domain.callers import Access, Anyone, CertificateHolders, KeyHolders, TokenHolders, fingerprint_of
from router.xds.composites import empty_place
from router.xds.gateway import ADMITTED_HEADER
from router.xds.hot_path import without
from router.xds.resources import packed
from router.xds.tokens import BACK as TOKEN_BACK
from router.xds.tokens import FRONT as TOKEN_FRONT
from router.xds.tokens import token_checks, token_principal

_FRONT, _BACK = "crossfade.key.front", "crossfade.key.back"
_FRONT_GATE, _GATE = "crossfade.gate.front", "crossfade.gate"
_SCRIPT_NAME = "key"
_UNREADY_NAME = "unready"
_NUM_REMEMBERED = 1000
_KEY_LENGTH = 47  # router/keys.py: a prefix of 4, and 32 bytes in base64

# SHA-256 (FIPS 180-4) of exactly _KEY_LENGTH bytes, which with their padding are one block.
_HASH = """
local band, bxor, bnot = bit.band, bit.bxor, bit.bnot
local ror, shl, shr, tobit, tohex = bit.ror, bit.lshift, bit.rshift, bit.tobit, bit.tohex
local byte = string.byte

local K = {
  0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
  0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
  0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
  0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
  0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
  0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
  0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
  0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
}
local W = {}

local function sha256(key)
  local block = key .. "\\128"
  for i = 1, 12 do
    local a, b, c, d = byte(block, 4 * i - 3, 4 * i)
    W[i] = tobit(shl(a, 24) + shl(b, 16) + shl(c, 8) + d)
  end
  W[13], W[14], W[15], W[16] = 0, 0, 0, 8 * #key
  for i = 17, 64 do
    local x, y = W[i - 15], W[i - 2]
    local s0 = bxor(ror(x, 7), ror(x, 18), shr(x, 3))
    local s1 = bxor(ror(y, 17), ror(y, 19), shr(y, 10))
    W[i] = tobit(W[i - 16] + s0 + W[i - 7] + s1)
  end
  local a, b, c, d = 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a
  local e, f, g, h = 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
  for i = 1, 64 do
    local s1 = bxor(ror(e, 6), ror(e, 11), ror(e, 25))
    local t1 = h + s1 + bxor(band(e, f), band(bnot(e), g)) + K[i] + W[i]
    local s0 = bxor(ror(a, 2), ror(a, 13), ror(a, 22))
    local t2 = s0 + bxor(band(a, b), band(a, c), band(b, c))
    h, g, f, e, d, c, b, a = g, f, e, tobit(d + t1), c, b, a, tobit(t1 + t2)
  end
  return tohex(tobit(a + 0x6a09e667)) .. tohex(tobit(b + 0xbb67ae85))
    .. tohex(tobit(c + 0x3c6ef372)) .. tohex(tobit(d + 0xa54ff53a))
    .. tohex(tobit(e + 0x510e527f)) .. tohex(tobit(f + 0x9b05688c))
    .. tohex(tobit(g + 0x1f83d9ab)) .. tohex(tobit(h + 0x5be0cd19))
end
"""

_CHECK = """
-- The hashes of keys that were let in, so many at the most: whoever is refused adds none.
local HASHES, num_hashes = {}, 0
local WRONG = ', error="invalid_token"'

local function remember(key, hash)
  if HASHES[key] then
    return
  end
  if num_hashes == @REMEMBERED@ then
    HASHES, num_hashes = {}, 0
  end
  HASHES[key], num_hashes = hash, num_hashes + 1
end

local function shown(headers)
  local key = headers:get("x-api-key")
  if key then
    return key
  end
  local authorization = headers:get("authorization")
  return authorization and string.match(authorization, "^[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ]+) *$")
end

local function refuse(handle, challenge, words)
  handle:respond({[":status"] = "401", ["www-authenticate"] = 'Bearer realm="crossfade"' .. challenge}, words)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local key = shown(headers)
  if not key then
    return refuse(handle, "", "this endpoint needs a key: send it as x-api-key, or as Authorization: Bearer")
  end
  if #key ~= @LENGTH@ then
    return refuse(handle, WRONG, "the key is not valid for this endpoint")
  end
  local hash = HASHES[key] or sha256(key)
  local admitted = handle:filterContext():get(hash)
  if not admitted then
    return refuse(handle, WRONG, "the key is not valid for this endpoint")
  end
  remember(key, hash)
  headers:replace("@ADMITTED@", admitted)
end
"""


_UNREADY = """
function envoy_on_request(handle)
  handle:respond({[":status"] = "503"}, "tokens cannot be checked yet: the keys of their issuer are not known here")
end
"""


def front_filters() -> list[Any]:
    """Before anything is done for a request."""
    script = hcm_pb2.HttpFilter(name=_FRONT, typed_config=packed(_scripts()))
    return [script, empty_place(TOKEN_FRONT), _gate(_FRONT_GATE)]


def back_filters(only_if: Callable[[str, Any], Any]) -> list[Any]:
    """After a call has found its endpoint. `only_if` limits a filter to calls that were translated to do so."""
    return [only_if(_BACK, packed(_scripts())), empty_place(TOKEN_BACK), _gate(_GATE)]


def nobody_filter() -> Any:
    """Refuses everything."""
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW)
    return hcm_pb2.HttpFilter(name=_GATE, typed_config=packed(filter_rbac_pb2.RBAC(rules=rules)))


def access_config(endpoint: str, access: Access) -> Mapping[str, Any]:
    """What an endpoint's routes say to these filters."""
    return {**without(_FRONT, TOKEN_FRONT, _FRONT_GATE, _BACK, TOKEN_BACK), **_checks(endpoint, access)}


def _checks(endpoint: str, access: Access) -> Mapping[str, Any]:
    match access:
        case Anyone():
            return without(_GATE)
        case KeyHolders(keys):
            hashes = Struct()
            hashes.update({sha256: f"{endpoint}/{slot}/{fingerprint_of(sha256)}" for slot, sha256 in keys})
            check = packed(lua_pb2.LuaPerRoute(name=_SCRIPT_NAME, filter_context=hashes))
            return {_FRONT: check, _BACK: check, _GATE: packed(_allowing([_admitted(endpoint)]))}
        case CertificateHolders(names):
            only_these = packed(_allowing([_certified(name) for name in names]))
            return {_FRONT_GATE: only_these, _GATE: only_these}
        case TokenHolders(rules, key_set):
            only_these = packed(_allowing([token_principal(endpoint, rules)]))
            gates = {_FRONT_GATE: only_these, _GATE: only_these}
            if not key_set:
                unready = packed(lua_pb2.LuaPerRoute(name=_UNREADY_NAME))
                return {_FRONT: unready, _BACK: unready, **gates}
            return {**token_checks(endpoint, access), **gates}


def _scripts() -> Any:
    check = _CHECK
    for mark, text in {
        "LENGTH": str(_KEY_LENGTH),
        "ADMITTED": ADMITTED_HEADER,
        "REMEMBERED": str(_NUM_REMEMBERED),
    }.items():
        check = check.replace(f"@{mark}@", text)
    scripts = {_SCRIPT_NAME: _HASH + check, _UNREADY_NAME: _UNREADY}
    return lua_pb2.Lua(
        source_codes={name: base_pb2.DataSource(inline_string=text) for name, text in scripts.items()},
        clear_route_cache=BoolValue(value=False),  # no route depends on the note
    )


def _gate(name: str) -> Any:
    return hcm_pb2.HttpFilter(name=name, typed_config=packed(filter_rbac_pb2.RBAC()))


def _admitted(endpoint: str) -> Any:
    """The script's note."""
    own = string_pb2.StringMatcher(prefix=f"{endpoint}/")
    return rbac_pb2.Principal(header=rc.HeaderMatcher(name=ADMITTED_HEADER, string_match=own))


def _certified(name: str) -> Any:
    """A certificate with this name; the handshake has verified it. (Envoy looks at URIs first, then at DNS names.)"""
    exactly = string_pb2.StringMatcher(exact=name)
    return rbac_pb2.Principal(authenticated=rbac_pb2.Principal.Authenticated(principal_name=exactly))


def _allowing(principals: list[Any]) -> Any:
    policy = rbac_pb2.Policy(permissions=[rbac_pb2.Permission(any=True)], principals=principals)
    rules = rbac_pb2.RBAC(action=rbac_pb2.RBAC.ALLOW, policies={"admitted": policy})
    return filter_rbac_pb2.RBACPerRoute(rbac=filter_rbac_pb2.RBAC(rules=rules))
