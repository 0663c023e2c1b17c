"""The `jwt` block of an endpoint's spec: what is accepted, and what every mistake is told like."""

from __future__ import annotations

import pytest

from router.domain.endpoint import AuthMode, Endpoint
from router.domain.tokens import Claim, KeySetFile, KeySetUrl, TokenRules
from router.spec import SpecProblems, SpecSource, read_specs, to_plain

HEAD = "kind: Endpoint\nname: e\nauth_mode: jwt\n"
FULL = """\
jwt:
  issuer: https://login.example/
  audiences: [scoring, https://api.example]
  jwks: {url: "https://login.example/keys?p=1"}
  claims:
    team: [fraud, risk]
    realm_access: {roles: score}
    email_verified: true
  clock_skew_s: 5
"""


def read(text: str) -> Endpoint:
    (document,) = read_specs([SpecSource("s.yaml", text.encode(), "/specs")])
    assert isinstance(document.content, Endpoint)
    return document.content


def test_every_key_arrives_and_is_shown_as_it_was_written() -> None:
    endpoint = read(HEAD + FULL)
    assert endpoint.auth_mode is AuthMode.JWT
    assert endpoint.jwt == TokenRules(
        "https://login.example/",
        KeySetUrl("https://login.example/keys?p=1"),
        ("scoring", "https://api.example"),
        (
            Claim(("email_verified",), (True,)),
            Claim(("realm_access", "roles"), ("score",)),
            Claim(("team",), ("fraud", "risk")),
        ),
        5,
    )
    assert to_plain(endpoint)["jwt"]["claims"] == {
        "email_verified": True,
        "realm_access": {"roles": "score"},
        "team": ["fraud", "risk"],
    }


def test_a_file_is_found_beside_the_spec() -> None:
    rules = read(HEAD + "jwt: {issuer: i, audiences: [a], jwks: {file: keys.json}}\n").jwt
    assert rules is not None
    assert rules.keys_from == KeySetFile("/specs/keys.json")


MISTAKES = [
    ("", "s.yaml:1:1: jwt: auth_mode jwt lets nobody in without it"),
    ("jwt: {issuer: i, jwks: {file: /k}}", "s.yaml:4:1: jwt: would let in whoever has a token of the issuer"),
    ("jwt: {issuer: i, audiences: [a]}", "s.yaml:4:6: jwt: the key 'jwks' is missing"),
    ("jwt: {audiences: [a], jwks: {file: /k}}", "s.yaml:4:6: jwt: the key 'issuer' is missing"),
    ("jwt: {issuer: i, audiences: [a], jwks: /k}", "s.yaml:4:40: jwt.jwks: must be a mapping, not the text '/k'"),
    ("jwt: {issuer: i, audiences: [a], jwks: {}}", "s.yaml:4:40: jwt.jwks: has 0 keys instead of one"),
    ("jwt: {issuer: i, audiences: [a], jwks: {uri: x}}", "s.yaml:4:41: jwt.jwks.uri: is not a key here"),
    ("jwt: {issuer: i, audiences: [a], jwks: {url: ftp://x}}", "s.yaml:4:46: jwt.jwks.url: is not a URL of a key set"),
    (
        "jwt: {issuer: i, audiences: [a], jwks: {url: 'https://me:word@x/'}}",
        "s.yaml:4:46: jwt.jwks.url: is not a URL of a key set",
    ),
    (
        "jwt: {issuer: i, audiences: [a], jwks: {file: /k}, clock_skew_s: 0}",
        "s.yaml:4:66: jwt.clock_skew_s: 0 is out of range",
    ),
    ("jwt: {issuer: i, jwks: {file: /k}, claims: {team: 7}}", "s.yaml:4:51: jwt.claims.team: must be text, not"),
    ("jwt: {issuer: i, jwks: {file: /k}, claims: {team: []}}", "s.yaml:4:51: jwt.claims.team: has 0 entries"),
    ("jwt: {issuer: i, jwks: {file: /k}, claims: {team: {}}}", "s.yaml:4:51: jwt.claims.team: asks for nothing"),
    ("jwt: {issuer: i, jwks: {file: /k}, claims: [team]}", "s.yaml:4:44: jwt.claims: must map claims to values"),
    (
        "jwt: {issuer: i, jwks: {file: /k}, claims: {a: {b: {c: {d: {e: {f: g}}}}}}}",
        "s.yaml:4:65: jwt.claims.a.b.c.d.e.f: is too deep",
    ),
    (
        'jwt: {issuer: "i\\n", audiences: [a], jwks: {file: /k}}',
        "s.yaml:4:7: jwt.issuer: has something empty or unprintable in it",
    ),
]


@pytest.mark.parametrize(("block", "told"), MISTAKES)
def test_a_mistake_is_told_with_its_place(block: str, told: str) -> None:
    with pytest.raises(SpecProblems) as refused:
        read(f"{HEAD}{block}\n")
    (problem,) = refused.value.problems
    assert str(problem).startswith(told)


def test_rules_for_tokens_mean_nothing_to_another_mode() -> None:
    with pytest.raises(SpecProblems, match="jwt: means nothing to auth_mode none"):
        read("kind: Endpoint\nname: e\njwt: {issuer: i, audiences: [a], jwks: {file: /k}}\n")
