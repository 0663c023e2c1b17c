"""ONNX Runtime tells nobody what it runs, wherever it is started."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import ctypes, sys
import adapters.onnx.session
assert "onnxruntime" in sys.modules
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(getenv(b"ORT_DISABLE_TELEMETRY").decode())
"""


def test_a_process_without_any_environment_of_ours_has_the_telemetry_off() -> None:
    """As ONNX Runtime asks: it is C++ that reads the variable."""
    ran = subprocess.run([sys.executable, "-c", _LOOK], env={}, capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.stderr) == ("1\n", "")
