"""LiteRT, the default for ``.tflite`` files.

Its Interpreter, not its CompiledModel: that one holds the GIL, is slower on a
CPU and corrupts the heap after a resize.
"""

from __future__ import annotations

from edge_runtime.backends import tflite
from edge_runtime.ports import SessionOptions

__all__ = ["LiteRT"]


class LiteRT:
    """Runs ``.tflite`` models with ai-edge-litert."""

    name = "litert"

    def probe(self) -> str:
        """Run a tiny model, once per process, and return the version.

        Raises:
            MissingExtra: ai-edge-litert is not installed.
            ModelError: It is installed but does not work here.
        """
        return tflite.probe(_RUNTIME)

    def load(self, model: bytes, options: SessionOptions) -> tflite.TFLiteSession:
        """Open a model from verified bytes.

        Raises:
            MissingExtra: ai-edge-litert is not installed.
            ModelError: It does not work here, or the bytes are no model it can run.
        """
        return tflite.load(_RUNTIME, model, options)


_RUNTIME = tflite.Runtime(
    backend=LiteRT.name,
    module="ai_edge_litert.interpreter",
    package="ai-edge-litert",
    extra="tflite",
    remedy="On ARM it needs glibc 2.34 (Debian 12); reinstall ai-edge-litert, or choose onnx.",
)
