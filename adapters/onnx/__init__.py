"""ONNX Runtime, on the CPU and on NVIDIA GPUs. Nothing outside this package imports it."""

import os

# The one exception to "no work at import": ONNX Runtime 1.31 tells mobile.events.data.microsoft.com from its own import
# on, on Linux too, so this has to stand before it. A replica on somebody else's Ray has no environment of ours.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
