"""`registries.yaml` → `RegistrySettings`. The table below names every key; a mistake is told with its line."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from router.domain.errors import Invalid
from router.domain.sources import CommandOutput, checked_url
from router.models.ports import SourceLimits
from router.models.settings import (
    DirectHosts,
    FromCommand,
    FromEnvironment,
    FromFile,
    Host,
    ObjectStorage,
    RegistrySettings,
    SecretPlace,
    Signatures,
    Timeouts,
    checked_authority,
    checked_pattern,
)
from router.models.signing import SignaturePolicy
from router.spec.nodes import MapNode, Node, describe, documents_of
from router.spec.problems import Problem, SpecProblems
from router.spec.reading import WRONG, At, Report, distinct_entries
from router.spec.rollout_values import CommandWords, Duration, ListOf, Maybe, Text, Translated, Url
from router.spec.sections import Key, Section
from router.spec.values import Flag, OneOf, Size, Whole

_MAX_ENTRIES = 1000
_TEXT = Text()


def read_settings(content: bytes, file: str, folder: str) -> RegistrySettings:
    """`file` is shown in messages; relative paths are looked up from `folder`. Nothing is opened.

    Raises `SpecProblems` with every mistake.
    """
    nodes = documents_of(content, file)
    if not nodes:
        return RegistrySettings()
    if len(nodes) > 1:
        raise SpecProblems([Problem("", "holds more than one document", "remove what follows '---'", 1, nodes[1].mark)])
    report = Report(0, folder)
    settings = SETTINGS.read(nodes[0], At("", report))
    if report.problems:
        raise SpecProblems(report.problems)
    assert isinstance(settings, RegistrySettings)
    return settings


@dataclass(frozen=True, slots=True)
class FilePath:
    """A file's path, made absolute from the folder of the settings."""

    def read(self, node: Node, at: At) -> Any:
        path = _TEXT.read(node, at)
        if path is WRONG:
            return WRONG
        return os.path.normpath(os.path.join(os.path.abspath(at.report.folder or os.curdir), path))

    def plain(self, value: str) -> Any:
        return value or None

    def schema(self) -> dict[str, Any]:
        return _TEXT.schema()


@dataclass(frozen=True, slots=True)
class Checked:
    """A text that `check` (key, text) takes, perhaps in another form, or refuses with `Invalid`."""

    check: Callable[[str, str], str]

    def read(self, node: Node, at: At) -> Any:
        text = _TEXT.read(node, at)
        if text is WRONG:
            return WRONG
        try:
            return self.check(at.path, text)
        except Invalid as error:
            return at.wrong(node, error.message, error.hint)

    def plain(self, value: str) -> Any:
        return value or None

    def schema(self) -> dict[str, Any]:
        return _TEXT.schema()


@dataclass(frozen=True, slots=True)
class ByHost:
    """Hosts → what is special about each."""

    def read(self, node: Node, at: At) -> Any:
        if not isinstance(node, MapNode):
            return at.wrong(node, f"must map hosts to settings, not {describe(node)}", "such as {registry.internal: …}")
        hosts: dict[str, Any] = {}
        for name, key, value in distinct_entries(node, at):
            here = at.key(name)
            try:
                asked = checked_authority(here.path, name)
            except Invalid as error:
                here.wrong(key, error.message, error.hint)
                continue
            if asked in hosts:
                here.wrong(key, f"is {asked!r}, which is described already", "describe each host once")
            hosts[asked] = HOST.read(value, here)
        return WRONG if any(host is WRONG for host in hosts.values()) else hosts

    def plain(self, value: Mapping[str, Host]) -> Any:
        return {name: HOST.plain(host) for name, host in value.items()} or None

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": HOST.schema()}


@dataclass(frozen=True, slots=True)
class _SecretWords:
    """As written: exactly one of the three."""

    env: str | None = None
    file: str | None = None
    command: CommandOutput | None = None


def _place(words: _SecretWords) -> SecretPlace:
    given = [word for word in (words.env, words.file, words.command) if word is not None]
    if len(given) != 1:
        hint = "write {env: NAME}, {file: PATH} or {command: [PROGRAM, …]}"
        raise Invalid("", f"has {len(given)} places instead of one", hint)
    if words.env is not None:
        return FromEnvironment(words.env)
    if words.file is not None:
        return FromFile(words.file)
    assert words.command is not None
    return FromCommand(words.command.argv)


def _place_words(place: SecretPlace | None) -> _SecretWords | None:
    match place:
        case None:
            return None
        case FromEnvironment(name):
            return _SecretWords(env=name)
        case FromFile(path):
            return _SecretWords(file=path)
        case FromCommand(argv):
            return _SecretWords(command=CommandOutput(argv))


def _proxy(key: str, text: str) -> str:
    """A proxy is a scheme, a host and a port; who signs in to it is said under `hosts`."""
    scheme, separator, rest = text.rstrip("/").partition("://")
    hint = "write it like http://proxy.internal:3128"
    if scheme not in ("http", "https") or not separator:
        raise Invalid(key, "is not an http or https URL", hint)
    if "@" in rest:
        hint = "give username and password by reference, under hosts, at the proxy's host and port"
        raise Invalid(key, "holds a user or a password", hint)
    checked_authority(key, rest)
    return f"{scheme}://{rest}"


def _source(key: str, text: str) -> str:
    scheme, separator, rest = text.partition(":")
    if not separator or not rest.strip("/") or not scheme.isalnum():
        raise Invalid(key, f"{text[:80]!r} names no place", "such as s3://models or file:/mnt/mlflow")
    return text


@dataclass(frozen=True, slots=True)
class ByReference:
    """Where a secret is. One that stands there itself is refused, and not repeated in the message."""

    place: Translated

    def read(self, node: Node, at: At) -> Any:
        if not isinstance(node, MapNode):
            hint = "write {env: NAME}, {file: PATH} or {command: [PROGRAM, …]}"
            return at.wrong(node, "must say where the secret is, not what it is", hint)
        return self.place.read(node, at)

    def plain(self, value: Any) -> Any:
        return self.place.plain(value)

    def schema(self) -> dict[str, Any]:
        return self.place.schema()


_PLACE = Translated(
    Section(
        _SecretWords,
        (
            Key("env", "env", Text(), "The environment variable that holds it."),
            Key("file", "file", FilePath(), "The file that holds it."),
            Key(
                "command", "command", Maybe(CommandWords()), "The program that prints it, with its arguments; no shell."
            ),
        ),
    ),
    _place,
    _place_words,
)
SECRET = ByReference(_PLACE)

HOST = Section(
    Host,
    (
        Key("username", "username", SECRET, "Who signs in, by reference."),
        Key("password", "password", SECRET, "Its password, by reference."),
        Key("token", "token", SECRET, "A bearer token instead, by reference."),
        Key("ca_bundle", "ca_bundle", FilePath(), "The authorities that may vouch for this host, instead of others."),
        Key("client_certificate", "client_certificate", FilePath(), "What this machine shows to the host (PEM)."),
        Key("client_key", "client_key", FilePath(), "Its key; left out when the certificate's file holds it."),
        Key("plain_http", "is_plain_http", Flag(), "The host may be asked without TLS."),
    ),
)

TIMEOUTS = Section(
    Timeouts,
    (
        Key("connect", "connect_s", Duration(0.1, 600), "How long a connection may take to be made."),
        Key("read", "read_s", Duration(0.1, 3600), "How long a server may be silent, or take for 64 KiB of a file."),
        Key("request", "request_s", Duration(0.1, 3600), "How long a question may take, with all its repetitions."),
    ),
)

LIMITS = Section(
    SourceLimits,
    (
        Key("max_files", "max_files", Whole(1, 1_000_000), "The most files that a model may have."),
        Key("max_size", "max_bytes", Size(1, 2**50), "The largest size of all its files together."),
    ),
)

SIGNATURES = Section(
    Signatures,
    (
        Key(
            "policy",
            "policy",
            OneOf(SignaturePolicy),
            "Whether models must be signed: require, warn or off.",
            is_required=True,
        ),
        Key("keys", "keys", ListOf(FilePath(), _MAX_ENTRIES), "Public keys of those who may sign (PEM)."),
    ),
)


@dataclass(frozen=True, slots=True)
class _Server:
    url: str


def _server(key: str, description: str) -> Translated:
    return Translated(
        Section(_Server, (Key(key, "url", Url(), description, is_required=True),)),
        lambda written: written.url.rstrip("/"),
        lambda url: _Server(url) if url else None,
    )


def _word(key: str, text: str) -> str:
    if not text.replace("-", "").isalnum() or not text.isascii():
        raise Invalid(key, f"{text[:80]!r} is not a name", "letters, digits and hyphens")
    return text


def _storage(*keys: Key) -> Section:
    endpoint = Key("endpoint", "endpoint", Checked(checked_url), "Where the store is, instead of the public cloud.")
    anonymous = Key("anonymous", "is_anonymous", Flag(), "Nothing is signed: for public buckets.")
    return Section(ObjectStorage, (endpoint, *keys, anonymous))


def _direct(key: str, text: str) -> str:
    DirectHosts.of((text,))
    return text


_DIRECT_ENTRIES = ListOf(Checked(_direct), _MAX_ENTRIES)


@dataclass(frozen=True, slots=True)
class _Direct:
    """`no_proxy`: a list of entries that are looked at together."""

    def read(self, node: Node, at: At) -> Any:
        entries = _DIRECT_ENTRIES.read(node, at)
        return WRONG if entries is WRONG else DirectHosts.of(entries)

    def plain(self, value: DirectHosts) -> Any:
        networks = [str(network) for network in value.networks]
        return sorted(value.names) + [end for end in value.suffixes if end[1:] not in value.names] + networks or None

    def schema(self) -> dict[str, Any]:
        return _DIRECT_ENTRIES.schema()


SETTINGS = Section(
    RegistrySettings,
    (
        Key("proxy", "proxy", Checked(_proxy), "The proxy for every host that no_proxy does not name."),
        Key("no_proxy", "direct", _Direct(), "Hosts that are asked directly: names, .suffixes, addresses, networks."),
        Key("ca_bundle", "ca_bundle", FilePath(), "Certificate authorities (PEM), instead of the public ones."),
        Key(
            "allowed_hosts",
            "allowed_hosts",
            Maybe(ListOf(Checked(checked_pattern), _MAX_ENTRIES)),
            "Hosts that may be asked, also by redirects, beside those named in other settings: host, host:port, "
            "*.suffix, or * for all.",
        ),
        Key(
            "allowed_sources",
            "allowed_sources",
            ListOf(Checked(_source), _MAX_ENTRIES),
            "Where a registry may say that its files are: s3://bucket, s3://bucket/folder, file:/mnt/share.",
        ),
        Key("hosts", "hosts", ByHost(), "What is special about single hosts, by name, or name:port if not the usual."),
        Key("mlflow", "mlflow_server", _server("tracking_server", "Where models:/ are looked up."), "MLflow."),
        Key("huggingface", "huggingface_server", _server("endpoint", "Instead of the public hub."), "Hugging Face."),
        Key(
            "s3",
            "s3",
            _storage(Key("region", "region", Checked(_word), "Of the buckets.")),
            "S3 and what speaks like it.",
        ),
        Key("gs", "gs", _storage(), "Google Cloud Storage."),
        Key(
            "az", "az", _storage(Key("account", "account", Checked(_word), "Of the containers.")), "Azure Blob Storage."
        ),
        Key("limits", "limits", LIMITS, "Bounds for one model."),
        Key("timeouts", "timeouts", TIMEOUTS, "When to give up waiting."),
        Key("signatures", "signatures", SIGNATURES, "Who must have signed a model."),
        Key(
            "allow_python_models",
            "allow_python_models",
            Flag(),
            "A Triton repository may bring Python code (model.py): trust everybody who can publish one.",
        ),
    ),
)
