"""The six ports: everything that can be exchanged, on one page.

A port is a ``Protocol``: a class fits by having the methods. Built-ins and
plug-ins come through the same entry points (``edge_runtime.registry``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol, runtime_checkable

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.spec import StateSpec, StreamSpec
from edge_runtime.types import Frame, Isolation, Output, StateKind, TensorSpec

__all__ = [
    "Backend",
    "Choice",
    "Clock",
    "Connected",
    "Disconnected",
    "LiveSource",
    "Message",
    "ResumableSink",
    "Session",
    "SessionOptions",
    "Sink",
    "Source",
    "SourceHealth",
    "Timing",
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
        """Return the next block, or None if none came within ``timeout_s``.

        Its arrays may wait in queues: the source does not write into them again.
        """
        ...

    def close(self) -> None:
        """Release the device or file; safe to call twice and from another thread."""
        ...


class SourceHealth(msgspec.Struct, frozen=True):
    """What a live source has noticed since it was made.

    Attributes:
        lost_samples: Samples that were due and never came.
        jitter_s: How far blocks came early or late, root mean square of the last ones.
        faults: How often something was wrong with the sensor, by reason.
    """

    lost_samples: int = 0
    jitter_s: float = 0.0
    faults: dict[str, int] = {}


class LiveSource(Source, Protocol):
    """A source that cannot be replayed: what it misses, it counts."""

    def health(self) -> SourceHealth:
        """Return what was noticed so far; callable from any thread, also when closed."""
        ...


class Sink(Protocol):
    """A place that takes results; used by one thread."""

    def open(self, device: str, *, epoch: int = 0) -> None:
        """Get ready to write results of ``device``, started for the ``epoch``-th time."""
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


@runtime_checkable
class ResumableSink(Sink, Protocol):
    """A sink that can go back to where it was: what it takes is there exactly once.

    Results come to it with the commit that they belong to, to every other sink as
    soon as they are there.
    """

    def mark(self, *, is_durable: bool) -> bytes:
        """Return where it stands; a crash of this process takes back nothing before.

        Args:
            is_durable: A power cut may not either.

        Raises:
            SinkError: What was written may not be there.
        """
        ...

    def resume(self, mark: bytes) -> None:
        """Forget what came after ``mark``; called between `open` and the first `write`.

        Raises:
            SinkError: It cannot go back.
        """
        ...


class SessionOptions(msgspec.Struct, frozen=True):
    """How a backend runs a model.

    Attributes:
        threads: Threads inside one call, 1 to 64; never spinning when idle.
        accelerator: Execution provider or delegate, by the name that
            ``edge-runtime doctor`` lists; None for the CPU.
        state: How a model with explicit state is fed.
        shape: Shape of one window's features; free axes of the input take it.
    """

    threads: int = 1
    accelerator: str | None = None
    state: StateSpec = StateSpec()
    shape: tuple[int, ...] | None = None


class Choice(msgspec.Struct, frozen=True):
    """How a bundle is run on one machine: what ``tune`` picks and ``run`` uses.

    Attributes:
        backend: Model runtime; None takes the bundle's preference.
        artefact: File in the bundle; None takes the first one that ``backend`` runs.
        threads: Threads inside one call; None for one, or for what was measured.
        accelerator: As in `SessionOptions`.
        block: Windows a session answers at once where many are ready: 1, or a
            number for which the answers were proven byte-equal to single ones.
        micro_batch: Number of ready windows from which a block of 32, filled up
            with anything, takes less time than single calls; None where a full one
            is not clearly quicker.
    """

    backend: str | None = None
    artefact: str | None = None
    threads: int | None = None
    accelerator: str | None = None
    block: int = 32
    micro_batch: int | None = None
    isolation: Isolation = "thread"
    limit_s: float = 30.0
    memory_mb: int = 1024


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long one place waits for samples, and which stamps it believes.

    The *watermark* of a stream is its latest believed event time less ``delay_s``:
    what lies behind it is taken to be complete.

    Attributes:
        delay_s: How long samples may be on their way without being late.
        allowed_lateness_s: Samples so far behind the watermark still revise what was
            answered; older ones go to the late side output.
        future_skew_s: A stamp further ahead of the stream than this moves nothing
            until ``confirm_rows`` samples in a row agree on it.
        confirm_rows: So many agreeing samples make a stream begin, and a jump real.
        clock_back_s: Samples in a row that are all too late, and span so much event
            time, are a clock that was set back: the stream begins anew there. None
            takes them for late for ever.
        revise_s: Late samples wait until the watermark passes a multiple of this, so
            that many of them make one revision.
        idle_s: After so long without a sample, what waits is answered; None waits on.
    """

    delay_s: Annotated[float, Meta(ge=0, le=1e7)] = 0.0
    allowed_lateness_s: Annotated[float, Meta(ge=0, le=1e7)] = 0.0
    future_skew_s: Annotated[float, Meta(gt=0, le=1e9)] = 60.0
    confirm_rows: Annotated[int, Meta(ge=1, le=1024)] = 3
    clock_back_s: Annotated[float, Meta(gt=0, le=1e9)] | None = 60.0
    revise_s: Annotated[float, Meta(ge=1e-3, le=1e7)] = 1.0
    idle_s: Annotated[float, Meta(gt=0, le=1e7)] | None = None


class Session(Protocol):
    """One loaded model and the state of one stream; not thread-safe, one per worker.

    Attributes:
        inputs: The input tensor, as the model declares it; state tensors are no part of it.
        outputs: Output tensors as the model declares them, without state tensors.
        state_kind: What the model keeps between calls.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state_kind: StateKind

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, …), in the dtype of the input tensor.

        Rows are answered in order; a model with state carries it from row to row.

        Returns:
            The first output, shape (n, …), in that tensor's dtype. The array
            belongs to the caller.

        Raises:
            ShapeError: Shape or dtype is not the model's.
            ModelError: The runtime failed.
        """
        ...

    def reset(self) -> None:
        """Forget state kept between calls: as if the model had just been loaded."""
        ...

    def fork(self) -> Session:
        """Return a session of the same loaded model with fresh state of its own.

        For the same worker; a stateless session may return itself. Close a
        session after its forks.
        """
        ...

    def state(self) -> bytes | None:
        """Return the state kept between calls; None where it cannot be read."""
        ...

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes.

        Raises:
            ModelError: They are not this model's state.
        """
        ...

    def close(self) -> None:
        """Free the model; safe to call twice."""
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
    """The link is up, and the subscriptions count; the window must be renewed."""


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
