"""Run by the Python of MLflow's own environment: puts models into a server with MLflow's client.

    python mlflow_push.py http://127.0.0.1:5000 FOLDER

`fraud` gets version 1 (logged by mlflow.onnx, with external data), 2 (a folder of files) and 3 (two models in folders).
"""

import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def model(rows: int) -> onnx.ModelProto:
    """y = x · W, with enough weights to be stored beside the graph."""
    weights = numpy_helper.from_array(np.arange(rows * 64, dtype=np.float32).reshape(rows, 64), "W")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["y"])], "g", [x], [y], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def wait_for(server: str) -> None:
    """Until it answers; for 4 minutes, after which whoever asks next is told."""
    for _ in range(2400):
        try:
            urllib.request.urlopen(f"{server}/health", timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)


def main(server: str, folder: Path) -> None:
    wait_for(server)
    mlflow.set_tracking_uri(server)
    client = mlflow.MlflowClient()
    with mlflow.start_run():
        mlflow.onnx.log_model(model(16), name="model", registered_model_name="fraud", pip_requirements=[])
    for files in (["export/only.onnx"], ["two/a/model.onnx", "two/b/model.onnx"]):
        root = files[0].partition("/")[0]
        for number, file in enumerate(files):
            (folder / file).parent.mkdir(parents=True)
            onnx.save(model(number + 1), folder / file)
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(folder / root), root)
            client.create_model_version("fraud", f"{run.info.artifact_uri}/{root}", run.info.run_id)
    client.set_registered_model_alias("fraud", "champion", "1")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
