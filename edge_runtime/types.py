"""The values that move through the runtime.

``Frame → Windows → Scores → Estimates, Decision → Table → Sink``

Blocks of samples move, never one Python object per sample. Structs that hold
arrays compare by identity. Those of which many wait for a commit are left out of
the garbage collector's rounds (``gc=False``): nothing they hold leads back to them.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec
import numpy as np

from edge_runtime.errors import ConfigError, ShapeError
from edge_runtime.quality import MASK

__all__ = [
    "ClockQuality",
    "Decision",
    "Estimates",
    "Frame",
    "Isolation",
    "Output",
    "SideRows",
    "StateKind",
    "Table",
    "TensorSpec",
    "Upload",
    "Windows",
    "check_name",
]

ClockQuality = Literal["unsynced", "ntp", "cloud"]
Upload = Literal["none", "decisions", "features", "windows"]
StateKind = Literal["stateless", "variables", "resources", "explicit"]
"""What a model keeps between calls. ``variables``: TFLite variable tensors, which
can be read and set; ``resources``: TFLite resource variables, which only a new
interpreter clears and nobody can read; ``explicit``: state that goes in and out
as tensors of an ONNX model."""

Isolation = Literal["thread", "process"]
"""Where a model runs. ``thread``: in the device's process, which a supervisor
starts again after a native crash or a hung call. ``process``: in a child, so that
the device's process never goes down."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it may stand in a topic and in a path.

    Args:
        name: A device, stream or model-line name.
        what: What it names, for the message.

    Raises:
        ConfigError: It does not match ``[a-z0-9][a-z0-9_-]{0,62}``.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{what} is {name!r}",
            expected="1 to 63 of a-z, 0-9, '_' and '-', starting with a letter or digit",
            remedy=f"Rename the {what}; the name becomes part of a topic and of a path.",
        )
    return name


class TensorSpec(msgspec.Struct, frozen=True):
    """One input or output tensor, as the model file itself declares it.

    Attributes:
        name: Name inside the model.
        shape: Shape with the batch axis first and set to 1.
        dtype: NumPy dtype name, such as ``float32`` or ``int8``.
        scale: Real value of one integer step; None for a float tensor.
        zero_point: Integer that stands for 0.0; None for a float tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    @property
    def is_quantised(self) -> bool:
        """Whether integers in this tensor stand for real values."""
        return self.scale is not None


class Frame(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A block of consecutive samples as the sensor gave them.

    Attributes:
        stream: Name of the stream.
        index: Position of the first sample in the stream; counts every sample
            the source delivered since the stream began.
        time_ns: Event time of each sample, shape (n,), int64, ns since the
            Unix epoch, UTC.
        samples: Shape (n, channels), any real dtype; NaN marks a missing value.
        clock: How far ``time_ns`` may be trusted.
        step_ns: A source with a steady clock promises by it that each of these
            samples comes so long after the one before, give or take one ns, and
            saves everybody the look at every single time. None promises nothing.
        quality: What is suspect about each sample, bits of `Quality`, shape (n,),
            uint16; None where nothing is.
        keys: Which of many devices each sample is of, shape (n,), text or None, object;
            None where the source is of one device.
    """

    stream: str
    index: int
    time_ns: np.ndarray
    samples: np.ndarray
    clock: ClockQuality = "unsynced"
    step_ns: int | None = None
    quality: np.ndarray | None = None
    keys: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.time_ns.shape != (len(self.samples),):
            raise ShapeError(
                f"frame has samples {self.samples.shape} and times {self.time_ns.shape}",
                where=self.stream,
                expected="samples (n, channels) and times (n,)",
            )
        if self.quality is not None:
            self._check_quality(self.quality)

    def _check_quality(self, quality: np.ndarray) -> None:
        if quality.shape != self.time_ns.shape or quality.dtype != MASK:
            raise ShapeError(
                f"frame of {len(self)} samples has quality {quality.dtype} {quality.shape}",
                where=self.stream,
                expected=f"{MASK} ({len(self)},), or None",
            )

    def __len__(self) -> int:
        return len(self.samples)


class Windows(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A block of fixed-length windows cut from one stream.

    Attributes:
        index: Stream index of each window's last sample, shape (n,), int64.
        start_ns: Time of the first sample, shape (n,), int64.
        end_ns: Time of the last sample, shape (n,), int64.
        samples: Shape (n, length, channels), the source's dtype.
        is_fresh: Whether the first of them begins a stretch: at the start of the
            stream, after a gap, and after a window that was left out. Each of the
            others follows the one before it by exactly one hop. State that a model
            or a feature keeps starts anew here.
        quality: What is suspect about the samples of each window, bits of `Quality`,
            shape (n,), uint16; None where nothing is.
    """

    index: np.ndarray
    start_ns: np.ndarray
    end_ns: np.ndarray
    samples: np.ndarray
    is_fresh: bool = True
    quality: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)


class Estimates(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Values or scores for a block of windows, one row per window.

    Attributes:
        index: Stream index of each window's last sample, shape (n,), int64.
        start_ns: Time of the first sample, shape (n,), int64.
        end_ns: Time of the last sample, shape (n,), int64.
        score: The model's own answer after the shipped calibration, shape
            (n, k), float64: a probability per label, or a value in ``unit``.
        value: ``score`` refined by the active layers, same shape; equal to it
            without layers.
        inputs: What the model saw, kept for upload: features or window
            samples, shape (n, …); None unless asked for.
        effective_id: Hash of the base and layers that were live.
        revision: How often each was answered before, shape (n,), int64; None where
            no stream of this kind is ever revised.
        uncertain: Whether the smoothed value lies in the label's reject band, shape
            (n, k), bool; None where no label has one.
        quality: What is suspect about the samples of each window, bits of `Quality`,
            shape (n,), uint16; None where nothing is.
        stage: Which model of a cascade answered each window, counted from 0 in the order
            they are asked, shape (n,), uint8; None without a cascade.
    """

    index: np.ndarray
    start_ns: np.ndarray
    end_ns: np.ndarray
    score: np.ndarray
    value: np.ndarray
    inputs: np.ndarray | None
    effective_id: str
    revision: np.ndarray | None = None
    uncertain: np.ndarray | None = None
    quality: np.ndarray | None = None
    stage: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.index)


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A label starts or ends.

    Identity: device, epoch, stream, ``index``, ``model``, ``label``, ``edge``.
    The revision is ``(tier, revision)``; the live answer is ``("edge", 0)``.

    Attributes:
        stream: Name of the stream.
        index: Stream index of the last sample of the deciding window.
        time_ns: Time of that sample.
        model: Model line.
        label: Which label.
        edge: Whether it starts or ends here.
        value: Smoothed probability or value that crossed the threshold.
        effective_id: Hash of the base and layers that were live.
        tier: Who decided.
        revision: 0 for the first answer of that tier.
        is_retracted: Whether this revision takes the decision back.
        quality: What is suspect about the samples of the deciding window, bits of
            `Quality`; 0 where nothing is.
    """

    stream: str
    index: int
    time_ns: int
    model: str
    label: str
    edge: Literal["start", "end"]
    value: float
    effective_id: str
    tier: Literal["edge", "cloud"] = "edge"
    revision: int = 0
    is_retracted: bool = False
    quality: int = 0


class SideRows(msgspec.Struct, frozen=True, eq=False):
    """Samples that gave no result, for whoever wants them.

    Attributes:
        reason: ``late``: too far behind the watermark. ``future``: a stamp that no
            neighbour confirmed.
        time_ns: Event times, shape (n,), int64.
        samples: Shape (n, channels).
        quality: What is suspect about each, see `Frame`; None where nothing is.
    """

    reason: Literal["late", "future"]
    time_ns: np.ndarray
    samples: np.ndarray
    quality: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.time_ns)


class Output(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What one push into the pipeline produced; all parts may be empty.

    Attributes:
        stream: Name of the stream.
        estimates: Windows that were answered, for the first time or again.
        decisions: Labels that start or end, revisions and retractions included.
        retracted: Windows that late samples have made void, each as it was answered.
        aside: Samples that gave no result.
        started: Labels that stand after all of it, where late samples have changed
            decisions of the past; None where the decisions alone tell.
        device: Which of many devices it is of; None for the one that runs the stream.
    """

    stream: str
    estimates: Estimates
    decisions: tuple[Decision, ...]
    retracted: Estimates | None = None
    aside: tuple[SideRows, ...] = ()
    started: tuple[str, ...] | None = None
    device: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep or to show."""
        return not (
            len(self.estimates.index) or self.decisions or self.retracted is not None or self.aside
        )


class Table(msgspec.Struct, frozen=True, eq=False):
    """Rows in columns: what an outbox keeps, a frame carries, a segment stores.

    Attributes:
        columns: Arrays that share their first axis. Dtypes are integers,
            floats, bool or ``<U`` text; further axes are fixed per column.
    """

    columns: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        if len({len(column) for column in self.columns.values()}) > 1:
            lengths = {name: len(column) for name, column in self.columns.items()}
            raise ShapeError(f"columns have lengths {lengths}", expected="one length")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(column.nbytes for column in self.columns.values())

    def rows(self, first: int, last: int) -> Table:
        """Return rows ``first`` to ``last`` (exclusive) without copying."""
        return Table({name: column[first:last] for name, column in self.columns.items()})
