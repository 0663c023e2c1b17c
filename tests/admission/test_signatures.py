"""Signatures over models: the format as its own tool writes it, the keys, and what a signature must cover."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from adapters.model_signatures import KeyVerifier
from benchmarks.environments import Environment, ensure
from router.domain.errors import Invalid
from router.models.admission import AdmissionRules
from router.models.ports import AdmissionRefused, Admitted, Candidate
from router.models.signing import PAYLOAD_TYPE, PREDICATE_TYPE, STATEMENT_TYPE, NotSigned, SignaturePolicy, check_signed
from tests.admission.folders import QUICK, gate, tree_of, written
from tests.admission.graphs import relu

RECORDED = Path(__file__).parent / "recorded"
MODEL_SIGNING = Environment("model-signing", ("model-signing==1.1.1", "pyopenssl==26.4.0"))

Sign = Callable[[bytes], bytes]
P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def model_signing() -> Path:
    return ensure(MODEL_SIGNING).folder / "bin" / "model_signing"


def pem_of(key: Any, path: Path) -> str:
    """Write the public key, and say where."""
    public = key.public_key()
    path.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return str(path)


def statement(files: dict[str, bytes], **changed: Any) -> dict[str, Any]:
    resources = [
        {"name": name, "algorithm": "sha256", "digest": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(each["digest"]) for each in resources)).hexdigest()
    said = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": "model", "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": {"method": "files", "hash_type": "sha256"}, "resources": resources},
    }
    return said | changed


def by_p256(data: bytes) -> bytes:
    return P256.sign(data, ec.ECDSA(hashes.SHA256()))


def bundle(payload: object, sign: Sign = by_p256, payload_type: str = PAYLOAD_TYPE) -> bytes:
    content = json.dumps(payload).encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(payload_type), payload_type.encode(), len(content), content)
    envelope = {
        "payload": base64.b64encode(content).decode(),
        "payloadType": payload_type,
        "signatures": [{"sig": base64.b64encode(sign(signed)).decode(), "keyid": ""}],
    }
    return json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}).encode()


def sign_with(model_signing: Path, folder: Path) -> None:
    """Let the tool sign `model` in the folder."""
    private = P256.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "private.pem").write_bytes(private)
    command = [model_signing, "sign", "key", "model", "--private_key", "private.pem", "--signature", "model/model.sig"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)


FILES = {"model.onnx": relu(), "labels.txt": b"cat\ndog"}


async def admitted_with(
    policy: SignaturePolicy, folder: Path, files: dict[str, bytes], keys: tuple[str, ...] = ()
) -> Admitted:
    rules = AdmissionRules(policy=policy, trial=QUICK)
    candidate: Candidate = written(folder / "model", files)
    return await gate(rules, keys or (pem_of(P256, folder / "team.pem"),)).admit(candidate)


def note(admitted: Admitted) -> str:
    return dict(admitted.checks)["signature"]


def test_a_recorded_signature_of_the_format_s_own_tool_is_verified() -> None:
    signed = KeyVerifier((str(RECORDED / "signer.pem"),)).verify((RECORDED / "model" / "model.sig").read_bytes())
    assert signed.signer.startswith("signer.pem (sha256:")
    assert sorted(signed.files) == ["1/config.json", "labels.txt"]
    check_signed(signed, tree_of(RECORDED / "model"))


async def test_a_model_that_the_format_s_own_tool_signs_here_is_admitted(model_signing: Path, tmp_path: Path) -> None:
    written(tmp_path / "model", FILES)
    sign_with(model_signing, tmp_path)
    admitted = await admitted_with(SignaturePolicy.REQUIRE, tmp_path, {})
    assert admitted.signer.startswith("team.pem (sha256:")
    assert note(admitted) == f"all files are signed by {admitted.signer}"
    with pytest.raises(AdmissionRefused, match=r"signature: 'labels.txt' is not the file that team.pem .* signed"):
        await admitted_with(SignaturePolicy.REQUIRE, tmp_path, {"labels.txt": b"dog\ncat"})


def _rsa(key: rsa.RSAPrivateKey) -> Sign:
    sha256 = hashes.SHA256()
    return lambda data: key.sign(data, padding.PSS(padding.MGF1(sha256), padding.PSS.DIGEST_LENGTH), sha256)


def test_every_kind_of_key_verifies_what_it_signed_and_nothing_else(tmp_path: Path) -> None:
    p384, edwards = ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
    rsa_key = rsa.generate_private_key(65537, 2048)
    signs: list[tuple[Any, Sign]] = [
        (P256, by_p256),
        (p384, lambda data: p384.sign(data, ec.ECDSA(hashes.SHA384()))),
        (edwards, edwards.sign),
        (rsa_key, _rsa(rsa_key)),
    ]
    keys = [pem_of(key, tmp_path / f"{at}.pem") for at, (key, _) in enumerate(signs)]
    for at, (_, sign) in enumerate(signs):
        good = bundle(statement(FILES), sign)
        assert KeyVerifier(tuple(keys)).verify(good).signer.startswith(f"{at}.pem")
        others = keys[:at] + keys[at + 1 :]
        with pytest.raises(NotSigned, match="by none of the keys"):
            KeyVerifier(tuple(others)).verify(good)


def _tampered(good: bytes) -> bytes:
    document = json.loads(good)
    payload = base64.b64decode(document["dsseEnvelope"]["payload"])
    changed = payload.replace(b"labels.txt", b"labels.pkl")
    document["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
    return json.dumps(document).encode()


SHARDS = {"serialization": {"method": "shards"}, "resources": []}
MD5 = {"serialization": {"method": "files"}, "resources": [{"name": "a", "algorithm": "md5", "digest": "00"}]}
TWICE = {
    "serialization": {"method": "files"},
    "resources": [{"name": "a", "algorithm": "sha256", "digest": "00" * 32}] * 2,
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not json", "it is no Sigstore bundle"),
        (b"[" * 100_000, "it is no Sigstore bundle"),
        (b'{"dsseEnvelope": {"payload": "%%", "payloadType": "", "signatures": []}}', "it is no Sigstore bundle"),
        (bundle(statement(FILES), payload_type="text/plain"), "it signs 'text/plain'"),
        (bundle(statement(FILES), lambda data: b""), "it is by none of the keys"),
        (_tampered(bundle(statement(FILES))), "it is by none of the keys"),
        (bundle([]), "its statement is not one about a model"),
        (bundle(statement(FILES, predicateType="https://slsa.dev/provenance/v1")), "is a 'https://slsa.dev/prov"),
        (bundle(statement(FILES, predicate=SHARDS)), "it lists 'shards', not files"),
        (bundle(statement(FILES, predicate=MD5)), "digests of 'md5'"),
        (bundle(statement(FILES, predicate=TWICE)), "it lists 'a' twice"),
        (bundle(statement(FILES, subject=statement({})["subject"])), "are not those of its own subject"),
    ],
)
async def test_what_is_no_signature_is_refused_with_its_reason(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(AdmissionRefused) as refused:
        await admitted_with(SignaturePolicy.REQUIRE, tmp_path, {**FILES, "model.sig": content})
    assert str(refused.value).startswith("signature: 'model.sig' is no signature that counts: ")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("signed", "words"),
    [
        ({**FILES, "gone.txt": b""}, "'gone.txt' is signed by team.pem .* and is missing"),
        ({"model.onnx": relu()}, "'labels.txt' is not among the files that team.pem .* signed"),
        ({**FILES, "labels.txt": b"dog"}, "'labels.txt' is not the file that team.pem"),
        ({**FILES, "../../up": b""}, "'../../up' is signed by team.pem .* and is missing"),
    ],
)
async def test_a_signature_over_other_files_is_refused(signed: dict[str, bytes], words: str, tmp_path: Path) -> None:
    files = {**FILES, "model.sig": bundle(statement(signed))}
    with pytest.raises(AdmissionRefused, match=f"^signature: {words}"):
        await admitted_with(SignaturePolicy.REQUIRE, tmp_path, files)


async def test_a_model_without_a_signature_is_refused_noted_or_let_in_by_the_policy(tmp_path: Path) -> None:
    with pytest.raises(AdmissionRefused, match=r"the model has no signature \(model.sig\); sign it with a key that"):
        await admitted_with(SignaturePolicy.REQUIRE, tmp_path, FILES)
    warned = await admitted_with(SignaturePolicy.WARN, tmp_path, FILES)
    assert warned.signer == ""
    assert note(warned) == "none that counts, and the policy only warns: the model has no signature (model.sig)"
    ignored = await admitted_with(SignaturePolicy.OFF, tmp_path, {**FILES, "model.sig": b"{}"})
    assert note(ignored) == "not looked at: the policy is off"


async def test_one_good_signature_among_several_is_enough(tmp_path: Path) -> None:
    files = {**FILES, "model.sig": b"{}", "team.sig": bundle(statement(FILES))}
    admitted = await admitted_with(SignaturePolicy.REQUIRE, tmp_path, files)
    assert admitted.signer.startswith("team.pem")


async def test_a_signature_of_a_single_file_names_no_file(tmp_path: Path) -> None:
    files = {"model.onnx": relu(), "model.sig": bundle(statement({".": relu()}))}
    assert (await admitted_with(SignaturePolicy.REQUIRE, tmp_path, files)).signer


async def test_signatures_in_folders_below_must_be_signed_like_any_file(tmp_path: Path) -> None:
    files = {**FILES, "model.sig": bundle(statement(FILES)), "a/more.sig": b"{}"}
    with pytest.raises(AdmissionRefused, match=r"'a/more.sig' is not among the files"):
        await admitted_with(SignaturePolicy.REQUIRE, tmp_path, files)


def test_keys_that_cannot_be_used_are_refused_when_the_gateway_starts(tmp_path: Path) -> None:
    small = rsa.generate_private_key(65537, 1024)
    cases = {
        "no.pem": "cannot be read: No such file",
        str(RECORDED / "model" / "labels.txt"): "is not a public key in PEM",
        pem_of(small, tmp_path / "small.pem"): "has 1024 bits",
        pem_of(ec.generate_private_key(ec.SECP256K1()), tmp_path / "coin.pem"): "is on the curve secp256k1",
        pem_of(dsa.generate_private_key(2048), tmp_path / "dsa.pem"): "is of a kind that signs no models",
    }
    for path, words in cases.items():
        with pytest.raises(Invalid, match=words):
            KeyVerifier((path,))


def test_a_signature_is_checked_against_the_tree_it_came_with(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "model", tmp_path / "model")
    (tmp_path / "model" / "more.txt").write_text("more")
    signed = KeyVerifier((str(RECORDED / "signer.pem"),)).verify((RECORDED / "model" / "model.sig").read_bytes())
    with pytest.raises(AdmissionRefused, match=r"'more.txt' is not among the files"):
        check_signed(signed, tree_of(tmp_path / "model"))
    check_signed(
        replace(signed, files={**signed.files, "more.txt": hashlib.sha256(b"more").hexdigest()}),
        tree_of(tmp_path / "model"),
    )
