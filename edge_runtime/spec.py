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
    "MAIN",
    "ArtefactSpec",
    "AskNext",
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
    "GridSpec",
    "ImageSpec",
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
    "Reject",
    "ResidualLayer",
    "Sections",
    "Smoothing",
    "Spectrum",
    "StageSpec",
    "StateSpec",
    "StateTensor",
    "Statistic",
    "Statistics",
    "StreamSpec",
    "Taper",
    "ThresholdsLayer",
    "WindowKind",
    "WindowSpec",
    "as_builtins",
    "effective_id",
]

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
Hits = Annotated[int, Meta(ge=1, le=1024)]
MAIN = "model"
"""Name of the last stage of a cascade: the model that the bundle itself declares."""

# Slots that may be made up at once, so that a gap takes little memory.
_LONGEST_GAP = 1_000_000


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything read from ``bundle.yaml``: unknown keys are errors."""


# --- what the stream must deliver -------------------------------------------


class ChannelSpec(_Spec, frozen=True):
    """One channel: its name in the source, and its unit."""

    name: str
    unit: str = ""


class ImageSpec(_Spec, frozen=True):
    """What an image is made into: ``height`` samples, one a line, the top one first.

    The channels of a line are its pixels from left to right, the colours of a
    pixel side by side, 0 to 255.

    Attributes:
        height: Lines.
        width: Pixels in a line.
        colour: Which colours a pixel has, in order.
        fit: How a picture of another shape gets this one. ``stretch``: whatever its
            shape. ``crop``: the largest part from its middle that has this shape.
            ``letterbox``: the whole picture in the middle, black around it.
    """

    height: Annotated[int, Meta(ge=1, le=4096)]
    width: Annotated[int, Meta(ge=1, le=4096)]
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    fit: Literal["stretch", "crop", "letterbox"] = "stretch"

    @property
    def line_values(self) -> int:
        """Channels of a line."""
        return self.width * (1 if self.colour == "grey" else 3)


class GridSpec(_Spec, frozen=True, omit_defaults=True):
    """A clock grid: slot ``k`` lies ``k`` sample periods after the Unix epoch.

    The samples of a stream, in the order of their event time, give each slot at most
    one value per channel. A value that is NaN is no sample of that channel, so that
    several sensors may deliver different channels at different rates.

    Attributes:
        resample: ``nearest``: the sample closest to the slot, at most half a period
            away. ``mean``: the mean of those. ``hold``: the last one at or before the
            slot. ``linear``: on the line between its neighbours. The last two bridge
            up to ``window.gap_periods``.
        gaps: What becomes of slots without a sample. ``skip``: no window spans them.
            ``hold``: the last sample again. ``fill``: the line between the samples on
            both sides. ``mark``: NaN; windows with such a slot are withheld and counted.
        longest_gap_s: Of ``hold``, ``fill`` and ``mark``; longer gaps are skipped.
    """

    resample: Literal["nearest", "hold", "linear", "mean"] = "nearest"
    gaps: Literal["skip", "hold", "fill", "mark"] = "skip"
    longest_gap_s: NotNegative = 0.0

    def __post_init__(self) -> None:
        if (self.gaps == "skip") != (self.longest_gap_s == 0):
            raise ConfigError(
                f"grid has gaps {self.gaps!r} and longest_gap_s {self.longest_gap_s:g}",
                expected="a bound above 0 for hold, fill and mark, and none for skip",
                remedy="Set longest_gap_s to the longest gap that may be bridged.",
            )


# Without its defaults, so that older runtimes read what does not use newer keys.
class StreamSpec(_Spec, frozen=True, omit_defaults=True):
    """The samples a model needs: channels in order, at ``rate_hz`` a second.

    Attributes:
        channels: In the order of the model.
        rate_hz: Samples a second.
        image: Set where samples are the lines of images; there are ``rate_hz /
            image.height`` images a second.
        grid: Set where samples are put in order of their event time, one in each slot.
    """

    channels: Annotated[tuple[ChannelSpec, ...], Meta(min_length=1, max_length=4096)]
    rate_hz: Positive
    image: ImageSpec | None = None
    grid: GridSpec | None = None

    def __post_init__(self) -> None:
        if self.image is not None and self.grid is not None:
            raise ConfigError(
                "the stream has an image and a grid",
                expected="one of them",
                remedy="Images come as they are; leave out stream.grid.",
            )
        if self.grid is not None and self.grid.longest_gap_s * self.rate_hz > _LONGEST_GAP:
            raise ConfigError(
                f"grid has longest_gap_s {self.grid.longest_gap_s:g} at {self.rate_hz:g} Hz",
                expected=f"a gap of at most {_LONGEST_GAP} samples",
                remedy="Bridge shorter gaps; what is longer is skipped.",
            )
        if self.image is not None and len(self.channels) != self.image.line_values:
            raise ConfigError(
                f"the stream has {len(self.channels)} channels and images of "
                f"{self.image.width} {self.image.colour} pixels a line",
                expected=f"{self.image.line_values} channels",
                remedy="A line of an image is a sample: each colour of each pixel is a channel.",
            )

    @property
    def period_ns(self) -> int:
        """Time between two samples, ns."""
        return round(1e9 / self.rate_hz)

    @property
    def names(self) -> tuple[str, ...]:
        """Channel names in order."""
        return tuple(channel.name for channel in self.channels)


WindowKind = Literal["count", "tumbling", "hopping", "sliding", "session"]


class WindowSpec(_Spec, frozen=True, omit_defaults=True):
    """Windows of ``length`` samples, one every ``hop`` samples.

    A jump in time of more than ``gap_periods`` sample periods starts a new
    window: no window ever spans a gap. ``pad`` samples of value 0 are imagined
    before the first sample, and again after every gap.

    Attributes:
        length: Samples in a window; of a session, the most.
        hop: Samples from the start of one window to the next.
        gap_periods: What counts as a gap.
        pad: Samples imagined before a stretch.
        kind: ``count``: the first window begins with the first sample. The others need
            a grid, and begin where the number of the slot is a multiple of ``hop``:
            ``tumbling`` with a hop of one length, ``hopping`` with another one,
            ``sliding`` with a hop of 1. A ``session`` begins with the first sample
            after a silence and ends before the next.
        silence_s: How long a silence ends a session.
    """

    length: Count
    hop: Count
    gap_periods: Annotated[float, Meta(gt=1)] = 1.5
    pad: Annotated[int, Meta(ge=0)] = 0
    kind: WindowKind = "count"
    silence_s: Positive | None = None

    @property
    def is_aligned(self) -> bool:
        """Whether windows begin at multiples of their hop, whatever came before."""
        return self.kind in ("tumbling", "hopping", "sliding")

    def __post_init__(self) -> None:
        self._check_kind()
        if self.pad >= self.length:
            raise ConfigError(
                f"window has pad {self.pad} and length {self.length}",
                expected="pad below length",
                remedy="A window needs at least one real sample.",
            )

    def _check_kind(self) -> None:
        """Refuse keys that say something else than the kind does."""
        is_session = self.kind == "session"
        hop = {
            "tumbling": self.hop == self.length,
            "hopping": self.hop != self.length,
            "sliding": self.hop == 1,
            "session": self.hop == self.length,
        }
        fits = hop.get(self.kind, True) and (self.kind == "count" or not self.pad)
        if not fits or is_session != (self.silence_s is not None):
            raise ConfigError(
                f"a {self.kind} window has length {self.length}, hop {self.hop}, "
                f"pad {self.pad} and silence_s {self.silence_s}",
                expected=_WINDOW_KEYS[self.kind],
            )


_WINDOW_KEYS: dict[WindowKind, str] = {
    "count": "no silence_s",
    "tumbling": "hop equal to length, no pad, no silence_s",
    "hopping": "hop other than length, no pad, no silence_s",
    "sliding": "hop 1, no pad, no silence_s",
    "session": "hop equal to length, no pad, and silence_s",
}


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


# These three without their defaults, so that older runtimes read what does not use newer keys.
class OutputSpec(_Spec, frozen=True, omit_defaults=True):
    """How raw scores become answers.

    ``activation`` turns the dequantised output into the reported scale.
    ``reconstruction`` takes the mean squared error between the model's input
    and output (an autoencoder). ``scale`` and ``offset`` are the calibration
    shipped with the base, applied in the link: ``scale * x + offset``.
    ``temperature`` divides the logits before a softmax or sigmoid.
    """

    activation: Literal["none", "softmax", "sigmoid", "reconstruction"] = "none"
    scale: float = 1.0
    offset: float = 0.0
    temperature: Annotated[float, Meta(ge=1e-3, le=1e3)] = 1.0

    def __post_init__(self) -> None:
        if self.temperature != 1.0 and self.activation not in ("softmax", "sigmoid"):
            raise ConfigError(
                f"output has temperature {self.temperature:g} and activation {self.activation!r}",
                expected="a softmax or sigmoid, whose logits a temperature divides",
                remedy="Where the model itself ends in a sigmoid, use link log_odds "
                "and scale 1 / temperature.",
            )


class Smoothing(_Spec, frozen=True, omit_defaults=True):
    """What becomes of a label's values before thresholds are applied.

    ``mean`` and ``median`` take the last ``windows`` values. ``exponential`` moves
    by a share of the way to each new value: by ``alpha``, or by ``1 - 2^(-dt /
    half_life_s)`` for a value that came dt after the one before, in event time.

    Attributes:
        windows: How many values a mean or median takes.
        kind: Which of the three.
        alpha: Share of a new value.
        half_life_s: After so long half of the way is left.
    """

    windows: Count = 1
    kind: Literal["mean", "median", "exponential"] = "mean"
    alpha: Annotated[float, Meta(gt=0, le=1)] | None = None
    half_life_s: Positive | None = None

    def __post_init__(self) -> None:
        paces = (self.alpha is not None) + (self.half_life_s is not None)
        is_exponential = self.kind == "exponential"
        if paces != is_exponential or (is_exponential and self.windows != 1):
            raise ConfigError(
                f"{self.kind} smoothing has windows {self.windows}, alpha {self.alpha} "
                f"and half_life_s {self.half_life_s}",
                expected="alpha or half_life_s, and no windows"
                if is_exponential
                else "windows alone",
            )


class Reject(_Spec, frozen=True):
    """Values from ``low`` to below ``high`` are uncertain: they start and end nothing."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ConfigError(
                f"reject has low {self.low} and high {self.high}", expected="low below high"
            )


class Limit(_Spec, frozen=True, omit_defaults=True):
    """A label starts when its value reaches ``on`` and ends when it falls below ``off``.

    Attributes:
        label: Which one.
        on: Lowest smoothed value that lets it start.
        off: It ends below.
        k_of_n: It starts with a window that reaches ``on`` where k of the last n did,
            since it last ended. ``[n, n]`` is a least duration.
        refractory_s: Once ended, it does not start again for so long, in event time.
        reject: Between these two values the answer is uncertain.
    """

    label: str
    on: float
    off: float
    k_of_n: tuple[Hits, Hits] = (1, 1)
    refractory_s: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    reject: Reject | None = None

    def __post_init__(self) -> None:
        if self.off > self.on:
            raise ConfigError(
                f"limit of label {self.label!r} has on {self.on} and off {self.off}",
                expected="off at most on",
            )
        if self.k_of_n[0] > self.k_of_n[1]:
            raise ConfigError(
                f"limit of label {self.label!r} has k_of_n {list(self.k_of_n)}",
                expected="k at most n",
            )

    @property
    def is_plain(self) -> bool:
        """Whether ``on`` and ``off`` are all there is to it."""
        return self.k_of_n == (1, 1) and self.refractory_s == 0.0 and self.reject is None

    def moved(self, to: Limit) -> Limit:
        """Return this limit with the thresholds of another; the rest stays the base's."""
        reject = self.reject and (to.reject or self.reject)
        return msgspec.structs.replace(self, on=to.on, off=to.off, reject=reject)


# --- cascades ---------------------------------------------------------------------


class AskNext(_Spec, frozen=True, omit_defaults=True):
    """When a stage leaves a window to the next one: where its value lies in an interval.

    A value that is not a number is left to the next one too: a stage that is broken
    silences nothing.

    Attributes:
        at_least: Lowest value that is left to the next one; None for any.
        below: Values from here on are not; None for none.
        label: Whose value; None takes the largest of all labels.
    """

    at_least: float | None = None
    below: float | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        bounds = [bound for bound in (self.at_least, self.below) if bound is not None]
        if not bounds or sorted(set(bounds)) != bounds:
            raise ConfigError(
                f"ask_next has at_least {self.at_least} and below {self.below}",
                expected="one of them, or at_least under below",
                remedy="Ask the next model from at_least (a gate), below a bound (an early "
                "exit), or between the two (the uncertain ones).",
            )

    def __str__(self) -> str:
        bounds = {"from": self.at_least, "below": self.below}
        text = " ".join(f"{word} {one:g}" for word, one in bounds.items() if one is not None)
        return f"{self.label or 'the largest value'} {text}"


class StageSpec(_Spec, frozen=True, omit_defaults=True):
    """A model that is asked before the bundle's own one, about the same windows.

    Attributes:
        name: Of the stage, for metrics.
        ask_next: Which windows are left to the next stage. All others are answered here.
        artefacts: Model files in order of preference; without one the stage's features,
            normalised, are its values, one for each of its labels.
        labels: Names of its outputs in order; none takes the bundle's.
        features: As of the bundle, over the same window.
        normalise: As of the bundle; layers do not move it.
        output: As of the bundle, in the bundle's link.
        state: As of the bundle.
        idle: What the answer of a window is that ends here, one number for each of the
            bundle's labels; none takes the stage's own values.
        feeds: Whether the next model sees the windows too that it is not asked about, so
            that its state goes on. Else its stretch ends with the last one it was asked.
    """

    name: str
    ask_next: AskNext
    artefacts: Annotated[tuple[ArtefactSpec, ...], Meta(max_length=16)] = ()
    labels: tuple[str, ...] = ()
    features: Annotated[tuple[FeatureSpec, ...], Meta(min_length=1)] = (Raw(),)
    normalise: Normalise | None = None
    output: OutputSpec = OutputSpec()
    state: StateSpec = StateSpec()
    idle: Annotated[tuple[float, ...], Meta(max_length=4096)] = ()
    feeds: bool = False

    def __str__(self) -> str:
        model = self.artefacts[0].file if self.artefacts else "its features alone"
        return f"{self.name} ({model}) asks the next for {self.ask_next}"

    def __post_init__(self) -> None:
        check_name(self.name, "stage name")
        is_bare = not self.artefacts
        if is_bare and (self.output.activation == "reconstruction" or self.state != StateSpec()):
            raise ConfigError(
                f"stage {self.name!r} has no artefacts, activation {self.output.activation!r} "
                f"and {'no ' if self.state == StateSpec() else ''}state",
                expected="a model that reconstructs or keeps state, or neither of them",
                remedy="Add the stage's artefacts, or let its features be its values.",
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
        threshold: Largest absolute change of a threshold, of ``reject`` too.
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
        cascade: Models that are asked before this one, in order.
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
    cascade: Annotated[tuple[StageSpec, ...], Meta(max_length=8)] = ()

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of all models in the order they are asked; none without a cascade."""
        return (*(stage.name for stage in self.cascade), MAIN) if self.cascade else ()

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
        if self.stream.image is not None:
            _check_window(self.window, self.stream.image)
        if self.window.kind != "count" and self.stream.grid is None:
            raise ConfigError(
                f"a {self.window.kind} window on a stream without a grid",
                expected="stream.grid",
                remedy="Add 'grid: {}' to the stream, or use kind count.",
            )
        if self.window.kind == "session":
            _check_session(self)
        if len(set(self.stages)) != len(self.stages):
            raise ConfigError(
                f"the stages of the cascade are named {list(self.stages[:-1])}",
                expected=f"distinct names, none of them {MAIN!r}, which is the bundle's own model",
                remedy="Rename the stage.",
            )
        for stage in self.cascade:
            _check_stage(stage, self)


def _check_stage(stage: StageSpec, spec: ModelSpec) -> None:
    """Refuse a stage that cannot answer in place of the bundle's own model."""
    labels = stage.labels or spec.labels
    asked = stage.ask_next.label
    if asked is not None and asked not in labels:
        raise ConfigError(
            f"stage {stage.name!r} asks by the label {asked!r}",
            expected=f"one of its labels, {list(labels)}",
            remedy="Correct ask_next.label, or declare the labels of the stage.",
        )
    if stage.idle and len(stage.idle) != len(spec.labels):
        raise ConfigError(
            f"stage {stage.name!r} has {len(stage.idle)} idle values",
            expected=f"{len(spec.labels)}, one for each of {list(spec.labels)}",
            remedy="Say what the bundle answers where this stage ends it.",
        )
    if not stage.idle and labels != spec.labels:
        raise ConfigError(
            f"stage {stage.name!r} has the labels {list(labels)} and no idle values",
            expected=f"the bundle's labels, {list(spec.labels)}, or idle",
            remedy="Add idle: the answer of a window that this stage does not pass on.",
        )


def _check_session(spec: ModelSpec) -> None:
    """Refuse what needs windows of one length."""
    features = [*spec.features, *(one for stage in spec.cascade for one in stage.features)]
    is_free = all(isinstance(feature, Statistics) for feature in features)
    if not is_free or spec.filters:
        raise ConfigError(
            f"session windows with {len(spec.filters)} filters and the features "
            f"{[feature.__struct_config__.tag for feature in features]}",
            expected="statistics alone, and no filters",
            remedy="A session has no fixed length; its features may not depend on one.",
        )


def as_builtins(spec: ModelSpec) -> dict[str, object]:
    """Return what ``bundle.yaml`` says of a model.

    A cascade is left out where there is none, so that older runtimes read it.
    """
    document: dict[str, object] = msgspec.to_builtins(spec)
    if not spec.cascade:
        del document["cascade"]
    return document


def _check_window(window: WindowSpec, image: ImageSpec) -> None:
    """Refuse windows that begin or end within an image, or could lose its lines."""
    is_whole = window.length % image.height == 0 and window.hop % image.height == 0
    if not is_whole or window.pad or window.gap_periods < 1.5:
        raise ConfigError(
            f"the window has length {window.length}, hop {window.hop}, pad {window.pad} and "
            f"gap_periods {window.gap_periods:g} on images of {image.height} lines",
            expected=f"length and hop in multiples of {image.height}, no pad, "
            "and gap_periods of at least 1.5",
            remedy="A window is made of whole images.",
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
    """Moves ``on``, ``off`` and ``reject`` by label; labels it leaves out keep the base's.

    ``k_of_n`` and ``refractory_s`` are the base's, whatever a layer says.
    """

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
