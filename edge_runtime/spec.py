"""What a model needs and promises (`ModelSpec`), and the layers on top of it.

``bundle.yaml`` is a `ModelSpec` in YAML. A `Layer` is a small signed set of
numbers that refines one base; `Clamps` in the base bound what it may change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.types import check_name

__all__ = [
    "ArtefactSpec",
    "CalibrationLayer",
    "ChannelSpec",
    "Clamps",
    "FeatureSpec",
    "FusionLayer",
    "Layer",
    "LayerBody",
    "LayerKind",
    "Limit",
    "LogMel",
    "Mfcc",
    "ModelSpec",
    "Normalise",
    "NormaliserLayer",
    "OutputSpec",
    "PriorLayer",
    "Raw",
    "ResidualLayer",
    "Smoothing",
    "Spectrum",
    "StateSpec",
    "StateTensor",
    "Statistic",
    "Statistics",
    "StreamSpec",
    "ThresholdsLayer",
    "WindowSpec",
    "effective_id",
]

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything read from ``bundle.yaml``: unknown keys are errors."""


# --- what the stream must deliver -------------------------------------------


class ChannelSpec(_Spec, frozen=True):
    """One channel: its name in the source, and its unit."""

    name: str
    unit: str = ""


class StreamSpec(_Spec, frozen=True):
    """The samples a model needs: channels in order, at ``rate_hz`` a second."""

    channels: Annotated[tuple[ChannelSpec, ...], Meta(min_length=1, max_length=4096)]
    rate_hz: Positive

    @property
    def period_ns(self) -> int:
        """Time between two samples, ns."""
        return round(1e9 / self.rate_hz)

    @property
    def names(self) -> tuple[str, ...]:
        """Channel names in order."""
        return tuple(channel.name for channel in self.channels)


class WindowSpec(_Spec, frozen=True):
    """Windows of ``length`` samples, one every ``hop`` samples.

    A jump in time of more than ``gap_periods`` sample periods starts a new
    window: no window ever spans a gap. ``pad`` samples of value 0 are imagined
    before the first sample, and again after every gap.
    """

    length: Count
    hop: Count
    gap_periods: Annotated[float, Meta(gt=1)] = 1.5
    pad: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.pad >= self.length:
            raise ConfigError(
                f"window has pad {self.pad} and length {self.length}",
                expected="pad below length",
                remedy="A window needs at least one real sample.",
            )


# --- features -----------------------------------------------------------------

Statistic = Literal["mean", "std", "rms", "min", "max", "ptp", "skewness", "kurtosis", "crest"]


class Raw(_Spec, frozen=True, tag_field="kind", tag="raw"):
    """The window itself, shape (length, channels); optionally scaled to peak 1."""

    peak: bool = False


class Statistics(_Spec, frozen=True, tag_field="kind", tag="statistics"):
    """Statistics per channel, channel-major: all of the first channel, then the next."""

    which: Annotated[tuple[Statistic, ...], Meta(min_length=1)]


class Spectrum(_Spec, frozen=True, tag_field="kind", tag="spectrum"):
    """Magnitude spectrum per channel, periodic Hann window, bins ``first`` to ``last`` inclusive.

    ``log`` gives ``ln(magnitude + 1e-6)``.
    """

    first: Annotated[int, Meta(ge=0)] = 0
    last: Annotated[int, Meta(ge=0)] | None = None
    remove_mean: bool = True
    log: bool = False


class LogMel(_Spec, frozen=True, tag_field="kind", tag="log_mel"):
    """Log-mel energies of a one-channel window, shape (frames, bands).

    Frames of ``frame_length`` samples every ``frame_step``, periodic Hann,
    ``fft_length``-point magnitude, ``bands`` triangular HTK-mel bands from
    ``low_hz`` to ``high_hz`` without area normalisation, then
    ``ln(x + log_offset)``. ``peak`` first scales the window to peak 1.
    """

    frame_length: Count
    frame_step: Count
    fft_length: Count
    bands: Count
    low_hz: NotNegative
    high_hz: Positive
    log_offset: Positive = 1e-6
    peak: bool = False


class Mfcc(_Spec, frozen=True, tag_field="kind", tag="mfcc"):
    """The first ``coefficients`` of the DCT-II of log-mel energies over ``sqrt(2 * bands)``."""

    mel: LogMel
    coefficients: Count


FeatureSpec = Raw | Statistics | Spectrum | LogMel | Mfcc


class Normalise(_Spec, frozen=True):
    """z-score: ``(x - mean) / std``, element by element over one window's features.

    Both lists have one number per feature element, or one per last axis.
    """

    mean: Annotated[tuple[float, ...], Meta(min_length=1)]
    std: Annotated[tuple[Positive, ...], Meta(min_length=1)]


# --- the model and its answer -------------------------------------------------


class ArtefactSpec(_Spec, frozen=True):
    """One model file of the bundle and the backend that runs it."""

    backend: str
    file: str
    precision: Literal["float32", "float16", "dynamic", "int8", "int16x8", "mixed"]


class StateTensor(_Spec, frozen=True):
    """An input of an ONNX model that carries state, and the output that becomes it next."""

    input: str
    output: str


class StateSpec(_Spec, frozen=True):
    """What the model keeps between windows that the file itself does not tell.

    Attributes:
        tensors: Explicit state, zeros at first.
        constants: Values of other inputs that never change, such as a sample rate.
        warm_up: Windows that decide the state: after a restart so many are played
            again to a model whose state cannot be read.
    """

    tensors: tuple[StateTensor, ...] = ()
    constants: dict[str, float] = {}
    warm_up: Annotated[int, Meta(ge=0, le=4096)] = 0


class OutputSpec(_Spec, frozen=True):
    """How raw scores become answers.

    ``activation`` turns the dequantised output into the reported scale.
    ``reconstruction`` takes the mean squared error between the model's input
    and output (an autoencoder). ``scale`` and ``offset`` are the calibration
    shipped with the base, applied in the link: ``scale * x + offset``.
    """

    activation: Literal["none", "softmax", "sigmoid", "reconstruction"] = "none"
    scale: float = 1.0
    offset: float = 0.0


class Smoothing(_Spec, frozen=True):
    """Mean of the last ``windows`` values before thresholds are applied."""

    windows: Count = 1


class Limit(_Spec, frozen=True):
    """A label starts when its value reaches ``on`` and ends when it falls below ``off``."""

    label: str
    on: float
    off: float

    def __post_init__(self) -> None:
        if self.off > self.on:
            raise ConfigError(
                f"limit of label {self.label!r} has on {self.on} and off {self.off}",
                expected="off at most on",
            )


LayerKind = Literal["normaliser", "calibration", "residual", "fusion", "prior", "thresholds"]


class Clamps(_Spec, frozen=True):
    """How far layers may move an answer. A stolen layer key can do no more.

    Attributes:
        kinds: Kinds of layer this base accepts at all.
        normaliser_shift: Largest change of a mean, in base standard deviations.
        normaliser_ratio: Largest ratio of a standard deviation to the base's, and its inverse.
        calibration_scale: Largest ratio of the scale, and its inverse.
        calibration_offset: Largest absolute offset, in the link.
        residual_weight: Largest absolute weight or intercept, in the link.
        residual: Largest absolute contribution of the residual; larger ones are cut to it.
        fusion_weight: Largest absolute fusion weight.
        prior: Largest absolute contribution of the prior; larger ones are cut to it.
        threshold: Largest absolute change of a threshold.
        age_s: Layers older than this, by their ``made_ns``, are refused and ignored.
    """

    kinds: tuple[LayerKind, ...] = ()
    normaliser_shift: NotNegative = 0.0
    normaliser_ratio: Annotated[float, Meta(ge=1)] = 1.0
    calibration_scale: Annotated[float, Meta(ge=1)] = 1.0
    calibration_offset: NotNegative = 0.0
    residual_weight: NotNegative = 0.0
    residual: NotNegative = 0.0
    fusion_weight: NotNegative = 0.0
    prior: NotNegative = 0.0
    threshold: NotNegative = 0.0
    age_s: Positive = 30 * 86400.0


class ModelSpec(_Spec, frozen=True):
    """Everything that decides the numbers, in one file: ``bundle.yaml``.

    Attributes:
        name: Model line.
        version: For people; the identity of a bundle is its digest.
        kind: What the model answers.
        stream: The samples it needs.
        window: How they are cut.
        features: Computed per window and, if several, flattened and concatenated.
        normalise: z-score of the features; None leaves them.
        artefacts: Model files in order of preference.
        state: What the model keeps between windows.
        labels: Names of the outputs in order; one for a regressor or scorer.
        unit: Unit of a regressor's value.
        output: How raw scores become answers.
        link: Where layers and fusion work.
        smoothing: Before the thresholds.
        limits: The operating point; labels without one never make decisions.
        clamps: What layers may change.
        tolerance: Largest difference of golden outputs, in reported units.
        golden: File of golden inputs and outputs (``.npz``).
        requires_runtime: Lowest version of edge-runtime that computes this.
        schema: Version of this file's format.
    """

    name: str
    version: str
    kind: Literal["classifier", "scorer", "regressor"]
    stream: StreamSpec
    window: WindowSpec
    artefacts: Annotated[tuple[ArtefactSpec, ...], Meta(min_length=1)]
    labels: Annotated[tuple[str, ...], Meta(min_length=1)]
    features: Annotated[tuple[FeatureSpec, ...], Meta(min_length=1)] = (Raw(),)
    normalise: Normalise | None = None
    state: StateSpec = StateSpec()
    unit: str = ""
    output: OutputSpec = OutputSpec()
    link: Literal["identity", "log_odds"] = "identity"
    smoothing: Smoothing = Smoothing()
    limits: tuple[Limit, ...] = ()
    clamps: Clamps = Clamps()
    tolerance: NotNegative = 1e-3
    golden: str = "golden.npz"
    requires_runtime: str = "0.1"
    schema: Literal[1] = 1

    def __post_init__(self) -> None:
        check_name(self.name, "model name")
        unknown = [limit.label for limit in self.limits if limit.label not in self.labels]
        if unknown:
            raise ConfigError(
                f"limits name the labels {unknown}", expected=f"labels from {list(self.labels)}"
            )


# --- layers ---------------------------------------------------------------------


class NormaliserLayer(msgspec.Struct, frozen=True, tag_field="kind", tag="normaliser"):
    """Replaces the base's mean and std, same lengths."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class CalibrationLayer(msgspec.Struct, frozen=True, tag_field="kind", tag="calibration"):
    """``scale * z + offset`` in the link, after the base's own calibration."""

    scale: float
    offset: float


class ResidualLayer(msgspec.Struct, frozen=True, tag_field="kind", tag="residual"):
    """Adds ``intercept + weights · x`` in the link, cut to the clamp.

    ``x`` are the window's features, flattened and normalised by the *base's*
    mean and std, so that a normaliser layer does not change them.
    """

    intercept: float
    weights: tuple[float, ...]


class FusionLayer(msgspec.Struct, frozen=True, tag_field="kind", tag="fusion"):
    """``z = w0 + w1 * z_edge + w2 * decay * (prior.value - prior.base)``."""

    w0: float
    w1: float
    w2: float


class PriorLayer(msgspec.Struct, frozen=True, tag_field="kind", tag="prior"):
    """What batch rescoring taught about this device, one number per label, in the link."""

    value: tuple[float, ...]
    base: tuple[float, ...]


class ThresholdsLayer(msgspec.Struct, frozen=True, tag_field="kind", tag="thresholds"):
    """Replaces limits by label; labels it leaves out keep the base's."""

    limits: tuple[Limit, ...]


LayerBody = (
    NormaliserLayer | CalibrationLayer | ResidualLayer | FusionLayer | PriorLayer | ThresholdsLayer
)


class Layer(msgspec.Struct, frozen=True):
    """A small set of numbers on top of one base. Unknown fields are kept out, not refused.

    Attributes:
        body: The numbers; its kind is the layer's kind.
        requires: Digest of the base it was computed for.
        seq: Counts up per device, model line and kind; never repeats.
        made_ns: Event time up to which it knows; ages count from here.
        scope: ``fleet``, ``group:<name>`` or ``device:<id>``.
        half_life_s: Its contribution halves every so often; None keeps it.
        expires_ns: From this event time on it is ignored; None for never.
    """

    body: LayerBody
    requires: str
    seq: int
    made_ns: int
    scope: str = "fleet"
    half_life_s: Positive | None = None
    expires_ns: int | None = None

    @property
    def kind(self) -> LayerKind:
        """Which kind of layer this is."""
        return self.body.__struct_config__.tag  # type: ignore[return-value]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical encoding, hex."""
        return hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """Return the canonical JSON encoding: the bytes that are signed."""
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, payload: bytes) -> Layer:
        """Read `encode`'s bytes.

        Raises:
            msgspec.ValidationError: They are no layer.
        """
        return msgspec.json.decode(payload, type=cls)


def effective_id(base: str, layers: Sequence[Layer] = ()) -> str:
    """Return the identity of what runs: a hash of the base and its ordered layers.

    Args:
        base: Digest of the base bundle, hex.
        layers: Active layers in order.

    Returns:
        16 hex digits.
    """
    text = "\n".join([base, *(layer.digest for layer in layers)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
