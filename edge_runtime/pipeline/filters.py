"""Filters of the sample stream, as block state space.

A chain of second-order sections is a linear system ``s' = A s + B u, y = C s + D u``.
Lifted to blocks of samples it is one matrix: what comes out and the state after
the block are a product of it with the state before and the block's samples. One
small product a block takes the place of a loop over samples.
Source: Oppenheim and Schafer, "Discrete-Time Signal Processing", section 6.3;
Burrus 1972, "Block realization of digital filters".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.errors import ConfigError, ModelError, ShapeError
from edge_runtime.spec import Butterworth, FilterSpec, Notch, Passband, Rectify, Sections

__all__ = ["StreamFilter", "sections_of"]

_Reals = NDArray[np.float64]
_Roots = NDArray[np.complex128]

_REMEDY = "Change the filter in the model's bundle.yaml."


class StreamFilter:
    """Filters one stream, whole blocks at a time; used by one thread.

    Computed in float64 with one product of fixed shape per block, so that the
    bytes that come out do not depend on how many blocks come together. A block
    with a value that is not finite comes out as NaN in that channel, and the
    filter begins anew, at rest, after it.

    Args:
        specs: Filters in order.
        channels: Channels of the stream.
        rate_hz: Samples a second.
        block: Samples of a block; a block costs by their square, 64 is a good number.

    Raises:
        ConfigError: A corner lies beyond half the rate, or a section is unstable.
    """

    def __init__(
        self, specs: Sequence[FilterSpec], *, channels: int, rate_hz: float, block: int
    ) -> None:
        self._channels = channels
        self._block = block
        self._stages = [
            _Linear(stage, channels, block) if stage is not None else _rectify
            for stage in _stages(specs, rate_hz)
        ]
        self._linear = [stage for stage in self._stages if isinstance(stage, _Linear)]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Filter the next samples.

        Args:
            rows: Shape (k * block, channels), k >= 1, real numbers.

        Returns:
            Same shape, float32.

        Raises:
            ShapeError: These are not whole blocks of the stream's channels.
        """
        count, channels = rows.shape
        if channels != self._channels or count % self._block or not count:
            raise ShapeError(
                f"{count} rows of {channels} channels",
                where="filter",
                expected=f"whole blocks of {self._block} rows of {self._channels} channels",
            )
        filtered = np.empty((count, channels), np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # what is lost is made NaN
            for first in range(0, count, self._block):
                part = slice(first, first + self._block)
                wave = rows[part]
                for stage in self._stages:
                    wave = stage(wave)
                filtered[part] = wave
        return filtered

    def reset(self) -> None:
        """Go back to rest."""
        for stage in self._linear:
            stage.state[:] = 0.0

    def state(self) -> bytes:
        """Return what the filter remembers, for `restore`."""
        return b"".join(stage.state.tobytes() for stage in self._linear)

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes.

        Raises:
            ModelError: They are not those of such a filter; it is then as it was.
        """
        sizes = [stage.state.size for stage in self._linear]
        if len(state) != 8 * sum(sizes):
            raise _unfit(f"{len(state)} bytes", f"{8 * sum(sizes)} bytes")
        numbers = np.frombuffer(state)
        if not np.isfinite(numbers).all():
            raise _unfit("numbers that are not finite", "finite ones")
        for stage, part in zip(self._linear, np.split(numbers, np.cumsum(sizes)[:-1]), strict=True):
            stage.state[:] = part.reshape(stage.state.shape)


def _unfit(what: str, expected: str) -> ModelError:
    return ModelError(
        f"a state of {what}",
        where="filter",
        expected=expected,
        remedy="Start without the snapshot; the filter begins at rest.",
    )


def _rectify(wave: np.ndarray) -> _Reals:
    return np.abs(wave.astype(np.float64))


class _Linear:
    """Sections one after the other, over blocks.

    Attributes:
        state: Of every channel, shape (states, channels).
    """

    def __init__(self, sections: _Reals, channels: int, block: int) -> None:
        a, b, c, d = _state_space(sections)
        self._lifted = _lifted(a, b, c, d, block)
        self._block = block
        self._joined = np.zeros((len(a) + block, channels))
        self.state, self._wave = self._joined[: len(a)], self._joined[len(a) :]

    def __call__(self, wave: np.ndarray) -> _Reals:
        """Return the filtered block, shape (block, channels), float64, and move on."""
        self._wave[...] = wave
        moved: _Reals = np.dot(self._lifted, self._joined)
        filtered, state = moved[: self._block], moved[self._block :]
        # A sum is finite only if every number in it is.
        if not math.isfinite(np.add.reduce(state, axis=None)):
            is_lost = ~np.isfinite(state).all(axis=0)
            moved[:, is_lost] = np.nan
            state = np.where(is_lost, 0.0, state)
        self.state[...] = state
        return filtered


def _state_space(sections: _Reals) -> tuple[_Reals, _Reals, _Reals, float]:
    """Return A (2k, 2k), B (2k,), C (2k,) and D of k sections one after the other.

    Each section in transposed direct form II: ``y = b0 u + s1``,
    ``s1' = b1 u - a1 y + s2``, ``s2' = b2 u - a2 y``.
    """
    size = 2 * len(sections)
    a, b = np.zeros((size, size)), np.zeros(size)
    # What goes into the next section, as a function of all states and of the input.
    c, d = np.zeros(size), 1.0
    for number, (b0, b1, b2, _, a1, a2) in enumerate(sections):
        first, second = 2 * number, 2 * number + 1
        output = b0 * c
        output[first] += 1.0
        a[first], a[second] = b1 * c - a1 * output, b2 * c - a2 * output
        a[first, second] += 1.0
        b[first], b[second] = (b1 - a1 * b0) * d, (b2 - a2 * b0) * d
        c, d = output, b0 * d
    return a, b, c, d


def _lifted(a: _Reals, b: _Reals, c: _Reals, d: float, block: int) -> _Reals:
    """Return the matrix from (state, block of samples) to (block of outputs, state after)."""
    size = len(a)
    lifted = np.zeros((block + size, size + block))
    # Row by row: the output at each sample and the state after it, by what they depend on.
    state = np.zeros((size, size + block))
    state[:, :size] = np.eye(size)
    for number in range(block):
        lifted[number] = c @ state
        lifted[number, size + number] += d
        state = a @ state
        state[:, size + number] += b
    lifted[block:] = state
    return lifted


# --- from specs to sections -------------------------------------------------------


def sections_of(spec: FilterSpec, rate_hz: float) -> _Reals:
    """Return second-order sections ``[b0, b1, b2, 1, a1, a2]``, shape (k, 6), float64.

    Raises:
        ConfigError: A corner lies beyond half the rate, or a section is unstable.
    """
    match spec:
        case Butterworth():
            sections = _butterworth(spec, rate_hz)
        case Notch():
            sections = _notch(spec, rate_hz)
        case Sections():
            sections = np.array(spec.sections, np.float64)
        case Rectify():
            sections = np.empty((0, 6))
    _check_stable(spec, sections)
    normal: _Reals = sections / sections[:, 3:4]
    return normal


def _stages(specs: Iterable[FilterSpec], rate_hz: float) -> list[_Reals | None]:
    """Return runs of sections that are one linear system; None where samples are rectified."""
    stages: list[_Reals | None] = []
    for spec in specs:
        if isinstance(spec, Rectify):
            stages.append(None)
        elif stages and stages[-1] is not None:
            stages[-1] = np.concatenate([stages[-1], sections_of(spec, rate_hz)])
        else:
            stages.append(sections_of(spec, rate_hz))
    return stages


def _check_stable(spec: FilterSpec, sections: _Reals) -> None:
    for number, row in enumerate(sections):
        # Inside the triangle |a2| < 1, |a1| < 1 + a2 lie the polynomials with both
        # roots inside the unit circle.
        a0, a1, a2 = row[3:]
        is_stable = a0 != 0 and abs(a2 / a0) < 1 and abs(a1 / a0) < 1 + a2 / a0
        if not (is_stable and np.isfinite(row).all()):
            raise ConfigError(
                f"section {number} has the denominator {row[3:].tolist()}",
                where=f"filter {spec.__struct_config__.tag}",
                expected="finite numbers, and both poles inside the unit circle",
                remedy=_REMEDY,
            )


def _notch(spec: Notch, rate_hz: float) -> _Reals:
    """Design a second-order notch.

    Source: Orfanidis, "Introduction to Signal Processing", section 11.3.
    """
    _check_corner("notch", spec.frequency_hz, rate_hz)
    w = 2 * np.pi * spec.frequency_hz / rate_hz
    gain = 1 / (1 + np.tan(w / spec.quality / 2))
    middle = -2 * gain * np.cos(w)
    return np.array([[gain, middle, gain, 1.0, middle, 2 * gain - 1]])


def _check_corner(kind: str, hz: float, rate_hz: float) -> None:
    if hz >= rate_hz / 2:
        raise ConfigError(
            f"{hz:g} Hz in a stream of {rate_hz:g} Hz",
            where=f"filter {kind}",
            expected=f"below half the rate, {rate_hz / 2:g} Hz",
            remedy=_REMEDY,
        )


# --- Butterworth ------------------------------------------------------------------


def _butterworth(spec: Butterworth, rate_hz: float) -> _Reals:
    """Design a digital Butterworth filter by the bilinear transform, corners pre-warped.

    Source: Parks and Burrus, "Digital Filter Design", chapter 7.
    """
    for corner in spec.corners_hz:
        _check_corner(f"butterworth {spec.band}", corner, rate_hz)
    # In units of twice the rate the bilinear transform is z = (1 + s) / (1 - s).
    warped = np.tan(np.pi * np.array(spec.corners_hz) / rate_hz)
    order = spec.order
    angles = np.pi * (2 * np.arange(order) + 1 + order) / (2 * order)
    poles = _moved(spec, np.exp(1j * angles), warped)
    return _sections(spec, (1 + poles) / (1 - poles), warped)


def _moved(spec: Butterworth, poles: _Roots, corners: _Reals) -> _Roots:
    """Move the poles of the low pass at 1 to where the corners say, still analogue."""
    if spec.band == "lowpass":
        return np.asarray(poles * corners[0])
    if spec.band == "highpass":
        return np.asarray(corners[0] / poles)
    width, middle = corners[1] - corners[0], corners[0] * corners[1]
    half = poles * width / 2 if spec.band == "bandpass" else width / 2 / poles
    root = np.sqrt(half**2 - middle)
    return np.concatenate([half + root, half - root])


def _sections(spec: Butterworth, poles: _Roots, corners: _Reals) -> _Reals:
    """Put digital poles and the band's zeros into sections of gain 1 inside the band."""
    pairs = _pairs(poles)
    centre = np.exp(2j * np.arctan(np.sqrt(np.prod(corners))))
    inside = {"highpass": -1.0, "bandpass": centre}.get(spec.band, 1.0)
    sections = []
    for pair, zeros in zip(pairs, _zeros(spec.band, len(pairs), complex(centre)), strict=True):
        above, below = (np.real(np.poly(roots)) for roots in (zeros[: len(pair)], pair))
        above, below = (np.append(side, np.zeros(3 - len(side))) for side in (above, below))
        above /= abs(np.polyval(above, inside) / np.polyval(below, inside))
        sections.append(np.concatenate([above, below]))
    return np.array(sections)


def _zeros(band: Passband, count: int, centre: complex) -> list[list[complex]]:
    """Return the two zeros of each section, poles at low frequencies first."""
    match band:
        case "lowpass":
            return [[-1.0, -1.0]] * count
        case "highpass":
            return [[1.0, 1.0]] * count
        case "bandstop":
            return [[centre, centre.conjugate()]] * count
        case "bandpass":
            # Zeros beside the nearest poles keep every section's gain small.
            low, middle, high = [1 + 0j, 1 + 0j], [1 + 0j, -1 + 0j], [-1 + 0j, -1 + 0j]
            return [low] * (count // 2) + [middle] * (count % 2) + [high] * (count // 2)


def _pairs(poles: _Roots) -> list[list[complex]]:
    """Return conjugate pairs by frequency, then real poles two by two, at most one alone."""
    is_real = np.abs(poles.imag) < 1e-10 * np.abs(poles)
    upper = poles[(poles.imag > 0) & ~is_real]
    upper = upper[np.argsort(np.angle(upper))]
    real = poles[is_real].real.tolist()
    pairs = [[pole, pole.conjugate()] for pole in upper.tolist()]
    return pairs + [real[first : first + 2] for first in range(0, len(real), 2)]
