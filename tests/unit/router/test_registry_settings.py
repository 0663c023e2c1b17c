"""registries.yaml: what it may say, and what is decided by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from router.domain.errors import Invalid
from router.models.settings import (
    DirectHosts,
    FromCommand,
    FromEnvironment,
    FromFile,
    Host,
    ObjectStorage,
    RegistrySettings,
    authority,
)
from router.models.settings_file import settings_in
from router.models.settings_reading import SETTINGS, read_settings
from router.models.signing import SignaturePolicy
from router.spec.nodes import from_plain
from router.spec.problems import SpecProblems
from router.spec.reading import At, Report

WHOLE = b"""
proxy: http://Proxy.internal:3128/
no_proxy: [.internal, build.example.com, 10.0.0.0/8, "fd00::/8"]
ca_bundle: certificates/ours.pem
allowed_hosts: [ghcr.io, "*.blob.core.windows.net"]
allowed_sources: ["s3://models/fraud", "file:/mnt/mlflow"]
hosts:
  Registry.internal:5000:
    username: {env: REGISTRY_USER}
    password: {file: /run/secrets/registry}
    ca_bundle: /etc/registry.pem
  mlflow.internal:443:
    token: {command: [token, --for, mlflow]}
    client_certificate: me.pem
    client_key: me.key
  10.1.2.3:8080: {plain_http: true}
mlflow: {tracking_server: "https://mlflow.internal/"}
huggingface: {endpoint: "https://hub.internal"}
s3: {endpoint: "https://minio.internal:9000", region: eu-central-1}
az: {account: ada, anonymous: true}
limits: {max_files: 50, max_size: 2Gi}
timeouts: {connect: 5s, read: 30s, request: 1m}
signatures: {policy: require, keys: [ann.pem]}
"""


def settings(text: bytes) -> RegistrySettings:
    return read_settings(text, "registries.yaml", "/etc/crossfade")


def problems(text: bytes) -> str:
    with pytest.raises(SpecProblems) as caught:
        settings(text)
    return str(caught.value)


def test_everything_that_is_written_arrives_and_paths_begin_at_the_folder_of_the_file() -> None:
    read = settings(WHOLE)
    assert read.proxy == "http://Proxy.internal:3128"
    assert read.ca_bundle == "/etc/crossfade/certificates/ours.pem"
    assert read.hosts["registry.internal:5000"] == Host(
        FromEnvironment("REGISTRY_USER"), FromFile("/run/secrets/registry"), ca_bundle="/etc/registry.pem"
    )
    assert read.hosts["mlflow.internal"] == Host(
        token=FromCommand(("token", "--for", "mlflow")),
        client_certificate="/etc/crossfade/me.pem",
        client_key="/etc/crossfade/me.key",
    )
    assert read.hosts["10.1.2.3:8080"].is_plain_http
    assert read.storage("s3") == ObjectStorage("https://minio.internal:9000", region="eu-central-1")
    assert (read.storage("gs"), read.storage("az")) == (
        ObjectStorage(),
        ObjectStorage(account="ada", is_anonymous=True),
    )
    assert read.is_host_allowed("minio.internal:9000")
    assert (read.mlflow_server, read.huggingface_endpoint) == ("https://mlflow.internal", "https://hub.internal")
    assert (read.limits.max_files, read.limits.max_bytes) == (50, 2 * 1024**3)
    assert (read.timeouts.connect_s, read.timeouts.read_s, read.timeouts.request_s) == (5.0, 30.0, 60.0)
    assert (read.signatures.policy, read.signatures.keys) == (SignaturePolicy.REQUIRE, ("/etc/crossfade/ann.pem",))


def test_what_was_read_can_be_written_and_read_again() -> None:
    read = settings(WHOLE)
    assert SETTINGS.read(from_plain(SETTINGS.plain(read)), At("", Report(0, "/"))) == read


def test_nothing_written_means_the_defaults() -> None:
    assert settings(b"") == settings(b"# nothing yet\n") == RegistrySettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"proxi: http://p:1", "registries.yaml:1:1: proxi: is not a key here (did you mean 'proxy'?)"),
        (b"\nhosts:\n  a.b:\n    pasword: {env: X}", "registries.yaml:4:5: hosts.a.b.pasword: is not a key here"),
        (b"hosts:\n  a.b: {token: s3cret}", "hosts.a.b.token: must say where the secret is, not what it is"),
        (b"hosts:\n  a.b: {token: {env: A, file: b}}", "has 2 places instead of one"),
        (b"hosts:\n  a.b: {token: {}}", "has 0 places instead of one"),
        (b"hosts:\n  a.b: {token: {env: A}, username: {env: B}}", "cannot stand beside username and password"),
        (b"hosts:\n  a.b: {password: {env: A}}", "has no username"),
        (b"hosts:\n  a.b: {client_key: k}", "has no client_certificate"),
        (b"hosts:\n  https://a.b: {plain_http: true}", "'https://a.b' is not a host"),
        (b"hosts:\n  a.b: {plain_http: true}\n  A.b:443: {plain_http: true}", "which is described already"),
        (b"proxy: http://ann:pw@p:1", "give username and password by reference"),
        (b"proxy: socks5://p:1", "is not an http or https URL"),
        (b"no_proxy: ['10.0.0.0/33']", "'10.0.0.0/33' is not a name or a network"),
        (b"allowed_hosts: ['*a.b']", "'*a.b' is not a host"),
        (b"allowed_sources: [models]", "'models' names no place"),
        (b"signatures: {policy: require}", "keys: is missing with policy require"),
        (b"signatures: {policy: always, keys: [a]}", "must be one of require, warn, off"),
        (b"timeouts: {read: 30}", "did you mean '30s'?"),
        (b"mlflow: {tracking_server: 'https://ann:pw@m'}", "holds a user or a password"),
        (b"a: 1\n---\nb: 2", "holds more than one document"),
        (b"- a", "must be a mapping, not a list"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_to_write(text: bytes, message: str) -> None:
    told = problems(text)
    assert message in told
    assert "s3cret" not in told


def test_every_mistake_is_told_at_once() -> None:
    assert len(problems(b"proxi: x\nlimits: {max_files: 0}\nca_bundle: 7").splitlines()) == 3


def test_a_secret_written_by_mistake_is_not_repeated_whole() -> None:
    assert "pw" not in problems(b"proxy: http://ann:pw@p:1").replace("give username and password", "")


@pytest.mark.parametrize(
    ("host", "is_direct"),
    [
        ("registry.internal", True),
        ("internal", False),
        ("build.example.com", True),
        ("x.build.example.com", True),
        ("notbuild.example.com", False),
        ("10.200.1.1", True),
        ("11.0.0.1", False),
        ("fd00::5", True),
        ("::ffff:10.1.1.1", True),
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
    ],
)
def test_no_proxy_names_what_is_below_it_suffixes_and_networks(host: str, is_direct: bool) -> None:
    direct = DirectHosts.of((".internal", "build.example.com", "10.0.0.0/8", "fd00::/8"))
    read = RegistrySettings(proxy="http://p:1", direct=direct)
    assert (host in direct) is is_direct
    assert read.proxy_for(host) == ("" if is_direct else "http://p:1")


@pytest.mark.parametrize(
    ("asked", "is_allowed"),
    [
        ("ghcr.io", True),
        ("ghcr.io:8443", False),
        ("x.ghcr.io", False),
        ("account.blob.core.windows.net", True),
        ("blob.core.windows.net", False),
        ("evilblob.core.windows.net", False),
        ("registry.internal:5000", True),
        ("registry.internal", False),
        ("mlflow.internal", True),
        ("hub.internal", True),
        ("huggingface.co", False),
    ],
)
def test_only_hosts_that_the_operator_named_are_asked(asked: str, is_allowed: bool) -> None:
    assert settings(WHOLE).is_host_allowed(asked) is is_allowed


def test_without_a_list_only_the_public_hub_is_asked_and_a_star_allows_everything() -> None:
    assert RegistrySettings().is_host_allowed("cdn-lfs.hf.co")
    assert not RegistrySettings().is_host_allowed("example.com")
    assert settings(b"allowed_hosts: ['*']").is_host_allowed("example.com:99")
    assert not settings(b"allowed_hosts: []").is_host_allowed("huggingface.co")


@pytest.mark.parametrize(
    ("place", "is_allowed"),
    [
        ("s3://models/fraud/7", True),
        ("s3://models/fraud", True),
        ("s3://models/fraudulent", False),
        ("s3://models/fraud/../secret", False),
        ("s3://attacker/fraud", False),
        ("file:/mnt/mlflow/1", True),
        ("file:/etc/passwd", False),
    ],
)
def test_a_registry_may_send_us_only_to_places_that_begin_as_allowed(place: str, is_allowed: bool) -> None:
    assert settings(WHOLE).is_source_allowed(place) is is_allowed


def test_authorities_have_the_port_only_when_it_is_not_the_usual_one() -> None:
    assert authority("https", "Ghcr.IO", 443) == "ghcr.io"
    assert authority("http", "a", 443) == "a:443"
    assert authority("https", "::1", 5000) == "[::1]:5000"


def test_the_example_is_read_without_a_mistake() -> None:
    file = Path(__file__).parent.parent.parent.parent / "deploy/examples/registries.yaml"
    assert settings_in(file, is_required=True).hosts.keys() >= {"registry.internal:5000", "mlflow.internal"}


def test_a_file_that_is_not_there_is_missed_only_when_it_was_named(tmp_path: Path) -> None:
    assert settings_in(tmp_path / "registries.yaml", is_required=False) == RegistrySettings()
    with pytest.raises(Invalid, match=r"--registries: .*No such file"):
        settings_in(tmp_path / "registries.yaml", is_required=True)
