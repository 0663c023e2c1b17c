"""Whether what a caller showed when a stream began would let it in on other terms."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain.begun_streams import (
    PeerCertificate,
    Shown,
    ShownToken,
    Terms,
    are_met,
    keys_in,
    possible_signers,
    runs_out_at,
)
from router.domain.callers import (
    Access,
    Anyone,
    CertificateHolders,
    KeyHolders,
    KeySlot,
    TokenHolders,
    fingerprint_of,
)
from router.domain.listening import Clients
from router.domain.tokens import Claim, KeySetFile, TokenRules

HERE = "192.0.2.7"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = "ab" * 32, "cd" * 32
K1, K2, NAMELESS = {"kid": "k1", "x": "1"}, {"kid": "k2", "x": "2"}, {"x": "3"}
CLAIMS: dict[str, object] = {
    "iss": "https://login.example",
    "aud": ["https://fraud/", "other"],
    "exp": NOW.timestamp(),
    "team": "fraud",
    "realm": {"roles": ["scorer", "viewer"]},
    "staff": True,
}
RULES = TokenRules("https://login.example", KeySetFile("/keys.json"), ("fraud",), clock_skew_s=30)


def key_set(*keys: dict[str, str]) -> str:
    return json.dumps({"keys": keys})


def with_key(sha256: str) -> Shown:
    return Shown(HERE, key=fingerprint_of(sha256))


def with_names(*names: str) -> Shown:
    return Shown(HERE, certificate=PeerCertificate(7, frozenset(names), NOW, b""))


def with_token(*signers: dict[str, str], **changed: object) -> Shown:
    return Shown(HERE, token=ShownToken(CLAIMS | changed, keys_in(key_set(*signers or (K1,)))))


EVERY_WAY = [with_key(OLD), with_names("app"), with_token()]


@pytest.mark.parametrize(
    ("access", "shown", "is_let_in"),
    [
        (KeyHolders(((KeySlot.PRIMARY, OLD), (KeySlot.SECONDARY, NEW))), with_key(OLD), True),
        (KeyHolders(((KeySlot.SECONDARY, OLD),)), with_key(OLD), True),
        (KeyHolders(((KeySlot.PRIMARY, NEW),)), with_key(OLD), False),
        (KeyHolders(), with_key(OLD), False),
        (KeyHolders(((KeySlot.PRIMARY, OLD),)), Shown(HERE), False),
        (CertificateHolders(("app", "batch")), with_names("x", "batch"), True),
        (CertificateHolders(("app",)), with_names("app.evil"), False),
        (CertificateHolders(("app",)), with_names(), False),
        (CertificateHolders(()), with_names("app"), False),
        (TokenHolders(RULES, key_set(K1)), with_token(), True),
        (TokenHolders(RULES, key_set(K2, K1)), with_token(), True),
        (TokenHolders(RULES, key_set(K2)), with_token(), False),
        (TokenHolders(RULES, key_set(K1 | {"x": "9"})), with_token(), False),  # another key of the same name
        (TokenHolders(RULES, key_set(K1)), with_token(K1, NAMELESS), False),  # it may have been the one that is gone
        (TokenHolders(RULES, ""), with_token(), False),
        (TokenHolders(RULES, key_set(K1)), Shown(HERE, token=ShownToken(CLAIMS, frozenset())), False),
    ],
)
def test_what_was_shown_lets_in_or_not(access: Access, shown: Shown, is_let_in: bool) -> None:
    assert are_met(Terms(access), shown) is is_let_in


@pytest.mark.parametrize(
    ("rules", "is_let_in"),
    [
        (TokenRules("https://login.other", RULES.keys_from, ("fraud",)), False),
        (TokenRules(RULES.issuer, RULES.keys_from, ("risk",)), False),
        (TokenRules(RULES.issuer, RULES.keys_from, ("risk", "http://other")), True),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("team",), ("risk", "fraud")),)), True),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("team",), ("risk",)),)), False),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("realm", "roles"), ("viewer",)),)), True),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("realm", "roles", "x"), ("viewer",)),)), False),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("staff",), (True,)),)), True),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("staff",), ("true",)),)), False),
        (TokenRules(RULES.issuer, RULES.keys_from, claims=(Claim(("exp",), (True,)),)), False),
    ],
)
def test_a_token_is_judged_by_other_rules(rules: TokenRules, is_let_in: bool) -> None:
    assert are_met(Terms(TokenHolders(rules, key_set(K1))), with_token()) is is_let_in


@pytest.mark.parametrize("shown", EVERY_WAY, ids=["key", "certificate", "token"])
def test_an_endpoint_that_asks_for_something_else_lets_in_nobody_and_an_open_one_everybody(shown: Shown) -> None:
    ways: list[Access] = [
        KeyHolders(((KeySlot.PRIMARY, OLD),)),
        CertificateHolders(("app",)),
        TokenHolders(RULES, key_set(K1)),
    ]
    assert sum(are_met(Terms(access), shown) for access in ways) == 1
    assert are_met(Terms(Anyone()), shown)


def test_lists_of_addresses_are_part_of_the_terms() -> None:
    shown, access = with_key(OLD), KeyHolders(((KeySlot.PRIMARY, OLD),))
    assert are_met(Terms(access, Clients(allow=("192.0.2.0/24",))), shown)
    assert not are_met(Terms(access, Clients(allow=("198.51.100.0/24",))), shown)
    assert not are_met(Terms(access, Clients(allow=("192.0.2.0/24",), deny=("192.0.2.7/32",))), shown)
    assert Terms().are_none
    assert not Terms(Anyone(), Clients(deny=("192.0.2.7/32",))).are_none


def test_a_token_says_which_keys_may_have_signed_it() -> None:
    known = key_set(K1, K2, NAMELESS)
    assert possible_signers(known, "k1") == keys_in(key_set(K1, NAMELESS))
    assert possible_signers(known, "") == keys_in(known)
    assert possible_signers(known, "k9") == keys_in(key_set(NAMELESS))


def test_tokens_and_certificates_run_out_where_they_were_asked_for() -> None:
    by_token, by_name = Terms(TokenHolders(RULES, key_set(K1))), Terms(CertificateHolders(("app",)))
    assert runs_out_at(by_token, with_token()) == NOW + timedelta(seconds=30)
    assert runs_out_at(by_token, with_token(exp=1e300)) is None
    assert runs_out_at(by_name, with_names("app")) == NOW
    assert runs_out_at(Terms(KeyHolders()), with_names("app")) is None


SHA = st.sampled_from([character * 64 for character in "0123456789abcdef"])


@given(st.lists(SHA, max_size=2, unique=True), SHA)
def test_a_key_lets_in_exactly_while_it_is_one_of_them(present: list[str], shown: str) -> None:
    access = KeyHolders(tuple(zip(KeySlot, present, strict=False)))
    assert are_met(Terms(access), with_key(shown)) == (shown in present)
