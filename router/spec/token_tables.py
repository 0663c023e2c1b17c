"""The keys of an endpoint's `jwt` block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from router.domain.errors import Invalid
from router.domain.tokens import (
    MAX_CLAIM_DEPTH,
    MAX_CLAIMS,
    MAX_TEXT,
    Claim,
    KeySetFile,
    KeySetUrl,
    KeySource,
    TokenRules,
)
from router.spec.nodes import ListNode, MapNode, Node, ScalarNode, describe
from router.spec.reading import WRONG, At, distinct_entries, only_entry
from router.spec.rollout_values import ListOf, Text
from router.spec.sections import Key, Section
from router.spec.values import LocalPath, Whole

_MAX_VALUES = 100


@dataclass(frozen=True, slots=True)
class KeySourceBlock:
    """`{file: PATH}` or `{url: https://…}`."""

    def read(self, node: Node, at: At) -> Any:
        allowed = "use {url: https://…} or {file: keys.json}"
        if (entry := only_entry(node, at, allowed)) is WRONG:
            return WRONG
        word, key, value = entry
        here = at.key(word)
        match word:
            case "file":
                path = LocalPath().read(value, here)
                return path if path is WRONG else KeySetFile(path)
            case "url":
                return self._url(value, here)
            case _:
                return here.wrong(key, "is not a key here", allowed)

    def _url(self, node: Node, at: At) -> Any:
        text = Text().read(node, at)
        if text is WRONG:
            return WRONG
        try:
            return KeySetUrl(text)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: KeySource) -> Any:
        return {"file" if isinstance(value, KeySetFile) else "url": str(value)}

    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {
                "file": LocalPath().schema(),
                "url": {"type": "string", "pattern": "^https?://.+", "maxLength": MAX_TEXT},
            },
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
        }


@dataclass(frozen=True, slots=True)
class ClaimsBlock:
    """What a token must say: names → a text, true or false, a list of these of which one will do, or names again."""

    def read(self, node: Node, at: At) -> Any:
        before = len(at.report.problems)
        claims = tuple(sorted(self._claims(node, at, ()), key=lambda claim: claim.path))
        return claims if len(at.report.problems) == before else WRONG

    def _claims(self, node: Node, at: At, path: tuple[str, ...]) -> Iterator[Claim]:
        if not isinstance(node, MapNode):
            at.wrong(node, f"must map claims to values, not {describe(node)}", "such as {team: fraud}")
            return
        if path and not node.entries:
            at.wrong(node, "asks for nothing", "say what the claim must be, or remove it")
        for name, key, value in distinct_entries(node, at):
            here, inner = at.key(name), (*path, name)
            if len(inner) > MAX_CLAIM_DEPTH:
                here.wrong(key, "is too deep", f"use at most {MAX_CLAIM_DEPTH} names within each other")
            elif isinstance(value, MapNode):
                yield from self._claims(value, here, inner)
            else:
                yield Claim(inner, self._values(value, here))

    def _values(self, node: Node, at: At) -> tuple[str | bool, ...]:
        if not isinstance(node, ListNode):
            return (self._value(node, at),)
        if not 1 <= len(node.items) <= _MAX_VALUES:
            at.wrong(node, f"has {len(node.items)} entries", f"use 1 to {_MAX_VALUES}")
        return tuple(self._value(item, at.entry(number, item)) for number, item in enumerate(node.items))

    def _value(self, node: Node, at: At) -> Any:
        if isinstance(node, ScalarNode) and isinstance(node.value, bool):
            return node.value
        return Text().read(node, at)

    def plain(self, value: tuple[Claim, ...]) -> Any:
        shown: dict[str, Any] = {}
        for claim in value:
            level = shown
            for name in claim.path[:-1]:
                level = level.setdefault(name, {})
            level[claim.path[-1]] = claim.values[0] if len(claim.values) == 1 else list(claim.values)
        return shown or None

    def schema(self) -> dict[str, Any]:
        scalar = {"anyOf": [{"type": "boolean"}, Text().schema()]}
        values = {"type": "array", "items": scalar, "minItems": 1, "maxItems": _MAX_VALUES}
        kinds = {"anyOf": [*scalar["anyOf"], values, {"type": "object", "minProperties": 1}]}
        return {"type": "object", "additionalProperties": kinds, "maxProperties": MAX_CLAIMS}


TOKENS = Section(
    TokenRules,
    (
        Key(
            "issuer",
            "issuer",
            Text(),
            "Who makes the tokens, exactly as their claim iss has it, such as https://login.example.com/.",
            is_required=True,
        ),
        Key(
            "audiences",
            "audiences",
            ListOf(Text(), 100),
            "Whom tokens must be made for: one of these must be in their claim aud.",
        ),
        Key(
            "jwks",
            "keys_from",
            KeySourceBlock(),
            "The issuer's public keys, as a JWKS: {url: https://…}, asked again every few minutes, or {file: PATH}, "
            "watched. The gateway fetches and keeps them; Envoy dials nobody.",
            is_required=True,
        ),
        Key(
            "claims",
            "claims",
            ClaimsBlock(),
            "What tokens must say besides, such as {team: fraud}; a list of values of which one will do; names within "
            "names: {realm_access: {roles: score}}. A list or a scope in the token must have the value.",
        ),
        Key(
            "clock_skew_s",
            "clock_skew_s",
            Whole(1, 300),
            "By how many seconds the clocks of the issuer and of the gateway may differ.",
        ),
    ),
)
