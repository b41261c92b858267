"""Tests of the statistics that calibration keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edge_converters.quantise.statistics import Gathered
from edge_runtime.errors import ModelError

_VALUES = arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


def _of(*blocks: np.ndarray) -> Gathered:
    gathered = Gathered("x")
    for block in blocks:
        gathered.add(block)
    return gathered


@given(_VALUES, st.data())
def test_no_cut_into_blocks_changes_the_counts(values: np.ndarray, data: st.DataObject) -> None:
    """Histogram, quantiles and extremes are the same for one block and for many, in any order."""
    place = data.draw(st.integers(0, len(values)))

    whole = _of(values).statistics()
    parts = _of(values[place:], values[:place]).statistics()

    assert parts.histogram == whole.histogram
    assert parts.quantiles == whole.quantiles
    assert (parts.minimum, parts.maximum) == (whole.minimum, whole.maximum)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)


@given(_VALUES)
def test_every_value_is_counted_between_the_edges(values: np.ndarray) -> None:
    """The histogram's bins hold all values, and begin and end where these do."""
    found = _of(values).statistics()

    last_edge = found.first_edge + found.bin_width * len(found.histogram)
    assert sum(found.histogram) == found.count == len(values)
    assert found.first_edge <= values.min() and values.max() <= last_edge
    assert len(found.histogram) <= 64


def test_quantiles_are_those_of_the_values() -> None:
    """A quantile is right to the width of a fine bin."""
    values = np.random.default_rng(0).normal(0, 2, 20_000)

    found = _of(values).statistics()

    for share, value in found.quantiles.items():
        assert value == pytest.approx(np.quantile(values, float(share) / 100), abs=0.02)
    assert found.mean == pytest.approx(values.mean())
    assert found.deviation == pytest.approx(values.std())


def test_a_rare_large_value_stays_in_the_range() -> None:
    """A single outlier among many blocks is the maximum: no average forgets it."""
    blocks = [np.full(100, 0.5) for _ in range(50)]
    blocks[3][7] = 40.0

    found = _of(*blocks).statistics()

    assert found.maximum == 40.0
    assert found.quantiles["99.9"] < 1.0


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(odd: float) -> None:
    """NaN or an infinity in a tensor is an error that names the tensor."""
    with pytest.raises(ModelError, match="tensor 'x': 1 of 3 values are not finite"):
        _of(np.array([1.0, odd, 2.0]))
