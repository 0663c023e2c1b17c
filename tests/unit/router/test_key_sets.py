"""Which keys of an identity provider are put in force, and which stay when it cannot be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.key_sets import ProviderKeys, parsed_key_set
from adapters.sqlite_key_sets import SqliteKeySets
from adapters.sqlite_store import SqliteStore
from router.desired import Desired
from router.domain.callers import TokenHolders, access_of
from router.domain.endpoint import AuthMode, Endpoint, EndpointState
from router.domain.errors import StoreFailed
from router.domain.tokens import BadKeySet, KeySet, KeySetFile, KeySetUrl, KeySource, TokenRules
from router.events import EventLog
from router.key_sets import Kept, KeySets, Reading, key_set_metrics
from router.models.ports import Credentials, Reply, SourceUnavailable
from tests.fakes import NOON
from tests.identity import SigningKey, key_set

URL = KeySetUrl("https://login.example/keys")
OLD, NEW = SigningKey("old"), SigningKey("new")


class MemoryKeySets:
    """Implements `KeySetStore`, without durability."""

    def __init__(self) -> None:
        self.kept: dict[KeySource, Kept] = {}
        self.is_full = False

    def load(self) -> Mapping[KeySource, Kept]:
        return dict(self.kept)

    def put(self, source: KeySource, kept: Kept) -> None:
        if self.is_full:
            raise StoreFailed("the disk is full")
        self.kept[source] = kept

    def forget(self, source: KeySource) -> None:
        self.kept.pop(source, None)


class ScriptedReader:
    """Implements `KeySetReader`: says what a test puts into `answer`."""

    def __init__(self) -> None:
        self.answer: Reading | BadKeySet | None = None
        self.asked: list[tuple[KeySource, str]] = []

    async def read(self, source: KeySource, mark: str) -> Reading | None:
        self.asked.append((source, mark))
        if isinstance(self.answer, BadKeySet):
            raise self.answer
        return self.answer


class Told:
    """Implements `Changes`."""

    def __init__(self) -> None:
        self.changed: list[str] = []

    def endpoint_changed(self, name: str) -> None:
        self.changed.append(name)


class Bench:
    def __init__(self, *endpoints: str, source: KeySource = URL, store: MemoryKeySets | None = None) -> None:
        self.now = NOON
        self.store = store or MemoryKeySets()
        self.reader, self.told = ScriptedReader(), Told()
        self.events = EventLog(lambda: self.now)
        rules = TokenRules("https://login.example/", source, ("scoring",))
        self.desired = Desired({name: EndpointState(taking_tokens(name, rules), revision=1) for name in endpoints})
        self.key_sets = KeySets(self.desired, self.reader, self.store, self.told, self.events)

    async def look(self, answer: Reading | BadKeySet | None, after_s: float = 0.0) -> None:
        self.now += timedelta(seconds=after_s)
        self.reader.answer = answer
        await self.key_sets.look()

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events.after(0)]

    def warning(self) -> str:
        (status,) = self.key_sets.status()
        return status.warning


def taking_tokens(name: str, rules: TokenRules) -> Endpoint:
    return Endpoint(name, auth_mode=AuthMode.JWT, jwt=rules)


def reading(*keys: SigningKey, fresh_s: float = 300.0) -> Reading:
    return Reading(keys_of(*keys), "mark", fresh_s)


def keys_of(*keys: SigningKey) -> KeySet:
    return parsed_key_set("keys", key_set(*keys).encode())


async def test_an_endpoint_is_told_the_keys_when_they_are_read_and_when_they_change() -> None:
    bench = Bench("a", "b")
    assert bench.desired.key_set("a") == ""
    await bench.look(reading(OLD))
    assert bench.desired.key_set("a") == bench.desired.key_set("b") == keys_of(OLD).content
    assert bench.told.changed == ["a", "b"]

    await bench.look(reading(OLD), after_s=301)
    assert bench.told.changed == ["a", "b"]
    await bench.look(reading(OLD, NEW), after_s=301)
    assert bench.told.changed == ["a", "b", "a", "b"]
    assert bench.kinds() == ["key_set_read", "key_set_changed"]
    assert bench.warning() == ""


async def test_a_url_is_asked_again_when_its_answer_has_aged_and_a_file_at_every_look() -> None:
    bench = Bench("a")
    for after_s in (0, 10, 49, 2):
        await bench.look(reading(OLD, fresh_s=60.0), after_s)
    assert bench.reader.asked == [(URL, ""), (URL, "mark")]

    watched = Bench("a", source=KeySetFile("/keys.json"))
    for _ in range(3):
        await watched.look(reading(OLD))
    assert len(watched.reader.asked) == 3


async def test_a_provider_that_cannot_be_reached_changes_nothing_and_is_asked_ever_less_often() -> None:
    bench = Bench("a")
    await bench.look(reading(OLD))
    fault = BadKeySet("the keys at https://login.example/keys cannot be had: it refuses connections")
    await bench.look(fault, after_s=301)
    assert bench.warning() == ""  # networks blink
    for _ in range(600):
        await bench.look(fault, after_s=1)
    assert 8 < len(bench.reader.asked) < 20
    assert bench.desired.key_set("a") == keys_of(OLD).content
    assert bench.warning() == f"{fault}; the keys that were known before stay in force"
    assert bench.kinds() == ["key_set_read", "key_set_refused"]
    assert 'crossfade_key_set_fault{source="https://login.example/keys"} 1' in key_set_metrics(bench.key_sets.status())

    await bench.look(None, after_s=61)
    assert bench.warning() == ""
    assert bench.kinds()[-1] == "key_set_read_again"


async def test_keys_that_were_never_there_let_nobody_in_and_that_is_said_at_once() -> None:
    bench = Bench("a")
    await bench.look(BadKeySet("no answer"))
    assert bench.desired.key_set("a") == ""
    assert bench.warning() == "no answer; until it is there, nobody gets in"
    rules = bench.desired.state("a").endpoint.jwt
    assert rules is not None
    assert access_of(bench.desired.state("a").endpoint, (), bench.desired.key_set("a")) == TokenHolders(rules, "")
    assert 'crossfade_key_set_keys{source="https://login.example/keys"} 0' in key_set_metrics(bench.key_sets.status())


async def test_the_last_good_keys_are_in_force_from_the_first_moment_after_a_restart() -> None:
    store = MemoryKeySets()
    await Bench("a", store=store).look(reading(OLD))
    again = Bench("a", store=store)
    assert again.desired.key_set("a") == keys_of(OLD).content
    await again.look(BadKeySet("no answer"))
    assert again.desired.key_set("a") == keys_of(OLD).content


async def test_keys_that_nobody_names_any_more_are_forgotten() -> None:
    bench = Bench("a")
    await bench.look(reading(OLD))
    bench.desired.publish([], ["a"])
    await bench.look(reading(OLD), after_s=301)
    assert bench.store.kept == {}
    assert bench.key_sets.status() == ()
    assert len(bench.reader.asked) == 1


async def test_keys_that_cannot_be_stored_are_in_force_all_the_same() -> None:
    bench = Bench("a")
    bench.store.is_full = True
    await bench.look(reading(OLD))
    assert bench.desired.key_set("a") == keys_of(OLD).content
    assert "key_set_not_kept" in bench.kinds()


def test_sqlite_keeps_keys_over_a_restart(tmp_path: Path) -> None:
    kept = {source: Kept(keys_of(OLD), NOON) for source in (URL, KeySetFile("/keys.json"))}
    store = SqliteStore(tmp_path / "state.db")
    for source, one in kept.items():
        SqliteKeySets(store).put(source, Kept(keys_of(NEW), NOON))
        SqliteKeySets(store).put(source, one)
    store.close()

    store = SqliteStore(tmp_path / "state.db")
    key_sets = SqliteKeySets(store)
    assert key_sets.load() == kept
    key_sets.forget(URL)
    assert list(key_sets.load()) == [KeySetFile("/keys.json")]
    store.close()


# -- what a set of keys is


def test_only_public_numbers_of_keys_that_verify_are_left_of_a_set() -> None:
    mixed = {
        "keys": [
            OLD.jwk() | {"d": "c2VjcmV0", "x5c": ["a certificate"], "note": "mine"},
            {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"},
            NEW.jwk() | {"use": "enc"},
            NEW.jwk() | {"alg": "none"},
            NEW.jwk() | {"alg": "HS256"},
            NEW.jwk() | {"key_ops": ["encrypt"]},
            NEW.jwk() | {"x": NEW.jwk()["y"]},  # not on the curve
            NEW.jwk() | {"crv": "secp256k1"},
            NEW.jwk() | {"kid": 7},
            NEW.jwk() | {"kid": "\ud800"},  # half a character, which Envoy's JSON refuses
            SigningKey("r", "RS256").jwk() | {"e": "A" + "B" * 10},
            {"kty": "RSA", "n": "AQAB", "e": "AQAB"},  # 17 bits
            {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
            {"kty": ["EC"]},
            "a key",
        ]
    }
    found = parsed_key_set("keys", json.dumps(mixed).encode())
    assert found.ids == ("old",)
    assert json.loads(found.content) == {"keys": [OLD.jwk()]}
    assert "c2VjcmV0" not in found.content


@pytest.mark.parametrize("algorithm", ["RS256", "PS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_every_kind_of_key_is_understood_and_written_as_it_was(algorithm: str) -> None:
    key = SigningKey("k", algorithm)
    assert json.loads(keys_of(key).content) == {"keys": [key.jwk()]}


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b'{"keys": {}}', b'{"keys": []}', b"[" * 100_000, b'{"keys": [{"kty": "oct"}]}', b"\xff"],
)
def test_what_is_no_set_of_keys_is_refused_by_the_name_of_its_place(content: bytes) -> None:
    with pytest.raises(BadKeySet, match=r"^keys\.json "):
        parsed_key_set("keys.json", content)


# -- where sets come from


class ScriptedTransport:
    """Implements `Transport` as far as keys need it: one answer."""

    def __init__(self, answer: Reply | SourceUnavailable) -> None:
        self._answer = answer
        self.asked: list[tuple[str, Mapping[str, str], bool]] = []

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: object = None,
        max_bytes: int = 0,
        with_credentials: bool = True,
    ) -> Reply:
        assert (method, content) == ("GET", None)
        assert max_bytes <= 1024 * 1024
        self.asked.append((url, headers or {}, with_credentials))
        if isinstance(self._answer, SourceUnavailable):
            raise self._answer
        return self._answer

    def stream(self, url: str, **_: object) -> object:
        raise AssertionError(url)

    async def credentials(self, host: str) -> Credentials:
        raise AssertionError(host)


def reply(status: int, body: str = "", **headers: str) -> Reply:
    return Reply(URL.url, status, {name.replace("_", "-"): text for name, text in headers.items()}, body.encode())


@pytest.mark.parametrize(
    ("cache_control", "fresh_s"),
    [("", 300.0), ("max-age=5", 60.0), ("public, max-age=120", 120.0), ("max-age=86400", 300.0), ("no-store", 300.0)],
)
async def test_a_url_is_asked_without_secrets_and_believed_for_as_long_as_it_says(
    cache_control: str, fresh_s: float
) -> None:
    transport = ScriptedTransport(reply(200, key_set(OLD), etag='"1"', cache_control=cache_control))
    found = await ProviderKeys(transport).read(URL, "")
    assert found == Reading(keys_of(OLD), '"1"', fresh_s)
    ((url, headers, with_credentials),) = transport.asked
    assert (url, with_credentials) == (URL.url, False)
    assert "if-none-match" not in headers


async def test_an_answer_that_has_not_changed_is_not_sent_again() -> None:
    transport = ScriptedTransport(reply(304))
    assert await ProviderKeys(transport).read(URL, '"1"') is None
    assert transport.asked[0][1]["if-none-match"] == '"1"'


@pytest.mark.parametrize(
    "answer", [reply(404), reply(304), reply(200, "<html>"), SourceUnavailable("it refuses connections")]
)
async def test_any_other_answer_is_a_fault_that_names_the_url(answer: Reply | SourceUnavailable) -> None:
    with pytest.raises(BadKeySet, match=URL.url):
        await ProviderKeys(ScriptedTransport(answer)).read(URL, "")


async def test_a_file_is_read_again_only_when_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    reader, source = ProviderKeys(ScriptedTransport(reply(500))), KeySetFile(str(path))
    with pytest.raises(BadKeySet, match="cannot be read: no such file"):
        await reader.read(source, "")
    path.write_text(key_set(OLD))
    first = await reader.read(source, "")
    assert first is not None
    assert await reader.read(source, first.mark) is None
    path.write_text(key_set(OLD, NEW))
    second = await reader.read(source, first.mark)
    assert second is not None
    assert second.keys.ids == ("old", "new")
