"""Golden vectors and the array archives they live in."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import (
    Bundle,
    Golden,
    read_arrays,
    read_golden,
    write_arrays,
    write_golden,
)
from edge_runtime.bundle.archive import write_zip
from edge_runtime.errors import BundleError


def _npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def test_golden_vectors_keep_values_and_dtype(golden: Golden) -> None:
    """What is written is read back, in the source's dtype, as equal bytes."""
    content = write_golden(golden)

    again = read_golden(content)

    assert again.inputs.dtype == np.int16
    np.testing.assert_array_equal(again.inputs, golden.inputs)
    np.testing.assert_array_equal(again.outputs, golden.outputs)
    assert write_golden(again) == content


def test_bundle_reads_its_golden_vectors(bundle: Bundle, golden: Golden) -> None:
    """A bundle finds the file that its spec names."""
    np.testing.assert_array_equal(bundle.golden().outputs, golden.outputs)


def test_arrays_of_numpy_itself_are_read() -> None:
    """Compressed, Fortran-ordered and empty arrays of numpy.savez are read as they are."""
    arrays = {"a": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "b": np.zeros((0, 3), "u1")}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)

    again = read_arrays(buffer.getvalue(), "x.npz")

    for name, array in arrays.items():
        assert again[name].dtype == array.dtype
        np.testing.assert_array_equal(again[name], array)


@pytest.mark.parametrize(
    "array",
    [
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n"),
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }\n", bytes(15)),
        _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", bytes(8)),
        _npy("{'descr': 'nonsense', 'fortran_order': False, 'shape': (), }\n"),
        _npy("(" * 2000),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_hostile_array_is_refused_in_bounded_memory(array: bytes) -> None:
    """A header cannot make the reader allocate, unpickle or crash."""
    content = write_zip({"inputs.npy": array})

    tracemalloc.start()
    with pytest.raises(BundleError) as caught:
        read_arrays(content, "golden.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert caught.value.where == "golden.npz/inputs.npy"
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (np.zeros((2, 3)), np.zeros((2, 1))),
        (np.zeros((2, 3, 1)), np.zeros((3, 1))),
        (np.zeros((0, 3, 1)), np.zeros((0, 1))),
        (np.zeros((2, 3, 1)), np.zeros((2, 1), np.float32)),
        (np.zeros((2, 3, 1), "U1"), np.zeros((2, 1))),
        (np.zeros((2, 3, 1)), np.full((2, 1), np.nan)),
    ],
)
def test_unfit_golden_vectors_are_refused(inputs: np.ndarray, outputs: np.ndarray) -> None:
    """Golden vectors must be windows and finite float64 answers, one for one."""
    with pytest.raises(BundleError) as caught:
        read_golden(write_arrays({"inputs": inputs, "outputs": outputs}))

    assert all((caught.value.what, caught.value.where, caught.value.expected))


def test_golden_without_outputs_is_refused() -> None:
    """Both arrays must be there."""
    with pytest.raises(BundleError, match="'inputs' and 'outputs'"):
        read_golden(write_arrays({"inputs": np.zeros((1, 1, 1))}))


@given(st.binary(max_size=120))
@settings(max_examples=60)
def test_any_bytes_as_array_are_refused(content: bytes) -> None:
    """Random bytes after the magic string never raise anything but a BundleError."""
    archive = write_zip({"inputs.npy": b"\x93NUMPY\x01\x00" + content})

    with pytest.raises(BundleError):
        read_arrays(archive, "golden.npz")
