"""tflite-runtime, for boards LiteRT has no wheel for (32-bit ARM).

Only when chosen by name: it needs NumPy 1, runs int8 models many times slower
and, unlike LiteRT, verifies no file: a damaged one can end the process.
"""

from __future__ import annotations

from edge_runtime.backends import tflite
from edge_runtime.ports import SessionOptions

__all__ = ["TFLiteRuntime"]


class TFLiteRuntime:
    """Runs ``.tflite`` models with tflite-runtime 2.14."""

    name = "tflite-runtime"

    def probe(self) -> str:
        """Run a tiny model, once per process, and return the version.

        Raises:
            MissingExtra: tflite-runtime is not installed.
            ModelError: It is installed but does not work here.
        """
        return tflite.probe(_RUNTIME)

    def load(self, model: bytes, options: SessionOptions) -> tflite.TFLiteSession:
        """Open a model from verified bytes.

        Raises:
            MissingExtra: tflite-runtime is not installed.
            ModelError: It does not work here, or the bytes are no model it can run.
        """
        return tflite.load(_RUNTIME, model, options)


_RUNTIME = tflite.Runtime(
    backend=TFLiteRuntime.name,
    module="tflite_runtime.interpreter",
    package="tflite-runtime",
    extra="tflite-legacy",
    remedy='It needs NumPy 1: pip install "edge-runtime[tflite-legacy]", or choose litert.',
)
