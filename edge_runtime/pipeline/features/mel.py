"""Log-mel energies and their cosine transform."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.pipeline.features.feature import Reals, misfit
from edge_runtime.pipeline.features.fourier import Spectra, power_of, rfft_into, taper_of
from edge_runtime.pipeline.features.frames import FRAMES_AT_ONCE, Framed, FrameTable, Framing
from edge_runtime.spec import LogMel, Mfcc

__all__ = ["framing_of", "log_mel", "mfcc"]

_SMALLEST = float(np.finfo(np.float64).tiny)


def log_mel(spec: LogMel, window: tuple[int, int], rate_hz: float, hop: int | None) -> Framed:
    """Make the feature `LogMel`.

    Raises:
        ShapeError: It does not fit the window or the rate.
    """
    return _framed(_LogMelTable(_MelTables(spec, rate_hz)), spec, window, hop)


def mfcc(spec: Mfcc, window: tuple[int, int], rate_hz: float, hop: int | None) -> Framed:
    """Make the feature `Mfcc`.

    Raises:
        ShapeError: It does not fit the window or the rate.
    """
    table = _LogMelTable(_MelTables(spec.mel, rate_hz))
    cosines = _cosines(spec.mel.bands, spec.coefficients)
    return _framed(_MfccTable(table, cosines), spec, window, hop)


def _framed(
    table: FrameTable, spec: LogMel | Mfcc, window: tuple[int, int], hop: int | None
) -> Framed:
    framing = framing_of(spec, window)
    count, new = framing.count(window[0]), framing.new(window[0], hop)
    return Framed(table, framing, count=count, new=new)


def framing_of(spec: LogMel | Mfcc, window: tuple[int, int]) -> Framing:
    """Return how frames lie in a window.

    Raises:
        ShapeError: They do not, or there are more coefficients than bands.
    """
    if isinstance(spec, Mfcc):
        if spec.coefficients > spec.mel.bands:
            raise misfit(spec, f"{spec.coefficients} coefficients", f"at most {spec.mel.bands}")
        spec = spec.mel
    length, channels = window
    if channels != 1:
        raise misfit(spec, f"a window of shape {window}", "one channel")
    framing = Framing(spec.frame_length, spec.frame_step, int(spec.pre_emphasis > 0), spec.peak)
    samples = length - framing.lead
    if spec.frame_length > min(samples, spec.fft_length):
        raise misfit(
            spec,
            f"frame_length {spec.frame_length}",
            f"at most fft_length {spec.fft_length} and the window's {samples} samples",
        )
    if spec.low_hz >= spec.high_hz:
        raise misfit(spec, f"bands from {spec.low_hz} to {spec.high_hz} Hz", "low_hz < high_hz")
    return framing


# --- bands ------------------------------------------------------------------------


def _htk_mel(hz: Reals) -> Reals:
    """HTK mel scale, ``1127 ln(1 + f / 700)``.

    Source: Young et al., "The HTK Book", section 5.4.
    """
    return 1127.0 * np.log1p(hz / 700.0)


def _slaney_hz(low_hz: float, high_hz: float, count: int) -> Reals:
    """Frequencies at equal steps on Slaney's mel scale.

    Linear, 3 mel every 200 Hz, up to 1000 Hz, and 27 mel for each factor of 6.4 above.
    Source: Slaney 1998, "Auditory Toolbox" version 2; librosa's ``mel_frequencies``.
    """
    knee_hz, knee_mel, step = 1000.0, 15.0, math.log(6.4) / 27
    low, high = (
        3 * hz / 200 if hz < knee_hz else knee_mel + math.log(hz / knee_hz) / step
        for hz in (low_hz, high_hz)
    )
    mel = np.linspace(low, high, count)
    return np.where(mel < knee_mel, 200 * mel / 3, knee_hz * np.exp(step * (mel - knee_mel)))


class _Bands:
    """Sums of bins weighted by triangles that overlap by half.

    Only the bins inside a triangle are multiplied, and each band is summed by
    itself: a frame's sums do not depend on how many frames there are.

    Attributes:
        bins: The bins that any band hears.
    """

    def __init__(self, spec: LogMel, rate_hz: float) -> None:
        weights = _weights(spec, rate_hz)
        heard = np.flatnonzero(weights.any(axis=1))
        first, last = (int(heard[0]), int(heard[-1])) if len(heard) else (0, 0)
        self.bins = slice(first, last + 1)
        band, self._index = np.nonzero(weights[self.bins].T)
        self._weights = weights[self.bins].T[band, self._index]
        filled, self._starts = np.unique(band, return_index=True)
        self._filled = None if len(filled) == spec.bands else filled
        self._count = spec.bands

    def __call__(self, levels: Reals) -> Reals:
        """Return band sums, shape (m, bands), of the levels of `bins`, shape (m, k)."""
        weighted = levels.take(self._index, axis=1)
        weighted *= self._weights
        if self._filled is None:
            energies: Reals = np.add.reduceat(weighted, self._starts, axis=1)
            return energies
        # Bands so narrow that they lie between two bins hear nothing.
        energies = np.zeros((len(levels), self._count))
        if len(self._filled):
            energies[:, self._filled] = np.add.reduceat(weighted, self._starts, axis=1)
        return energies


def _weights(spec: LogMel, rate_hz: float) -> Reals:
    """Triangles of height 1 or area 1, shape (bins, bands); bin 0 has no weight.

    Source: TensorFlow's ``linear_to_mel_weight_matrix``; librosa's ``filters.mel``.
    """
    hz: Reals = np.arange(1.0, spec.fft_length // 2 + 1, dtype=np.float64)
    hz *= rate_hz / spec.fft_length
    corners, place = _corners(spec, hz)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (place[:, None] - left) / (centre - left)
    falling = (right - place[:, None]) / (right - centre)
    weights = np.maximum(0, np.minimum(rising, falling))
    if spec.mel == "librosa":
        weights *= 2.0 / (right - left)
    return np.vstack([np.zeros((1, spec.bands)), weights])


def _corners(spec: LogMel, hz: Reals) -> tuple[Reals, Reals]:
    """Return the corners of the triangles and the place of every bin on one scale."""
    if spec.mel == "librosa":
        return _slaney_hz(spec.low_hz, spec.high_hz, spec.bands + 2), hz
    low, high = _htk_mel(np.array([spec.low_hz, spec.high_hz]))
    return np.linspace(low, high, spec.bands + 2), _htk_mel(hz)


# --- frames -----------------------------------------------------------------------


class _MelTables:
    """The numbers behind log-mel energies; shared by all streams.

    Attributes:
        spec: As given.
        taper: Window function times gain.
        bands: Sums bins.
        factor: What the natural logarithm is multiplied by.
        shift: What is added then.
    """

    def __init__(self, spec: LogMel, rate_hz: float) -> None:
        if spec.high_hz > rate_hz / 2:
            raise misfit(spec, f"high_hz {spec.high_hz}", f"at most half of {rate_hz} Hz")
        self.spec = spec
        self.taper = taper_of(spec.taper, spec.frame_length) * spec.gain
        self.bands = _Bands(spec, rate_hz)
        self.factor = spec.scale * (10 / math.log(10) if spec.log == "db" else 1.0)
        self.shift = spec.scale * spec.offset


class _LogMelTable:
    """Log of mel-band sums of the short-time spectrum.

    Source: the TensorFlow ``stft`` and ``linear_to_mel_weight_matrix`` operations,
    as the MLPerf Tiny references for keywords and streaming wake words use them.
    """

    def __init__(self, tables: _MelTables) -> None:
        self._tables = tables
        self.width = tables.spec.bands
        size = tables.spec.fft_length
        # Room to compute in: what lies behind a frame stays 0.
        self._padded: Reals = np.zeros((FRAMES_AT_ONCE, size))
        self._spectra: Spectra = np.empty((FRAMES_AT_ONCE, size // 2 + 1), np.complex128)
        self._tapered = self._padded[:, : tables.spec.frame_length]
        self._heard = self._spectra[:, tables.bands.bins]

    def fork(self) -> _LogMelTable:
        """Return one with the same tables and room of its own."""
        return _LogMelTable(self._tables)

    def fill(self, frames: np.ndarray, rows: np.ndarray) -> None:
        """Write the energies of every frame into (m, bands)."""
        rows[...] = self.energies(frames)

    def energies(self, frames: np.ndarray) -> Reals:
        """Return the energies of frames (m, lead + length), shape (m, bands), float64."""
        m, spec, tables = len(frames), self._tables.spec, self._tables
        tapered = self._tapered[:m]
        if spec.pre_emphasis:
            np.multiply(frames[:, :-1], -spec.pre_emphasis, out=tapered, dtype=np.float64)
            tapered += frames[:, 1:]
            frames = tapered
        np.multiply(frames, tables.taper, out=tapered)
        rfft_into(self._padded[:m], self._spectra[:m])
        heard = self._heard[:m]
        # The last bit of a magnitude depends on the machine, but not on the frame's neighbours.
        levels = np.abs(heard) if spec.spectrum == "magnitude" else power_of(heard)
        energies = tables.bands(levels)
        if spec.log != "none":
            _take_log(energies, spec.log_offset)
        return self._scaled(energies)

    def _scaled(self, energies: Reals) -> Reals:
        tables = self._tables
        if tables.factor != 1.0:
            energies *= tables.factor
        if tables.shift:
            energies += tables.shift
        if tables.spec.clip is not None:
            low, high = tables.spec.clip
            np.minimum(np.maximum(energies, low, out=energies), high, out=energies)
        return energies


def _take_log(energies: Reals, offset: float) -> None:
    if offset:
        energies += offset
    else:
        np.maximum(energies, _SMALLEST, out=energies)
    np.log(energies, out=energies)


def _cosines(bands: int, coefficients: int) -> Reals:
    """Return the cosine transform, shape (coefficients, bands)."""
    angles = np.outer(np.arange(coefficients), 2 * np.arange(bands) + 1)
    cosines: Reals = 2 * np.cos(np.pi * angles / (2 * bands)) / np.sqrt(2 * bands)
    return cosines


class _MfccTable:
    """Cosine transform of log-mel energies.

    ``c_k = sum_b 2 m_b cos(pi k (2 b + 1) / (2 B)) / sqrt(2 B)``.
    Source: Davis and Mermelstein 1980; scaling of TensorFlow's ``mfccs_from_log_mel_spectrograms``.
    """

    def __init__(self, mel: _LogMelTable, cosines: Reals) -> None:
        self._mel = mel
        self._cosines = cosines
        self.width = len(cosines)

    def fork(self) -> _MfccTable:
        """Return one with the same tables and room of its own."""
        return _MfccTable(self._mel.fork(), self._cosines)

    def fill(self, frames: np.ndarray, rows: np.ndarray) -> None:
        """Write the coefficients of every frame into (m, coefficients)."""
        energies = self._mel.energies(frames)
        # Products, then a sum along each contiguous row: a matrix product would
        # add in an order that depends on how many frames there are.
        rows[...] = np.add.reduce(energies[:, None, :] * self._cosines, axis=-1)
