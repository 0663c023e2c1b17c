"""The scoring ports as sslyze sees them."""

from __future__ import annotations

import json
from pathlib import Path

from router.domain.tls import ListenerTls
from tests.certificates import TestCa
from tests.envoy.data_plane import data_plane
from tests.servers.inspectors import inspect

SCANS = (
    *("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--compression", "--reneg"),
    *("--heartbleed", "--openssl_ccs", "--fallback", "--robot", "--elliptic_curves"),
)


async def test_nothing_weak_is_offered(tmp_path: Path) -> None:
    ca, found = TestCa.in_folder(tmp_path), tmp_path / "found.json"
    async with data_plane(tls=ListenerTls((ca.server("server"),)), authority=ca.file) as plane:
        address = f"127.0.0.1:{plane.gateway.http_port}"
        options = ("--mozilla_config=disable", f"--json_out={found}", *SCANS)
        code, said = await inspect("sslyze", *options, address, folder=tmp_path)
    assert code == 0, said
    (scan,) = json.loads(found.read_text())["server_scan_results"]
    results = {name: part["result"] for name, part in scan["scan_result"].items() if part["status"] == "COMPLETED"}
    assert len(results) == len(SCANS), said

    suites = {
        version: {
            suite["cipher_suite"]["name"] for suite in results[f"{version}_cipher_suites"]["accepted_cipher_suites"]
        }
        for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3")
    }
    assert [version for version, accepted in suites.items() if accepted] == ["tls_1_2", "tls_1_3"]
    for name in suites["tls_1_2"]:  # forward secrecy, and encryption that authenticates
        assert name.startswith("TLS_ECDHE_"), name
        assert "_GCM_" in name or "_POLY1305_" in name, name
    assert {curve["name"] for curve in results["elliptic_curves"]["supported_curves"]} <= {
        *("X25519", "secp256r1", "secp384r1"),
    }
    assert results["session_renegotiation"]["client_renegotiations_success_count"] == 0
    assert not results["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert not results["tls_compression"]["supports_compression"]
    assert not results["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert results["robot"]["robot_result"].startswith("NOT_VULNERABLE")
    assert results["tls_fallback_scsv"]["supports_fallback_scsv"]
