"""NumPy archives (``.npz``) from outside, read without pickles and within limits."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping

import numpy as np

from edge_runtime.bundle.archive import BUNDLE_LIMITS, ArchiveLimits, read_zip, write_zip
from edge_runtime.errors import BundleError

__all__ = ["read_arrays", "write_arrays"]

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{'descr': '([<>|=]?[A-Za-z][0-9]*(?:\[[0-9A-Za-z]+\])?)', "
    rb"'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \}[ \n]*"
)


def read_arrays(
    content: bytes, where: str, limits: ArchiveLimits = BUNDLE_LIMITS
) -> dict[str, np.ndarray]:
    """Read every array of an ``.npz``; the arrays are read-only views.

    Raises:
        BundleError: It is no sound archive of arrays, or breaks a limit.
    """
    files = read_zip(content, where, limits)
    return {
        name.removesuffix(".npy"): _read_array(file, f"{where}/{name}")
        for name, file in files.items()
    }


def write_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Write an uncompressed ``.npz``; equal arrays give equal bytes."""
    return write_zip({f"{name}.npy": _write_array(array) for name, array in arrays.items()})


def _read_array(content: bytes, where: str) -> np.ndarray:
    try:
        shape, is_fortran, dtype, start = _read_header(content)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        if math.prod(shape) * dtype.itemsize != len(content) - start:
            raise ValueError(f"{shape} of {dtype} does not fill the file")
        # The header's size is checked against the bytes before anything is allocated.
        flat = np.frombuffer(content, dtype, math.prod(shape), start)
        return flat.reshape(shape, order="F" if is_fortran else "C")
    except (ValueError, TypeError, OverflowError) as error:
        raise BundleError(
            f"the array cannot be read ({error})",
            where=where,
            expected="one array of numbers as numpy.save writes it",
            remedy="Write the file again with numpy.savez.",
        ) from error


def _read_header(content: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Read shape, order, dtype and length of a header, format versions 1 and 2.

    Source: NEP 1. NumPy's own reader evaluates the header as Python.
    """
    width = {b"\x01\x00": 2, b"\x02\x00": 4}.get(content[6:8], 0)
    if not content.startswith(_MAGIC) or not width:
        raise ValueError("it is no array of format 1 or 2")
    start = 8 + width + int.from_bytes(content[8 : 8 + width], "little")
    match = _HEADER.fullmatch(content[8 + width : start])
    if match is None:
        raise ValueError("its header is no plain array's")
    descr, order, numbers = (part.decode("ascii") for part in match.groups())
    shape = tuple(int(number) for number in numbers.split(",") if number.strip())
    return shape, order == "True", np.dtype(descr), start


def _write_array(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
