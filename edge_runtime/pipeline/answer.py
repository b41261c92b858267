"""What the model answered, in reported units.

Where the output tensor holds small integers, dequantising and everything that
acts on one number alone is done once, for all of them, and kept in a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from edge_runtime.pipeline.fuse import Reals, activate, calibrate, check_alike, squared_error
from edge_runtime.pipeline.quantise import dequantise
from edge_runtime.spec import ModelSpec, OutputSpec, Smoothing
from edge_runtime.types import TensorSpec

__all__ = ["Reader", "Reading", "reader_of"]

Reader = Callable[[np.ndarray, np.ndarray], Reals]
"""Returns scores (n, labels) for answers and the tensors that were asked, both (n, …).

The answers are its own from then on.
"""

_LARGEST_EXACT = 1 << 22
_CACHED_VALUES = 1 << 16
_LONGEST_ON_ONE_THREAD = 1 << 13


class Reading(NamedTuple):
    """How answers are read.

    Attributes:
        read: Does it.
        is_quiet: Whether nothing can overflow.
        proves_finite: Whether a score is finite only if all that the model was asked is.
    """

    read: Reader
    is_quiet: bool
    proves_finite: bool = False


def reader_of(spec: ModelSpec, source: TensorSpec, target: TensorSpec) -> Reading:
    """Return what reads answers of ``target`` to ``source``."""
    if spec.output.activation == "reconstruction":
        read = _reconstruction(spec, source, target)
        return Reading(read, isinstance(read, _ExactError), read is _float_error)
    if spec.output.activation != "softmax" and np.dtype(target.dtype).itemsize == 1:
        return _tabled(spec, target)
    if target.scale is None and spec.output == OutputSpec():
        return Reading(_as_answered, _is_as_answered(spec))

    def dequantised(answers: np.ndarray, _asked: np.ndarray) -> Reals:
        return _scores(spec, dequantise(answers.reshape(len(answers), -1), target))

    return Reading(dequantised, _is_as_answered(spec))


def _as_answered(answers: np.ndarray, _asked: np.ndarray) -> Reals:
    scores: Reals = answers.astype(np.float64)
    return scores if scores.ndim == 2 else scores.reshape(len(scores), -1)


def _is_as_answered(spec: ModelSpec) -> bool:
    """Whether nothing is computed from an answer, which might not be finite."""
    output = spec.output
    is_plain = output.activation == "none" and output.scale == 1.0 and output.offset == 0.0
    return is_plain and spec.smoothing == Smoothing()


def _scores(spec: ModelSpec, values: Reals) -> Reals:
    return calibrate(activate(values, spec.output), spec.output, spec.link)


def _tabled(spec: ModelSpec, target: TensorSpec) -> Reading:
    # In the order of the bits, so that a negative integer finds its place from the end.
    every = np.arange(256, dtype=np.uint8).view(target.dtype)
    with np.errstate(all="ignore"):
        table = _scores(spec, dequantise(every[:, None], target)).ravel()

    def read(answers: np.ndarray, _asked: np.ndarray) -> Reals:
        scores: Reals = table.take(answers)
        return scores if scores.ndim == 2 else scores.reshape(len(scores), -1)

    return Reading(read, bool(np.isfinite(table).all()))


def _reconstruction(spec: ModelSpec, source: TensorSpec, target: TensorSpec) -> Reader:
    error = _error_of(source, target)
    if spec.output.scale == 1.0 and spec.output.offset == 0.0:
        return error
    return lambda answers, asked: calibrate(error(answers, asked), spec.output, spec.link)


def _error_of(source: TensorSpec, target: TensorSpec) -> Reader:
    size = math.prod(source.shape[1:])
    is_small = all(
        one.is_quantised and np.dtype(one.dtype).itemsize <= 2 for one in (source, target)
    )
    if is_small and size <= _LARGEST_EXACT and source.shape == target.shape:
        return _ExactError(source, target, size)

    if source.dtype == target.dtype == "float32":
        return _float_error

    def error(answers: np.ndarray, asked: np.ndarray) -> Reals:
        rows = len(answers), -1
        seen, answered = asked.reshape(rows), answers.reshape(rows)
        return squared_error(dequantise(seen, source), dequantise(answered, target))

    return error


def _float_error(answers: np.ndarray, asked: np.ndarray) -> Reals:
    """Return the mean squared error between two float32 tensors, shape (n, 1), float64.

    Differences take the place of the answers, which are still in the cache. BLAS adds up
    their squares in float32, like the tensors; in float64 where that overflows, and those
    of long rows.
    """
    count = len(answers)
    seen, differences = asked.reshape(count, -1), answers.reshape(count, -1)
    check_alike(seen, differences)
    np.subtract(seen, differences, out=differences)
    size = differences.shape[1]
    errors = np.empty((count, 1))
    if size > _LONGEST_ON_ONE_THREAD:
        errors[:, 0] = _dots_in_float64(differences)
    else:
        errors[:, 0] = _dots(differences, differences)
        is_finite = np.isfinite(errors[:, 0])
        if not is_finite.all():
            lost = np.flatnonzero(~is_finite)
            errors[lost, 0] = _dots_in_float64(differences[lost])
    errors /= size
    return errors


def _dots_in_float64(rows: np.ndarray) -> Reals:
    """Return the product of each row with itself; one after the other, which takes less memory."""
    wide = (row.astype(np.float64)[None] for row in rows)
    return np.concatenate([_dots(row, row) for row in wide])


def _exact_dtype(source: TensorSpec, target: TensorSpec, size: int) -> type[np.floating[Any]]:
    """Return the smaller float type that holds every sum of products exactly."""
    ranges = [np.iinfo(one.dtype) for one in (source, target)]
    largest = max(max(-int(one.min), int(one.max)) for one in ranges)
    return np.float32 if size * largest * largest <= 2**24 else np.float64


class _ExactError:
    """Mean squared error between two tensors of small integers, from exact sums.

    With ``x = s (p - a)`` and ``y = t (q - b)`` the mean of ``(x - y)^2`` is linear in
    the sums of ``p^2``, ``p q``, ``q^2``, ``p`` and ``q``. Sums of integers are exact
    in any order below 2^53 in float64, and below 2^24 in float32, so that one window
    and many give the same bytes, and a product of two matrices does the work.
    """

    def __init__(self, source: TensorSpec, target: TensorSpec, size: int) -> None:
        s, a = source.scale or 1.0, source.zero_point or 0
        t, b = target.scale or 1.0, target.zero_point or 0
        offset = s * a - t * b
        self._constant = offset * offset
        self._weights = (
            s * s / size,
            -2 * s * t / size,
            t * t / size,
            -2 * s * offset / size,
            2 * t * offset / size,
        )
        # Both tensors of one window, and ones to add them up with.
        three = np.ones((3, size), _exact_dtype(source, target, size))
        self._asked = three[0].reshape(source.shape)
        self._answered = three[1].reshape(target.shape)
        self._ones = three[2]
        # In one row: a list of rows costs a view for each.
        self._sums = np.empty(6, three.dtype)
        self._add_up = _products(three[:2], three, self._sums.reshape(2, 3))
        many = max(1, _CACHED_VALUES // size), size
        self._many_p, self._many_q = np.empty((2, *many), three.dtype)

    def __call__(self, answers: np.ndarray, asked: np.ndarray) -> Reals:
        if len(answers) > 1:
            return self._of_many(answers, asked)
        # The dots save the view that a slice makes.
        self._asked[...] = asked
        self._answered[...] = answers
        self._add_up()
        pp, pq, p, _, qq, q = self._sums.tolist()
        error = np.empty((1, 1))
        error[0, 0] = max(0.0, self._mean(pp, pq, qq, p, q))
        return error

    def _of_many(self, answers: np.ndarray, asked: np.ndarray) -> Reals:
        rows = len(answers), -1
        asked, answers = asked.reshape(rows), answers.reshape(rows)
        sums = np.empty((5, len(answers)))
        for first in range(0, len(answers), len(self._many_p)):
            part = slice(first, first + len(self._many_p))
            used = slice(0, len(asked[part]))
            p, q = self._many_p[used], self._many_q[used]
            p[:], q[:] = asked[part], answers[part]
            # Exact in any order, so that whatever is fastest may add them up.
            for total, one, two in zip(sums, (p, p, q), (p, q, q), strict=False):
                total[part] = _dots(one, two)
            sums[3, part], sums[4, part] = p.dot(self._ones), q.dot(self._ones)
        errors: Reals = np.maximum(0.0, self._mean(*sums))[:, None]
        return errors

    def _mean(self, pp: Any, pq: Any, qq: Any, p: Any, q: Any) -> Any:
        """Return the mean of one window, or an array of them: the same operations in one order."""
        of_pp, of_pq, of_qq, of_p, of_q = self._weights
        return pp * of_pp + pq * of_pq + qq * of_qq + p * of_p + q * of_q + self._constant


def _products(one: np.ndarray, two: np.ndarray, out: np.ndarray) -> Callable[[], object]:
    """Return what puts the product of each row of ``one`` with each of ``two`` into ``out``.

    A product of two matrices would pack them first, which takes longer than so few rows do.
    """
    vecdot = getattr(np, "vecdot", None)  # numpy has it since 2.0
    return partial(vecdot, one[:, None], two, out) if vecdot else partial(np.dot, one, two.T, out)


def _dots(one: np.ndarray, two: np.ndarray) -> Reals:
    """Return the product of each row of ``one`` with that of ``two``.

    BLAS is three times as fast, but shares longer rows out among threads, whose number
    would then be seen in the last digits; numpy asks it row by row since 2.0.
    """
    vecdot = getattr(np, "vecdot", None)
    is_short = one.shape[1] <= _LONGEST_ON_ONE_THREAD
    found: Reals = vecdot(one, two) if vecdot and is_short else np.einsum("ij,ij->i", one, two)
    return found
