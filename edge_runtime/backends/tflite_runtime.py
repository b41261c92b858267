"""tflite-runtime, for boards LiteRT has no wheel for (32-bit ARM).

Only when chosen by name: it needs NumPy 1, runs int8 models many times slower
and, unlike LiteRT, does not verify files: a damaged one can end the process.
"""

from __future__ import annotations

import functools

import numpy as np

from edge_runtime.backends.faults import does_not_work, import_runtime
from edge_runtime.backends.tflite import TFLiteSession, prove
from edge_runtime.ports import SessionOptions

__all__ = ["TFLiteRuntime"]

_MODULE, _PACKAGE, _EXTRA = "tflite_runtime.interpreter", "tflite-runtime", "tflite-legacy"


class TFLiteRuntime:
    """Runs ``.tflite`` models with tflite-runtime 2.14."""

    name = "tflite-runtime"

    def probe(self) -> str:
        """Run a tiny model, once per process, and return the version.

        Raises:
            MissingExtra: tflite-runtime is not installed.
            ModelError: It is installed but does not work here, as under NumPy 2.
        """
        return _probe()

    def load(self, model: bytes, options: SessionOptions) -> TFLiteSession:
        """Open a model from verified bytes.

        Raises:
            MissingExtra: tflite-runtime is not installed.
            ModelError: The bytes are no model it can run, or it does not work here.
        """
        # Without the probe a process under NumPy 2 would fail with a SystemError.
        self.probe()
        runtime = import_runtime(self.name, _MODULE, _PACKAGE, _EXTRA)
        return TFLiteSession(self.name, runtime.Interpreter, model, options)


@functools.cache
def _probe() -> str:
    _check_numpy()
    runtime = import_runtime(TFLiteRuntime.name, _MODULE, _PACKAGE, _EXTRA)
    try:
        prove(TFLiteRuntime.name, runtime.Interpreter)
    except Exception as error:
        raise does_not_work(TFLiteRuntime.name, _PACKAGE, error) from error
    package = import_runtime(TFLiteRuntime.name, "tflite_runtime", _PACKAGE, _EXTRA)
    version: str = package.__version__
    return version
