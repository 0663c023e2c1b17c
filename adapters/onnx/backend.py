"""A model on ONNX Runtime: implements `serving.ports.Backend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np

from adapters.onnx.cpu_run import CpuRun
from adapters.onnx.device_run import DeviceRun
from adapters.onnx.gpu_session import open_gpu_run, signature_of
from adapters.onnx.options import OnnxOptions
from adapters.onnx.session import open_cpu_session, verify
from adapters.onnx.words import scoring_error
from serving.errors import ScoringError
from serving.signature import Signature


class OnnxBackend:
    """One session. Raises `ModelUnavailable` when the file is not the expected one or cannot be served as asked."""

    def __init__(self, options: OnnxOptions) -> None:
        path = Path(options.path)
        # A model of several files may have several graphs, and what is optimised and kept is made of one of them.
        options = replace(options, sha256=verify(path, options.sha256, options.folder))
        self._signature: Signature
        self._run: CpuRun | DeviceRun
        if options.gpu is not None:
            self._signature, self._run = open_gpu_run(options, options.gpu)
        else:
            session = open_cpu_session(options)
            self._signature = signature_of(session, path)
            self._run = CpuRun(session, self._signature)

    @property
    def signature(self) -> Signature:
        return self._signature

    @property
    def parallelism(self) -> int:
        return self._run.parallelism

    @property
    def trouble(self) -> str:
        return ""  # whatever happens to a session happens to a run

    def run(
        self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str], deadline_s: float = inf
    ) -> list[np.ndarray]:
        """Raises `ModelFailed`, or `BadRequest` for inputs that ONNX Runtime cannot be given. What has begun is not
        ended by its deadline.
        """
        try:
            return self._run.run(inputs, outputs)
        except ScoringError:
            raise
        except Exception as error:
            raise scoring_error(error) from error

    def close(self) -> None:
        """Free the model. Nothing may be called afterwards."""
        self._run.close()
