"""The six ports: everything that can be exchanged, on one page.

A port is a ``Protocol``: a class fits by having the methods. Built-ins and
plug-ins come through the same entry points (``edge_runtime.registry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from edge_runtime.spec import StreamSpec
from edge_runtime.types import Frame, Output, TensorSpec

__all__ = [
    "Backend",
    "Clock",
    "Connected",
    "Disconnected",
    "Message",
    "Session",
    "SessionOptions",
    "Sink",
    "Source",
    "Transport",
    "TransportEvent",
]


class Clock(Protocol):
    """Tells time; simulations pass their own."""

    def now_ns(self) -> int:
        """Wall time, ns since the Unix epoch, UTC."""
        ...

    def monotonic_ns(self) -> int:
        """A time that never goes back, ns since an arbitrary start."""
        ...


class Source(Protocol):
    """A sensor or a recording; used by one thread.

    Delivery: a source that can be replayed starts again at any index, so that
    nothing is lost or doubled across a crash; a live one ignores the index.
    """

    @property
    def is_exhausted(self) -> bool:
        """Whether a recording has ended; always False for a live sensor."""
        ...

    def open(self, stream: str, need: StreamSpec, index: int) -> None:
        """Start delivering the channels of ``need`` in their order, from sample ``index``.

        Raises:
            ConfigError: Channels or rate do not fit ``need``.
            SourceError: The device or file cannot be read.
        """
        ...

    def read(self, timeout_s: float) -> Frame | None:
        """Return the next block, or None if none came within ``timeout_s``."""
        ...

    def close(self) -> None:
        """Release the device or file; safe to call twice and from another thread."""
        ...


class Sink(Protocol):
    """A place that takes results; used by one thread."""

    def open(self, device: str) -> None:
        """Get ready to write results of ``device``."""
        ...

    def write(self, output: Output) -> None:
        """Take one block of results.

        Raises:
            Transient: The same block may be taken later.
            Rejected: This block will never be taken.
        """
        ...

    def close(self) -> None:
        """Flush and release; safe to call twice."""
        ...


class SessionOptions(msgspec.Struct, frozen=True):
    """How a backend runs a model.

    Attributes:
        threads: Threads inside one call, 1 to 64; never spinning when idle.
    """

    threads: int = 1


class Session(Protocol):
    """One loaded model; not thread-safe, one per worker.

    Attributes:
        inputs: Input tensors as the model declares them.
        outputs: Output tensors as the model declares them.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, …), in the dtype of the input tensor.

        Returns:
            The first output, shape (n, …), in that tensor's dtype. The array
            belongs to the caller.

        Raises:
            ShapeError: Shape or dtype is not the model's.
            ModelError: The runtime failed.
        """
        ...

    def reset(self) -> None:
        """Forget state kept between calls."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class Backend(Protocol):
    """A model runtime."""

    name: str

    def probe(self) -> str:
        """Run a tiny built-in model and return the runtime's version.

        Raises:
            MissingExtra: The runtime is not installed.
            ModelError: It is installed but does not work here.
        """
        ...

    def load(self, model: bytes, options: SessionOptions) -> Session:
        """Open a model from verified bytes, never from a path.

        Raises:
            ModelError: The bytes are no model this runtime can run.
        """
        ...


class Message(msgspec.Struct, frozen=True):
    """One MQTT publish."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


class Connected(msgspec.Struct, frozen=True):
    """The link is up; subscriptions and the window must be renewed."""


class Disconnected(msgspec.Struct, frozen=True):
    """The link is down."""

    reason: str


TransportEvent = Message | Connected | Disconnected


class Transport(Protocol):
    """A link to a broker. It reconnects by itself, with jittered back-off.

    Delivery: at most once. Nothing is queued while the link is down; whoever
    needs more keeps the message until the other side acknowledges it.
    """

    def open(self, subscriptions: Sequence[str], will: Message | None) -> None:
        """Start connecting in the background and keep these subscriptions."""
        ...

    def publish(self, message: Message) -> bool:
        """Hand a message to the link; False, and nothing kept, while it is down."""
        ...

    def receive(self, timeout_s: float) -> TransportEvent | None:
        """Return the next event, or None if none came within ``timeout_s``."""
        ...

    def wake(self) -> None:
        """Make a waiting ``receive`` return None at once; callable from any thread."""
        ...

    def close(self) -> None:
        """Disconnect cleanly and stop; safe to call twice."""
        ...
