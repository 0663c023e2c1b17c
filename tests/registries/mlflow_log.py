"""Run by the Python of MLflow's own environment: logs an ONNX file as a trainer does, and names it champion.

python mlflow_log.py http://127.0.0.1:5000 NAME MODEL.onnx
"""

import sys

import mlflow
import onnx
from mlflow_push import wait_for


def main(server: str, name: str, file: str) -> None:
    wait_for(server)
    mlflow.set_tracking_uri(server)
    with mlflow.start_run():
        logged = mlflow.onnx.log_model(onnx.load(file), name="model", registered_model_name=name, pip_requirements=[])
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", str(logged.registered_model_version))


if __name__ == "__main__":
    main(*sys.argv[1:])
