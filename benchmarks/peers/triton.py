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

from benchmarks.peers.arguments import Arguments, parse
from benchmarks.peers.session import MAX_BATCH_SIZE

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


def write_repository(arguments: Arguments) -> Path:
    session = onnxruntime.InferenceSession(str(arguments.model), providers=["CPUExecutionProvider"])
    (model_input,), (output,) = session.get_inputs(), session.get_outputs()
    repository = arguments.folder / "repository"
    (repository / "mlp" / "1").mkdir(parents=True)
    (repository / "mlp" / "config.pbtxt").write_text(
        CONFIGURATION.format(
            max_batch_size=MAX_BATCH_SIZE,
            input=model_input,
            input_dims=list(model_input.shape[1:]),
            output=output,
            output_dims=list(output.shape[1:]),
            path=arguments.model,
        )
    )
    shutil.copy(Path(__file__).with_name("triton_model.py"), repository / "mlp" / "1" / "model.py")
    return repository


def main() -> None:
    arguments = parse(__doc__)
    server = Path(sysconfig.get_path("purelib"), "pytriton", "tritonserver")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    # The wheel brings a stub for each Python, and none in its place.
    shutil.copy(server / "python_backend_stubs" / python / "triton_python_backend_stub", server / "backends" / "python")
    command = [str(server / "bin" / "tritonserver"), f"--model-repository={write_repository(arguments)}"]
    command += [f"--backend-directory={server / 'backends'}", "--allow-metrics=false", "--allow-gpu-metrics=false"]
    command += ["--http-address=127.0.0.1", f"--http-port={arguments.port}"]
    command += ["--grpc-address=127.0.0.1", f"--grpc-port={arguments.grpc_port}"]
    command += [
        f"--backend-config=python,shm-region-prefix-name=bench{os.getpid()}_",
        "--pinned-memory-pool-byte-size=0",
    ]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # where the stub finds its Python
    }
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
