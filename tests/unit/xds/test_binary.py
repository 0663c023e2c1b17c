import os
import subprocess

from router.xds.binary import envoy_binary


def test_the_binary_is_found_whoever_owns_the_package_called_envoy() -> None:
    binary = envoy_binary()
    assert os.access(binary, os.X_OK)
    version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    assert "/1.40." in version
