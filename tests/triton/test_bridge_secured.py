"""A real Triton that speaks TLS, wants a certificate of its clients, and a token before it answers: a bridge to it, and
how mode direct finds out whether it is ready."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import pytest_asyncio

from adapters.triton.bridge import TritonBridge
from adapters.triton.secured import why_not_ready_over_grpc
from router.domain.tls import CertificateFiles
from router.domain.triton import RunningTriton, TritonMode, TritonServer
from router.domain.triton_tls import TritonTls
from router.domain.triton_token import TritonToken
from serving.errors import ScoringError, Unavailable
from tests.certificates import TestCa
from tests.envoy.waiting import DEADLINE_S, eventually
from tests.triton.models import write_repository
from tests.triton.server import Triton, started_triton

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "identity_fp32"
HEADER, SECRET = "x-triton-token", "a-token-of-256-bits-or-so"
NAME = "triton.example.com"
ONE = {"INPUT0": np.array([[1.5, 2.5]], dtype=np.float32)}


@dataclass(slots=True)
class Secured:
    """A Triton whose gRPC port speaks TLS with whom `ca` has signed, and wants the token that is in `token`."""

    triton: Triton
    ca: TestCa
    other_ca: TestCa
    token: Path

    def tls(self, shown: CertificateFiles | None = None, ca: TestCa | None = None, name: str = NAME) -> TritonTls:
        """By default what is right; `shown` has no key where nothing is to be shown."""
        files = shown or self.ca.client("bridge", ["bridge.example.com"])
        return TritonTls(str((ca or self.ca).file), files.certificate, files.key, name)

    def running(self, tls: TritonTls, token: Path | None = None) -> RunningTriton:
        server = TritonServer("127.0.0.1", self.triton.ports.http, self.triton.ports.grpc)
        restricted = TritonToken(HEADER, str(token or self.token))
        return RunningTriton((server,), MODEL, mode=TritonMode.BRIDGE, tls=tls, restricted=restricted)

    def bridge(self, tls: TritonTls, token: Path | None = None) -> TritonBridge:
        return TritonBridge(self.running(tls, token))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("secured-bridge")
    (folder / "other").mkdir()
    ca, other_ca = TestCa.in_folder(folder), TestCa.in_folder(folder / "other", "another CA")
    shown = ca.server("triton", [NAME, "127.0.0.1"])
    options = (
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={shown.certificate}",
        f"--grpc-server-key={shown.key}",
        f"--grpc-root-cert={ca.file}",
        f"--grpc-restricted-protocol=health,metadata,inference,shared-memory,model-config:{HEADER}={SECRET}",
    )
    token = folder / "token"
    token.write_text(f"{HEADER}={SECRET}\n")
    async with started_triton(write_repository(folder / "repository", MODEL), *options) as triton:
        yield Secured(triton, ca, other_ca, token)


@contextmanager
def closing(bridge: TritonBridge) -> Iterator[TritonBridge]:
    try:
        yield bridge
    finally:
        bridge.close()


async def connected(bridge: TritonBridge) -> None:
    await eventually(lambda: asyncio.to_thread(bridge.connect), "")


async def troubled(bridge: TritonBridge, words: str) -> None:
    """It says why none answers; that one was late is no answer."""
    await eventually(lambda: asyncio.to_thread(lambda: words in bridge.connect()))


@pytest.mark.parametrize("name", [NAME, "127.0.0.1"])
async def test_what_is_asked_by_tls_is_answered(secured: Secured, name: str) -> None:
    with closing(secured.bridge(secured.tls(name=name))) as bridge:
        await connected(bridge)
        (answer,) = bridge.run(ONE, ["OUTPUT0"])
    assert answer.tolist() == ONE["INPUT0"].tolist()


async def test_whoever_is_not_trusted_is_not_asked_and_it_is_said_whose_certificate_it_was(secured: Secured) -> None:
    stranger = secured.other_ca.client("stranger", ["stranger.example.com"])
    for tls, reason in (
        (secured.tls(ca=secured.other_ca), "its certificate is not trusted"),
        (secured.tls(name="other.example.com"), "certificate is not valid for 'other.example.com'"),
        (secured.tls(stranger), "our certificate"),
        (secured.tls(CertificateFiles("", "")), "our certificate"),
    ):
        with closing(secured.bridge(tls)) as bridge:
            await troubled(bridge, reason)


async def test_files_that_cannot_be_used_are_named_and_good_ones_in_their_place_are_taken(
    secured: Secured, tmp_path: Path
) -> None:
    good, other = secured.ca.client("good", ["good.example.com"]), secured.ca.client("rival", ["rival.example.com"])
    files = CertificateFiles(str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem"))
    with closing(secured.bridge(secured.tls(files))) as bridge:
        assert files.certificate in await asyncio.to_thread(bridge.connect)
        shutil.copyfile(good.certificate, files.certificate)
        shutil.copyfile(other.key, files.key)
        assert "key values mismatch" in await asyncio.to_thread(bridge.connect)
        shutil.copyfile(good.key, files.key)
        await connected(bridge)


async def test_what_is_new_in_the_files_is_shown_without_losing_a_request_and_what_is_broken_is_not(
    secured: Secured, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = CertificateFiles(str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem"))

    def put(made: CertificateFiles) -> None:
        shutil.copyfile(made.certificate, files.certificate)
        shutil.copyfile(made.key, files.key)

    put(secured.ca.client("first", ["first.example.com"]))
    with closing(secured.bridge(secured.tls(files))) as bridge:
        await connected(bridge)
        with asking(bridge) as failures:
            put(secured.ca.client("second", ["second.example.com"]))
            await eventually(lambda: connections(secured.triton), 2)  # the first one ends when its calls have ended
            shutil.copyfile(files.certificate, files.key)
            await eventually(lambda: files.key in caplog.text)
            assert bridge.trouble == ""
        assert failures == []

        put(secured.other_ca.client("stranger", ["stranger.example.com"]))
        await eventually(lambda: "our certificate" in bridge.trouble)
        with pytest.raises(Unavailable, match="our certificate"):
            await asyncio.to_thread(bridge.run, ONE, ["OUTPUT0"])
        put(secured.ca.client("third", ["third.example.com"]))
        await eventually(lambda: bridge.trouble, "")
        assert len(bridge.run(ONE, ["OUTPUT0"])) == 1
    await eventually(lambda: connections(secured.triton), 0)


async def test_with_another_token_it_is_said_what_triton_wants_and_the_right_one_in_its_place_is_taken(
    secured: Secured, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    with closing(secured.bridge(secured.tls(), token)) as bridge:
        assert f"{token} cannot be read: No such file" in await asyncio.to_thread(bridge.connect)
        shutil.copyfile(secured.ca.file, token)
        trouble = await asyncio.to_thread(bridge.connect)
        assert trouble.endswith(f"{token} does not hold {HEADER}=VALUE, as Triton's option has it")
        _write(token, f"{HEADER}=another")
        await troubled(bridge, "restricted")
        _write(token, f"{HEADER}={SECRET}")
        await connected(bridge)
        assert len(bridge.run(ONE, ["OUTPUT0"])) == 1


def _write(path: Path, text: str) -> None:
    path.write_text(text)


async def test_mode_direct_shows_the_token_by_tls_too_and_says_when_it_is_the_token_that_is_wrong(
    secured: Secured, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    _write(wrong, f"{HEADER}=another")

    async def why_not(token: Path) -> str:
        tls = secured.tls()
        triton = replace(secured.running(tls, token), mode=TritonMode.DIRECT)
        return await why_not_ready_over_grpc(secured.triton.address, triton, tls, DEADLINE_S)

    assert await why_not(secured.token) == ""
    assert "protocol is restricted" in await why_not(wrong)
    assert f"{tmp_path} cannot be read" in await why_not(tmp_path)


@contextmanager
def asking(bridge: TritonBridge) -> Iterator[list[Exception]]:
    """One request after another, until the end. What failed."""
    failures: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                bridge.run(ONE, ["OUTPUT0"], time.monotonic() + DEADLINE_S)
            except ScoringError as error:
                failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield failures
    finally:
        done.set()
        thread.join()


def connections(triton: Triton) -> int:
    """Of this process to Triton's gRPC port."""
    found = psutil.Process().net_connections("tcp")
    return sum(1 for one in found if one.raddr and one.raddr.port == triton.ports.grpc and one.status == "ESTABLISHED")
