"""What is wrong with the data of a conversion, before it spoils the model.

Integers have 256 values for the whole of a tensor. Data that do not show what the model
will see, or channels in units of very different size, decide how few of them are left
for what matters.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from edge_converters.quantise.contracts import Samples
from edge_runtime.errors import ConfigError

__all__ = ["Finding", "check_data", "refuse"]

Severity = Literal["error", "warning"]

_STEPS = 255
_FEWEST_STEPS = 8
_ENOUGH_WINDOWS, _GOOD_WINDOWS = 64, 256
_OUTSIDE = 0.001
_CLIPPED = 0.05
_TESTED_VALUES = 20_000
_MOST_NAMED = 5


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong, or likely to be.

    Attributes:
        code: What kind of thing, for programs.
        severity: An error is refused unless forced.
        what: A sentence.
        where: Which data, and which channel.
        value: The number behind it.
        limit: What that number should have been, at least or at most.
        remedy: What to do.
    """

    code: str
    severity: Severity
    what: str
    where: str
    value: float
    limit: float
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity} {self.code}: {self.where}: {self.what}. {self.remedy}"


def check_data(
    calibration: np.ndarray,
    evaluation: Samples | None = None,
    *,
    channels: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """Look at the data of a conversion.

    Args:
        calibration: Windows that decide the ranges, shape (n, …, channels), float32.
        evaluation: Windows of the verdict; None where there are none.
        channels: Names of the last axis; numbers where they are not given.

    Returns:
        Errors first. Data that are not finite are looked at no further.
    """
    broken = [
        *_not_finite("calibration data", calibration),
        *([] if evaluation is None else _not_finite("evaluation data", evaluation.windows)),
    ]
    if broken:
        return tuple(broken)
    seen = _Seen(calibration, channels)
    found = [one for check in _CHECKS for one in check(seen)]
    if evaluation is not None:
        found += [one for compare in _COMPARISONS for one in compare(seen, evaluation)]
    return tuple(sorted(found, key=lambda one: one.severity))


def refuse(findings: Sequence[Finding], *, is_forced: bool = False) -> None:
    """Stop where a finding is an error, unless somebody insists.

    Raises:
        ConfigError: The first error, and how to insist.
    """
    errors = [one for one in findings if one.severity == "error"]
    if errors and not is_forced:
        raise ConfigError(
            errors[0].what,
            where=errors[0].where,
            expected="data that show what the model will see",
            remedy=f"{errors[0].remedy} To take the data all the same: --force.",
        )


class _Seen:
    """Calibration windows with their channels, which are the last axis."""

    def __init__(self, windows: np.ndarray, names: Sequence[str]) -> None:
        self.windows = windows
        self.rows = _rows(windows)
        self._names = names

    def name(self, channel: int) -> str:
        if channel < len(self._names):
            return self._names[channel]
        return f"channel {channel}"

    def named(self, channels: Sequence[int]) -> str:
        shown = ", ".join(self.name(one) for one in channels[:_MOST_NAMED])
        return f"{shown} and {len(channels) - _MOST_NAMED} more" if len(channels) > 5 else shown


def _rows(windows: np.ndarray) -> np.ndarray:
    return windows.reshape(-1, windows.shape[-1]) if windows.ndim > 1 else windows[:, np.newaxis]


def _not_finite(where: str, windows: np.ndarray) -> Iterator[Finding]:
    count = int(np.count_nonzero(~np.isfinite(windows)))
    if count:
        yield Finding(
            "not-finite",
            "error",
            f"{count} of {windows.size} values are NaN or infinite",
            where,
            value=count,
            limit=0,
            remedy="Fill or drop the windows with missing samples.",
        )


# --- calibration data alone ---------------------------------------------------------


def _too_few(seen: _Seen) -> Iterator[Finding]:
    count = len(seen.windows)
    if count < _ENOUGH_WINDOWS:
        yield Finding(
            "few-windows",
            "warning",
            f"{count} windows, {_ENOUGH_WINDOWS} are the least that show a range",
            "calibration data",
            value=count,
            limit=_ENOUGH_WINDOWS,
            remedy=f"Give {_GOOD_WINDOWS} windows from all that the model will see.",
        )


def _constant(seen: _Seen) -> Iterator[Finding]:
    spans = np.ptp(seen.rows, axis=0)
    still = np.flatnonzero(spans == 0).tolist()
    if not still:
        return
    yield Finding(
        "constant-channel",
        "error" if len(still) == len(spans) else "warning",
        f"{seen.named(still)}: always the same value",
        "calibration data",
        value=len(still),
        limit=0,
        remedy="Record while the sensor works, or leave the channel out.",
    )


def _unit_scales(seen: _Seen) -> Iterator[Finding]:
    """Find channels that one scale for the whole tensor leaves with a few integers."""
    spans = np.ptp(seen.rows, axis=0).astype(np.float64)
    step = float(np.ptp(seen.rows)) / _STEPS
    if step == 0 or len(spans) < 2:
        return
    steps = spans / step
    lost = np.flatnonzero((steps < _FEWEST_STEPS) & (spans > 0)).tolist()
    if not lost:
        return
    least = min(lost, key=lambda one: steps[one])
    ratio = float(np.ptp(seen.rows)) / spans[least]
    yield Finding(
        "unit-scale",
        "warning",
        f"{seen.named(lost)}: all of {seen.name(least)} lies in {steps[least]:.1f} of {_STEPS} "
        f"integer steps, because the input as a whole spans {ratio:.0f} times as much",
        "calibration data",
        value=float(steps[least]),
        limit=_FEWEST_STEPS,
        remedy="Normalise channels before the model, or let the search keep the input float.",
    )


def _random(seen: _Seen) -> Iterator[Finding]:
    """Find numbers from a random generator: without structure, and of a textbook's spread."""
    values = seen.windows.astype(np.float64)
    if values.size < 500 or not _is_white(values):
        return
    sample = np.sort(values.ravel()[:: max(1, values.size // _TESTED_VALUES)])
    for name, cumulative in _GENERATORS.items():
        distance = _distance(sample, cumulative)
        # Random data are above it once in a hundred thousand times.
        limit = 2.5 / math.sqrt(len(sample))
        if distance < limit:
            yield Finding(
                "random-data",
                "error",
                f"the values look like {name} from a random generator, not like a sensor",
                "calibration data",
                value=distance,
                limit=limit,
                remedy="Give recorded windows: ranges of random data ruin the model.",
            )
            return


def _is_white(values: np.ndarray) -> bool:
    """Return whether neighbours have nothing to do with each other, along any axis."""
    spread = values.std()
    if spread == 0:
        return False
    scaled = (values - values.mean()) / spread
    for axis in range(values.ndim):
        if values.shape[axis] < 2:
            continue
        moved = np.moveaxis(scaled, axis, 0)
        linked = float(np.mean(moved[1:] * moved[:-1]))
        if abs(linked) > 5 / math.sqrt(moved[1:].size):
            return False
        # Features that each have a mean of their own are no draws of one generator.
        means = moved.reshape(len(moved), -1).mean(1)
        each = values.size / len(moved)
        if float(np.mean(means * means)) * each > 1 + 7 * math.sqrt(2 / len(moved)):
            return False
    return True


def _distance(ordered: np.ndarray, cumulative: Callable[[float], float]) -> float:
    """Return the Kolmogorov-Smirnov distance of a sample to a distribution."""
    wanted = np.array([cumulative(one) for one in ordered])
    places = np.arange(len(ordered) + 1) / len(ordered)
    return float(max((places[1:] - wanted).max(), (wanted - places[:-1]).max()))


_GENERATORS: dict[str, Callable[[float], float]] = {
    "N(0, 1)": lambda one: 0.5 * (1 + math.erf(one / math.sqrt(2))),
    "U[0, 1)": lambda one: min(max(one, 0.0), 1.0),
    "U[-1, 1)": lambda one: min(max((one + 1) / 2, 0.0), 1.0),
}

_CHECKS: tuple[Callable[[_Seen], Iterator[Finding]], ...] = (
    _too_few,
    _constant,
    _unit_scales,
    _random,
)


# --- calibration against evaluation -------------------------------------------------


def _coverage(seen: _Seen, evaluation: Samples) -> Iterator[Finding]:
    """Find channels whose values in the evaluation go beyond those of the calibration."""
    rows = _rows(evaluation.windows)
    low, high = seen.rows.min(0), seen.rows.max(0)
    outside = ((rows < low) | (rows > high)).mean(0)
    beyond = np.flatnonzero(outside > _OUTSIDE).tolist()
    if not beyond:
        return
    worst = max(beyond, key=lambda one: outside[one])
    yield Finding(
        "coverage",
        "warning",
        f"{seen.named(beyond)}: {outside[worst]:.1%} of the values of {seen.name(worst)} lie "
        f"outside of {low[worst]:.4g} to {high[worst]:.4g}, the range of the calibration",
        "evaluation data",
        value=float(outside[worst]),
        limit=_OUTSIDE,
        remedy="Calibrate with windows from every condition, rare and extreme ones included.",
    )


def _saturation(seen: _Seen, evaluation: Samples) -> Iterator[Finding]:
    """Find values that an integer input cannot hold."""
    share = float(_is_outside(seen, evaluation.windows).mean())
    if share > _OUTSIDE:
        yield Finding(
            "saturation",
            "warning",
            f"{share:.2%} of all values are clipped by an int8 input",
            "evaluation data",
            value=share,
            limit=_OUTSIDE,
            remedy="Calibrate with larger windows, or keep the input float.",
        )


def _clipped_anomalies(seen: _Seen, evaluation: Samples) -> Iterator[Finding]:
    """Find anomalies that are cut down to what is normal, because only that was calibrated."""
    truth = evaluation.truth
    if truth is None or not set(np.unique(truth).tolist()) <= {0, 1} or not (truth == 1).any():
        return
    outside = _is_outside(seen, evaluation.windows)
    clipped = np.asarray(outside.reshape(len(outside), -1).any(1))
    share = float(clipped[truth == 1].mean())
    normal = float(clipped[truth == 0].mean()) if (truth == 0).any() else 0.0
    if share > _CLIPPED and share > 2 * normal:
        yield Finding(
            "clipped-anomalies",
            "warning",
            f"{share:.0%} of the anomalous windows are clipped, {normal:.0%} of the normal ones",
            "evaluation data",
            value=share,
            limit=_CLIPPED,
            remedy="Calibrate with some anomalies, or keep the input float.",
        )


def _is_outside(seen: _Seen, windows: np.ndarray) -> np.ndarray:
    result: np.ndarray = (windows < seen.rows.min()) | (windows > seen.rows.max())
    return result


def _leak(seen: _Seen, evaluation: Samples) -> Iterator[Finding]:
    """Find windows that both calibrate and judge."""
    known = {_digest(one) for one in seen.windows}
    shared = sum(_digest(one) in known for one in evaluation.windows)
    if shared:
        yield Finding(
            "shared-windows",
            "warning",
            f"{shared} of {len(evaluation)} windows are in the calibration data too",
            "evaluation data",
            value=shared,
            limit=0,
            remedy="Judge with windows of other recordings.",
        )


def _digest(window: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(window).tobytes(), digest_size=16).digest()


_COMPARISONS: tuple[Callable[[_Seen, Samples], Iterator[Finding]], ...] = (
    _coverage,
    _saturation,
    _clipped_anomalies,
    _leak,
)
