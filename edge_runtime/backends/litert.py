"""LiteRT, the default for ``.tflite`` files.

Its Interpreter, not its CompiledModel: that one holds the GIL, is slower on a
CPU and corrupts the heap after a resize.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator

from edge_runtime.backends.faults import does_not_work, import_runtime
from edge_runtime.backends.tflite import TFLiteSession, prove
from edge_runtime.ports import SessionOptions

__all__ = ["LiteRT"]

_STDERR = 2


class LiteRT:
    """Runs ``.tflite`` models with ai-edge-litert."""

    name = "litert"

    def probe(self) -> str:
        """Run a tiny model, once per process, and return LiteRT's version.

        Raises:
            MissingExtra: ai-edge-litert is not installed.
            ModelError: It is installed but does not work here.
        """
        return _probe()

    def load(self, model: bytes, options: SessionOptions) -> TFLiteSession:
        """Open a model from verified bytes.

        Raises:
            MissingExtra: ai-edge-litert is not installed.
            ModelError: The bytes are no model LiteRT can run.
        """
        self.probe()
        runtime = import_runtime(self.name, _MODULE, _PACKAGE, _EXTRA)
        return TFLiteSession(self.name, runtime.Interpreter, model, options)


_MODULE, _PACKAGE, _EXTRA = "ai_edge_litert.interpreter", "ai-edge-litert", "tflite"


@functools.cache
def _probe() -> str:
    runtime = import_runtime(LiteRT.name, _MODULE, _PACKAGE, _EXTRA)
    try:
        with _without_stderr():
            prove(LiteRT.name, runtime.Interpreter)
    except Exception as error:
        raise does_not_work(LiteRT.name, _PACKAGE, error) from error
    version: str = import_runtime(LiteRT.name, "ai_edge_litert", _PACKAGE, _EXTRA).__version__
    return version


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Point file descriptor 2 at the null device.

    LiteRT's C++ code writes one line there when the first model of a process
    is prepared; no setting and no Python-level redirection silences it.
    """
    try:
        kept = os.dup(_STDERR)
    except OSError:
        # A daemon without a standard error has nothing to silence.
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
        os.close(null)
