"""The real Triton Inference Server 2.51 from NVIDIA's wheel: V2 JSON, gRPC, dynamic batching, one instance on the CPU.

Follows https://github.com/triton-inference-server/server/blob/main/docs/user_guide/batcher.md: `dynamic_batching {}`
without a delay is what it recommends to start with, and forms a batch from whatever waits when the instance is free.
The wheel has no ONNX Runtime backend, so its Python backend runs the same ONNX model with ONNX Runtime
(triton_model.py).

python -m benchmarks.peers.triton MODEL --port PORT --grpc-port PORT --folder FOLDER
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import onnxruntime

from benchmarks.peers.arguments import parse
from benchmarks.peers.session import MAX_BATCH_SIZE
from benchmarks.triton_server import TritonPorts, triton_command, triton_environment

CONFIGURATION = """\
name: "mlp"
backend: "python"
max_batch_size: {max_batch_size}
input {{ name: "{input.name}" data_type: TYPE_FP32 dims: {input_dims} }}
output {{ name: "{output.name}" data_type: TYPE_FP32 dims: {output_dims} }}
dynamic_batching {{ }}
instance_group {{ count: 1 kind: KIND_CPU }}
parameters {{ key: "path" value: {{ string_value: "{path}" }} }}
"""


def write_repository(model: Path, folder: Path) -> Path:
    """With the ONNX model as `mlp`, version 1."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (model_input,), (output,) = session.get_inputs(), session.get_outputs()
    repository = folder / "repository"
    (repository / "mlp" / "1").mkdir(parents=True)
    (repository / "mlp" / "config.pbtxt").write_text(
        CONFIGURATION.format(
            max_batch_size=MAX_BATCH_SIZE,
            input=model_input,
            input_dims=list(model_input.shape[1:]),
            output=output,
            output_dims=list(output.shape[1:]),
            path=model,
        )
    )
    shutil.copy(Path(__file__).with_name("triton_model.py"), repository / "mlp" / "1" / "model.py")
    return repository


def main() -> None:
    arguments = parse(__doc__)
    packages = Path(sysconfig.get_path("purelib"))
    ports = TritonPorts(arguments.port, arguments.grpc_port)
    command = triton_command(packages, write_repository(arguments.model, arguments.folder), ports)
    os.execve(command[0], command, triton_environment(packages, Path(sys.executable)))


if __name__ == "__main__":
    main()
