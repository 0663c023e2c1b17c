"""ONNX Runtime, on the CPU and on NVIDIA GPUs. Nothing outside this package imports it."""
