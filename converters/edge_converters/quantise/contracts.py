"""What the parts of quantisation agree on: samples, statistics, recipes and the port.

``Quantiser`` is the one door to a format; search, verdict, lint and report know
nothing else of ONNX or TFLite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
import numpy as np

__all__ = [
    "INPUT",
    "OUTPUT",
    "Budget",
    "Calibration",
    "Candidate",
    "Cure",
    "Format",
    "MetricName",
    "Operator",
    "Precision",
    "Progress",
    "Quantiser",
    "Ranking",
    "Recipe",
    "Samples",
    "Scale",
    "Scoring",
    "SearchResult",
    "TensorStatistics",
]

Format = Literal["onnx", "tflite"]

Precision = Literal["float32", "float16", "dynamic", "int8", "mixed"]

Cure = Literal["weights", "float"]
"""What may be done for an operator that int8 hurts, cheapest first: int8 weights with
float activations, or all float."""

MetricName = Literal["accuracy", "f1", "auc", "mae", "agreement", "snr"]

Scoring = Literal["output", "reconstruction"]
"""Where a window's score comes from: the output itself, or for an autoencoder the mean
squared difference of output and input."""

INPUT = "INPUT"
OUTPUT = "OUTPUT"
"""Names of the pseudo-operators that stand for the model's own input and output tensors."""

Progress = Callable[[str, float], None]
"""Takes the name of a stage and the share of it that is done, 0 to 1."""


class Samples(msgspec.Struct, frozen=True, eq=False):
    """Windows as the model sees them, and what is true of each.

    Attributes:
        windows: Features, shape (n, …) as the model's input without its batch axis, float32;
            (n, steps, …) for a model with state, which is asked sequences.
        truth: Shape (n,): class numbers, 0 or 1 for an anomaly, or values; None
            where nobody knows.
        is_stream: Whether they are sequences; what a sequence is, its last step says.
    """

    windows: np.ndarray
    truth: np.ndarray | None = None
    is_stream: bool = False

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def ends(self) -> Samples:
        """The last step of every sequence, which truth is about; windows are their own."""
        return Samples(self.windows[:, -1], self.truth) if self.is_stream else self

    def ends_of(self, outputs: np.ndarray) -> np.ndarray:
        """Return the outputs that truth is about, shape (n, …)."""
        return outputs[:, -1] if self.is_stream else outputs


class TensorStatistics(msgspec.Struct, frozen=True):
    """What calibration saw in one tensor.

    Attributes:
        count: Values seen.
        minimum: Smallest value.
        maximum: Largest value.
        mean: Mean of all values.
        deviation: Standard deviation.
        first_edge: Where the histogram begins.
        bin_width: Width of each of its bins; 0 where every value is the same.
        histogram: Counts, from the bin of ``minimum`` to the bin of ``maximum``.
        quantiles: Value below which a share lies, to the width of one fine bin; by that
            share in percent ("0.1", "1", "50", "99", "99.9").
    """

    count: int
    minimum: float
    maximum: float
    mean: float
    deviation: float
    first_edge: float
    bin_width: float
    histogram: tuple[int, ...]
    quantiles: dict[str, float]


class Calibration(msgspec.Struct, frozen=True):
    """Statistics of every float tensor of a model, by name.

    Attributes:
        windows: How many were seen.
        tensors: In the model as it is.
        factors: What equalising divides channels by; empty where it is not worth it.
        equalised: Statistics with these factors; empty without them.
    """

    windows: int
    tensors: dict[str, TensorStatistics]
    factors: dict[str, tuple[float, ...]] = {}
    equalised: dict[str, TensorStatistics] = {}


class Scale(msgspec.Struct, frozen=True):
    """How the integers of one tensor stand for real values.

    Attributes:
        scale: One number for the tensor, or one for each channel of ``axis``.
        zero_point: As many integers.
        axis: Axis of the channels; None where the tensor has one scale.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None


class Operator(msgspec.Struct, frozen=True):
    """One operator that can be quantised.

    Attributes:
        name: Unique in the model, and stable from one conversion to the next.
        kind: Operator type, such as ``Conv``.
        output: Its first output tensor.
        shape: Shape of that tensor; 0 where it is not known.
        weights: How many constant values it multiplies by.
        macs: Multiply-accumulates for one window; None where not known.
    """

    name: str
    kind: str
    output: str
    shape: tuple[int, ...] = ()
    weights: int = 0
    macs: int | None = None


class Recipe(msgspec.Struct, frozen=True):
    """Everything that makes a quantised file from a float one; replaying it gives the same bytes.

    Attributes:
        format: Which file.
        precision: What was asked for.
        model: SHA-256 of the float file.
        cures: Operators that are not int8, by name.
        ranges: Smallest and largest value of each activation tensor.
        factors: What channels are divided by before anything is quantised, and multiplied
            by behind, by the name of the weights.
        scales: Weights' scales that are given instead of computed, by tensor; a
            ``refresh`` takes them from the recipe before, so that deltas stay small.
        per_channel: Whether weights have a scale for each output channel.
        integers: Of ONNX activations and the weights they meet. The sums of signed
            weights saturate on x86 processors without VNNI, and answers are garbage there;
            TFLite has ``int8`` alone, whose kernels do not.
        schema: Version of this struct.
    """

    format: Format
    precision: Precision
    model: str
    cures: dict[str, Cure] = {}
    ranges: dict[str, tuple[float, float]] = {}
    factors: dict[str, tuple[float, ...]] = {}
    scales: dict[str, Scale] = {}
    per_channel: bool = True
    integers: Literal["int8", "uint8"] = "uint8"
    schema: int = 1


class Quantiser(Protocol):
    """One float model in one format, and the files that can be made of it.

    Used by one thread. Bad bytes are a `ModelError` when it is made.

    Attributes:
        format: Which files it makes.
        model: The float file.
        operators: What can be quantised, in order of execution, with `INPUT` and
            `OUTPUT` where the format lets them be integers.
    """

    format: Format
    model: bytes
    operators: tuple[Operator, ...]

    def calibrate(self, windows: np.ndarray) -> Calibration:
        """Run the float model and keep the statistics of every tensor.

        Raises:
            ShapeError: ``windows`` does not fit the input.
            ModelError: A value is not finite.
        """
        ...

    def recipe(
        self,
        precision: Precision,
        calibration: Calibration | None,
        cures: Mapping[str, Cure],
        *,
        is_equalised: bool = True,
    ) -> Recipe:
        """Write down what `quantise` needs; int8 and mixed need a calibration.

        Args:
            precision: What is wanted.
            calibration: Of this model.
            cures: Operators that are not int8, by name.
            is_equalised: Whether channels are equalised where that is worth it.

        Raises:
            ConfigError: ``precision`` needs a calibration.
        """
        ...

    def quantise(self, recipe: Recipe) -> bytes:
        """Return the file that ``recipe`` describes.

        Raises:
            ModelError: The format's tools cannot make it; says which operator.
        """
        ...

    def run(self, model: bytes, windows: np.ndarray) -> np.ndarray:
        """Answer windows with ``model`` as a device would, shape (n, …), real values.

        A model with state takes and answers sequences, shape (n, steps, …).
        """
        ...

    def run_all(self, model: bytes, windows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Answer windows with every output of ``model``, the deciding one first."""
        ...

    def scales(self, model: bytes) -> dict[str, Scale]:
        """Read the scales of all integer tensors of ``model``."""
        ...

    def weights(self, factors: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        """Return the float constants that int8 applies to, by tensor, equalised by ``factors``."""
        ...


class Budget(msgspec.Struct, frozen=True):
    """What a quantised model may lose.

    Attributes:
        metric: What is measured; ``agreement`` and ``snr`` need no truth.
        max_drop: Largest loss against float, in the metric's own unit (0.005 is half
            a point of accuracy); for ``snr``, the lowest value in dB instead.
        scoring: Where scores come from.
    """

    metric: MetricName
    max_drop: float
    scoring: Scoring = "output"


class Ranking(msgspec.Struct, frozen=True):
    """How much one operator hurts when it alone is int8: lowest SNR of an output in dB."""

    operator: str
    snr_db: float


class Candidate(msgspec.Struct, frozen=True):
    """One file that could be shipped.

    Attributes:
        recipe: How it was made.
        model: The file.
        value: The metric on the search's samples; None where it was not measured.
        snr_db: Output against float; infinite for float itself.
        others_db: The lowest SNR among its other outputs; infinite without any.
        latency_s: Median of single calls on this machine; None where not asked.
    """

    recipe: Recipe
    model: bytes
    value: float | None = None
    snr_db: float | None = None
    others_db: float = math.inf
    latency_s: float | None = None


class SearchResult(msgspec.Struct, frozen=True):
    """What the search for mixed precision found.

    Attributes:
        chosen: The best file within the budget; the float one where none is.
        is_within_budget: Whether ``chosen`` is quantised and kept the budget.
        float_value: The metric of the float model on the same samples.
        ranking: Every operator, most harmful first.
        evaluations: How many files were made and run.
        elapsed_s: How long it took, calibration apart.
    """

    chosen: Candidate
    is_within_budget: bool
    float_value: float
    ranking: tuple[Ranking, ...]
    evaluations: int
    elapsed_s: float
