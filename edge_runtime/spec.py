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
    "BandPower",
    "Butterworth",
    "CalibrationLayer",
    "ChannelSpec",
    "Clamps",
    "Envelope",
    "EnvelopeSpectrum",
    "FeatureSpec",
    "FilterSpec",
    "FusionLayer",
    "Layer",
    "LayerBody",
    "LayerKind",
    "Limit",
    "LogMel",
    "Mfcc",
    "MicroFrontend",
    "ModelSpec",
    "Normalise",
    "NormaliserLayer",
    "Notch",
    "OutputSpec",
    "PriorLayer",
    "Raw",
    "Rectify",
    "ResidualLayer",
    "Sections",
    "Smoothing",
    "Spectrum",
    "StateSpec",
    "StateTensor",
    "Statistic",
    "Statistics",
    "StreamSpec",
    "Taper",
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


# --- filters ------------------------------------------------------------------

Passband = Literal["lowpass", "highpass", "bandpass", "bandstop"]
Section = Annotated[tuple[float, ...], Meta(min_length=6, max_length=6)]


class Butterworth(_Spec, frozen=True, tag_field="kind", tag="butterworth"):
    """Butterworth filter of ``order`` with its corners (-3 dB) in Hz.

    ``lowpass`` and ``highpass`` have one corner, ``bandpass`` and ``bandstop`` two;
    these have twice the order, as elsewhere.
    """

    band: Passband
    corners_hz: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=2)]
    order: Annotated[int, Meta(ge=1, le=12)] = 4

    def __post_init__(self) -> None:
        corners = self.corners_hz
        expected = 1 if self.band in ("lowpass", "highpass") else 2
        if len(corners) != expected or list(corners) != sorted(set(corners)):
            raise ConfigError(
                f"a {self.band} has the corners {list(corners)}",
                expected="one corner" if expected == 1 else "two corners, the lower one first",
            )


class Notch(_Spec, frozen=True, tag_field="kind", tag="notch"):
    """Takes out one frequency; ``quality`` is that frequency over the width at -3 dB."""

    frequency_hz: Positive
    quality: Positive = 30.0


class Sections(_Spec, frozen=True, tag_field="kind", tag="sections"):
    """Second-order sections ``[b0, b1, b2, a0, a1, a2]`` one after the other."""

    sections: Annotated[tuple[Section, ...], Meta(min_length=1, max_length=16)]


class Rectify(_Spec, frozen=True, tag_field="kind", tag="rectify"):
    """The absolute value of every sample."""


FilterSpec = Butterworth | Notch | Sections | Rectify


# --- features -----------------------------------------------------------------

Statistic = Literal[
    "mean",
    "std",
    "rms",
    "min",
    "max",
    "ptp",
    "skewness",
    "kurtosis",
    "crest",
    "abs_mean",
    "shape",
    "impulse",
    "zero_crossings",
]
Taper = Literal["hann", "hann_symmetric", "hamming", "hamming_symmetric", "none"]
Band = Annotated[tuple[NotNegative, ...], Meta(min_length=2, max_length=2)]


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


class BandPower(_Spec, frozen=True, tag_field="kind", tag="band_power"):
    """Power in each band, shape (channels, bands), in the channel's unit squared.

    The density is Welch's: segments of ``segment`` samples that overlap by half
    (None: one segment, the whole window), their means removed, periodic Hann.
    A band ``[low, high]`` in Hz sums the bins with ``low <= f < high``. ``log``
    gives ``ln(power + 1e-12)``.
    """

    bands: Annotated[tuple[Band, ...], Meta(min_length=1)]
    segment: Annotated[int, Meta(ge=2)] | None = None
    log: bool = False


class Envelope(_Spec, frozen=True, tag_field="kind", tag="envelope"):
    """Magnitude of the analytic signal of each channel, shape (length, channels).

    Frequencies outside ``low_hz`` to ``high_hz`` (None: half the rate) are taken out
    first, and so is the mean.
    """

    low_hz: NotNegative = 0.0
    high_hz: Positive | None = None


class EnvelopeSpectrum(_Spec, frozen=True, tag_field="kind", tag="envelope_spectrum"):
    """Amplitudes of the frequencies in the envelope, shape (channels, bins).

    Bins ``first`` to ``last`` inclusive of ``2 / N |rfft(e - mean(e))|``: how deep the
    signal between ``low_hz`` and ``high_hz`` is modulated, as faults of bearings do.
    """

    low_hz: NotNegative = 0.0
    high_hz: Positive | None = None
    first: Annotated[int, Meta(ge=0)] = 1
    last: Annotated[int, Meta(ge=0)] | None = None


class LogMel(_Spec, frozen=True, tag_field="kind", tag="log_mel"):
    """Log-mel energies of a one-channel window, shape (frames, bands).

    Samples, times ``gain``, are cut into frames of ``frame_length`` every
    ``frame_step``; ``taper``, ``fft_length``-point ``spectrum``, ``bands``
    triangular bands from ``low_hz`` to ``high_hz``, then
    ``clip((log(x + log_offset) + offset) * scale)``.

    Attributes:
        peak: First scale the window to peak 1; frames cannot be reused then.
        taper: Periodic unless it says symmetric.
        pre_emphasis: ``x[n] - pre_emphasis * x[n - 1]``; not 0 takes the window's first
            sample for the one before its first frame.
        spectrum: ``magnitude``, or its square.
        mel: ``tensorflow``: HTK scale, triangles straight in mel, of height 1.
            ``librosa``: Slaney's scale, triangles straight in Hz, of area 1.
        log: ``ln``, ``db`` (``10 log10``), or ``none``.
        clip: Lowest and highest value.
    """

    frame_length: Count
    frame_step: Count
    fft_length: Annotated[int, Meta(ge=1, le=1 << 15)]
    bands: Annotated[int, Meta(ge=1, le=256)]
    low_hz: NotNegative
    high_hz: Positive
    log_offset: NotNegative = 1e-6
    peak: bool = False
    taper: Taper = "hann"
    gain: Positive = 1.0
    pre_emphasis: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    spectrum: Literal["magnitude", "power"] = "magnitude"
    mel: Literal["tensorflow", "librosa"] = "tensorflow"
    log: Literal["ln", "db", "none"] = "ln"
    offset: float = 0.0
    scale: float = 1.0
    clip: Annotated[tuple[float, ...], Meta(min_length=2, max_length=2)] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            raise ConfigError(f"clip is {list(self.clip)}", expected="the lower value first")


class Mfcc(_Spec, frozen=True, tag_field="kind", tag="mfcc"):
    """The first ``coefficients`` of the DCT-II of log-mel energies over ``sqrt(2 * bands)``."""

    mel: LogMel
    coefficients: Count


class MicroFrontend(_Spec, frozen=True, tag_field="kind", tag="micro_frontend"):
    """The TensorFlow Lite Micro audio front end, shape (frames, 40).

    Frames of 30 ms every 10 ms of one int16 channel at 16 kHz, with noise reduction
    and gain control: a frame depends on all the stream before it.
    """


FeatureSpec = (
    Raw
    | Statistics
    | Spectrum
    | BandPower
    | Envelope
    | EnvelopeSpectrum
    | LogMel
    | Mfcc
    | MicroFrontend
)


# --- normaliser ---------------------------------------------------------------


class Normalise(_Spec, frozen=True):
    """Brings features to one scale, element by element over one window's features.

    ``z_score``: ``(x - mean) / std``. ``quantile``: the share of the training values
    below ``x``, between ``knots`` on a line, and for ``output: normal`` the point of
    the normal distribution below which that share lies.

    Attributes:
        mean: One number per feature element, or one per last axis.
        std: As many.
        kind: Which of the two.
        knots: Quantiles at equal steps from 0 to 1, ascending, one list per feature
            element or per last axis, all of one length.
        output: What a quantile normaliser gives out.
    """

    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()
    kind: Literal["z_score", "quantile"] = "z_score"
    knots: tuple[Annotated[tuple[float, ...], Meta(min_length=2, max_length=1024)], ...] = ()
    output: Literal["uniform", "normal"] = "uniform"

    def __post_init__(self) -> None:
        given = {"mean": self.mean, "std": self.std, "knots": self.knots}
        needed = ("mean", "std") if self.kind == "z_score" else ("knots",)
        if any(bool(numbers) != (name in needed) for name, numbers in given.items()):
            raise ConfigError(
                f"a {self.kind} normaliser has "
                + ", ".join(f"{len(numbers)} {name}" for name, numbers in given.items()),
                expected=" and ".join(needed) + " alone",
            )
        lengths = {len(knots) for knots in self.knots}
        if len(lengths) > 1 or any(list(knots) != sorted(knots) for knots in self.knots):
            raise ConfigError(
                f"knots come in the lengths {sorted(lengths)}",
                expected="one length, and every list ascending",
            )


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
        filters: Applied to the stream of samples, in order, before windows are cut.
        features: Computed per window and, if several, flattened and concatenated.
        normalise: Brings the features to one scale; None leaves them.
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
    filters: Annotated[tuple[FilterSpec, ...], Meta(max_length=16)] = ()
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
        is_quantile = self.normalise is not None and self.normalise.kind == "quantile"
        if is_quantile and "normaliser" in self.clamps.kinds:
            raise ConfigError(
                "clamps allow normaliser layers on a quantile normaliser",
                expected="a z_score normaliser, or no such layers",
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
