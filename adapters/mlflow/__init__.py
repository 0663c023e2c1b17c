"""Models in an MLflow registry: `MlflowModels` implements `router.models.ports.Source`."""

from adapters.mlflow.registry import MlflowModels

__all__ = ["MlflowModels"]
