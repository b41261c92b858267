"""Every error the runtime raises, and the shape of its message.

::

    EdgeError
    ├── ConfigError   (ValueError)    a file or flag a person wrote            exit 2
    ├── BundleError   (ValueError)    a bundle, layer or model file is unfit   exit 1
    │   └── TrustError                a signature, digest or clamp says no     exit 3
    ├── ModelError    (RuntimeError)  a model runtime failed or disagreed      exit 1
    │   └── ShapeError (ValueError)   an array has another shape or dtype      exit 1
    ├── SourceError   (OSError)       a sensor or recording failed             exit 1
    ├── SinkError     (OSError)       a place that takes records failed        exit 1
    │   ├── Transient                 the same write may work later
    │   └── Rejected                  the same write will never work
    ├── StoreError    (OSError)       a database or segment failed             exit 1
    ├── WireError     (ValueError)    bytes from outside do not decode         exit 1
    ├── RequestError  (ValueError)    a server cannot answer a request         exit 1
    └── MissingExtra  (ImportError)   an optional dependency is not installed  exit 1

A message has four parts: *where* it happened, *what* is there, what was
*expected*, and the *remedy*.
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "BundleError",
    "ConfigError",
    "EdgeError",
    "MissingExtra",
    "ModelError",
    "Refusal",
    "Rejected",
    "RequestError",
    "ShapeError",
    "SinkError",
    "SourceError",
    "StoreError",
    "Transient",
    "TrustError",
    "WireError",
]


class EdgeError(Exception):
    """Base of every error raised on purpose.

    Args:
        what: What is the case, with the values shown.
        where: File, line and column, topic, stream or component.
        expected: What should have been there.
        remedy: What the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.remedy = remedy
        super().__init__(self._message())

    def _message(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        if self.expected:
            head = f"{head.rstrip('.')}; expected {self.expected}"
        if not head.endswith((".", "!", "?")):
            head += "."
        return f"{head}\n  {self.remedy}" if self.remedy else head

    def __str__(self) -> str:
        return self._message()


class ConfigError(EdgeError, ValueError):
    """A configuration, flag or data file that a person wrote is wrong."""

    exit_code = 2


class BundleError(EdgeError, ValueError):
    """A bundle, a layer or a model file cannot be used."""


class TrustError(BundleError):
    """A signature, digest, clamp or version floor does not allow it."""

    exit_code = 3


class ModelError(EdgeError, RuntimeError):
    """A model runtime failed, or a model did not answer as promised."""


class ShapeError(ModelError, ValueError):
    """An array has another shape or dtype than the model or spec needs."""


class SourceError(EdgeError, OSError):
    """A sensor or a recording cannot be read."""


class SinkError(EdgeError, OSError):
    """A place that takes records does not take them."""


class Transient(SinkError):
    """The same write may succeed later."""


class Rejected(SinkError):
    """The same write will never succeed."""


class StoreError(EdgeError, OSError):
    """A database or a segment file failed."""


class WireError(EdgeError, ValueError):
    """Bytes from outside do not decode, or break a limit."""


Refusal = Literal[
    "invalid", "unauthorised", "forbidden", "unknown", "too_large", "late", "busy", "failed"
]
"""Why a request is not answered; each protocol has a code of its own for it."""


class RequestError(EdgeError, ValueError):
    """A request that a server cannot answer.

    Args:
        what: As in `EdgeError`.
        kind: Why, for programs.
        where: Which part of the request.
        expected: What should have been there.
        remedy: What the client can do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        kind: Refusal = "invalid",
        where: str = "",
        expected: str = "",
        remedy: str = "",
    ) -> None:
        self.kind: Refusal = kind
        super().__init__(what, where=where, expected=expected, remedy=remedy)


class MissingExtra(EdgeError, ImportError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, what: str, module: str, extra: str) -> MissingExtra:
        """Say which package a component needs and how to install it."""
        return cls(
            f"{what} needs {module}, which is not installed",
            remedy=f'pip install "edge-runtime[{extra}]"',
        )
