"""Columns as bytes: the small lossless filters inside a frame.

Each column of a frame is turned into bytes that compress well, then all of
them share one zlib stream. A filter is used only where it gives back every
bit; the last resort is the raw bytes, shuffled.

========  =====================================================================
filter    bytes
========  =====================================================================
integers  ``order`` times differenced, zigzag, narrowed to ``width``, shuffled
decimals  floats that are whole numbers over ``10 ** digits``: those as integers
raw       the values, little-endian, shuffled
texts     codes of ``width`` bytes, shuffled, then the distinct texts
========  =====================================================================

*Shuffled* means all first bytes, then all second bytes, and so on. Further
axes of a column are stored one after the other, so that differences run along
the rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.errors import WireError

__all__ = [
    "MAX_DECODED_BYTES",
    "Column",
    "check_columns",
    "describe",
    "little_endian",
    "pack_column",
    "unpack_column",
]

MAX_DECODED_BYTES = 16 * 1024 * 1024
"""Largest table one frame or one outbox block may unfold to."""

_MAX_COLUMNS = 64
_KNOWN_COLUMNS = 256
_MAX_DIGITS = 6
_ORDERS = 3
_PROBE = 32
_POWERS = np.array([10.0**digits for digits in range(_MAX_DIGITS + 1)])[:, None, None]
_MAX_TEXTS = 65536
_WIDTHS = (1, 2, 4, 8)
_EXACT = 2.0**53
_BLOCK_ELEMENTS = 1 << 18
_DTYPE = r"\A(?:\|b1|\|[iu]1|<[iu][248]|<f[248]|<U[1-9][0-9]{0,3})\Z"

Axis = Annotated[int, Meta(ge=0, le=MAX_DECODED_BYTES)]
Texts = Annotated[list[str], Meta(max_length=_MAX_TEXTS)]
Shape = Annotated[tuple[Axis, ...], Meta(max_length=4)]


class Column(msgspec.Struct, frozen=True, array_like=True):
    """How one column's bytes are read back.

    Attributes:
        name: Column name.
        dtype: NumPy's little-endian name of the type.
        shape: Axes after the first.
        filter: See the module.
        size: Bytes it takes before compression.
        order: How many times integers were differenced.
        digits: Decimal places of floats kept as integers.
        width: Bytes of one stored integer or code.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    dtype: Annotated[str, Meta(pattern=_DTYPE)]
    shape: Shape = ()
    filter: Literal["integers", "decimals", "raw", "texts"] = "raw"
    size: Annotated[int, Meta(ge=0, le=MAX_DECODED_BYTES)] = 0
    order: Annotated[int, Meta(ge=0, le=2)] = 0
    digits: Annotated[int, Meta(ge=0, le=_MAX_DIGITS)] = 0
    width: Literal[0, 1, 2, 4, 8] = 0

    def elements(self, n: int) -> int:
        """Count the values of ``n`` rows."""
        return n * math.prod(self.shape)

    def decoded_bytes(self, n: int) -> int:
        """Count the bytes ``n`` rows take as an array."""
        return self.elements(n) * _itemsize(self.dtype)


@lru_cache(_KNOWN_COLUMNS)
def _itemsize(dtype: str) -> int:
    return np.dtype(dtype).itemsize


def pack_column(name: str, values: np.ndarray) -> tuple[Column, bytes]:
    """Choose a filter for one column and apply it.

    Args:
        name: Column name.
        values: Shape (n, …); integers, floats, bool or ``<U`` text.

    Raises:
        WireError: The type or shape cannot be carried.
    """
    values = little_endian(values)
    plain = describe(name, values)
    along_rows = values.reshape(len(values), math.prod(plain.shape)).T
    match values.dtype.kind:
        case "U":
            return _pack_texts(plain, along_rows)
        case "f":
            return _pack_floats(plain, along_rows)
        case _:
            return _pack_integers(plain, along_rows.astype(_wide(plain)))


def unpack_column(column: Column, n: int, packed: bytes) -> np.ndarray:
    """Turn the bytes of `pack_column` back into the array, shape (n, …).

    Raises:
        WireError: Bytes and description do not fit together.
    """
    match column.filter:
        case "texts":
            flat = _unpack_texts(column, n, packed)
        case "raw":
            flat = _unpack_raw(column, n, packed)
        case _:
            flat = _unpack_integers(column, n, packed)
    by_axis = flat.reshape(math.prod(column.shape), n)
    return np.ascontiguousarray(by_axis.T).reshape(n, *column.shape)


def check_columns(columns: Sequence[Column], n: int) -> int:
    """Return how many packed bytes ``columns`` announce.

    Raises:
        WireError: Too many columns, one twice, or more than `MAX_DECODED_BYTES`.
    """
    names = [column.name for column in columns]
    if len(columns) > _MAX_COLUMNS or len(set(names)) < len(names):
        raise WireError(
            f"{len(names)} columns, {len(set(names))} names",
            where="columns",
            expected=f"at most {_MAX_COLUMNS} columns, each name once",
        )
    largest = max(
        sum(column.decoded_bytes(n) for column in columns), sum(column.size for column in columns)
    )
    if largest > MAX_DECODED_BYTES:
        raise WireError(
            f"{n} rows unfold to {largest} bytes",
            where="columns",
            expected=f"at most {MAX_DECODED_BYTES}",
        )
    return sum(column.size for column in columns)


def little_endian(values: np.ndarray) -> np.ndarray:
    """Return the values C-contiguous and little-endian, copied only when they are not."""
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def describe(name: str, values: np.ndarray) -> Column:
    """Describe a little-endian array, not packed yet.

    Raises:
        WireError: Its type or shape cannot be carried.
    """
    try:
        return _checked(name, values.dtype.str, values.shape[1:])
    except msgspec.ValidationError as error:
        raise WireError(
            f"column {name!r} is {values.dtype} of shape {values.shape}: {error}",
            where="columns",
            expected="integers, floats, bool or text, at most 5 axes",
        ) from error


@lru_cache(_KNOWN_COLUMNS)
def _checked(name: str, dtype: str, shape: tuple[int, ...]) -> Column:
    """Check a description; a device's blocks have the same few columns for ever."""
    return msgspec.convert([name, dtype, shape], Column)


def _finish(column: Column, packed: bytes, **how: object) -> tuple[Column, bytes]:
    return msgspec.structs.replace(column, size=len(packed), **how), packed


# --- integers -----------------------------------------------------------------


def _pack_integers(column: Column, wide: np.ndarray) -> tuple[Column, bytes]:
    best, order = _differenced(np.ascontiguousarray(wide).view("<i8"))
    top = int(best.max(initial=0))
    width = next(width for width in _WIDTHS if top < 1 << (8 * width))
    packed = _shuffled(best.astype(f"<u{width}"))
    how = "decimals" if column.dtype[1] == "f" else "integers"
    return _finish(column, packed, filter=how, order=order, width=width)


def _differenced(wide: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the cheapest of no, first and second differences, zigzagged, and its order."""
    candidates = []
    for order in range(_ORDERS):
        wide = _steps(wide) if order else wide
        folded = _zigzag(wide)
        # The first rows hold the start value and do not count.
        if not folded[:, 2:].any():
            return folded, order
        candidates.append(folded)
    # Entropy falls with the log of the size.
    costs = [float(np.log2(each[:, 2:] + 1.0).sum()) for each in candidates]
    order = int(np.argmin(costs))
    return candidates[order], order


def _steps(values: np.ndarray) -> np.ndarray:
    """Return each value less the one before it, the first one as it is."""
    steps = values.copy()
    steps[:, 1:] -= values[:, :-1]
    return steps


def _zigzag(signed: np.ndarray) -> np.ndarray:
    return ((signed << 1) ^ (signed >> 63)).view("<u8")


def _unpack_integers(column: Column, n: int, packed: bytes) -> np.ndarray:
    """Undo differences a few axes at a time: in full width the whole would be eight times it."""
    if column.width == 0:
        raise WireError(f"column {column.name!r} has integers of no width", where="columns")
    restored = _from_decimals if column.filter == "decimals" else _narrowed
    folded = _unshuffled(column, packed, f"<u{column.width}", column.elements(n))
    by_axis = folded.reshape(math.prod(column.shape), n)
    values = np.empty(by_axis.shape, column.dtype)
    step = max(1, _BLOCK_ELEMENTS // max(1, n))
    # Once at least, so that an empty column is checked as well.
    for first in range(0, max(1, len(by_axis)), step):
        block = slice(first, first + step)
        values[block] = restored(_summed(by_axis[block], column.order), column)
    return values


def _summed(folded: np.ndarray, order: int) -> np.ndarray:
    """Undo zigzag and differences, along the rows; unsigned, 64 bits."""
    wide = folded.astype("<u8")
    differences = (wide >> 1) ^ (~(wide & 1) + 1)
    for _ in range(order):
        differences = np.cumsum(differences, axis=1, dtype="<u8")
    return differences


def _wide(column: Column) -> str:
    return "<u8" if column.dtype[1] == "u" else "<i8"


def _narrowed(wide: np.ndarray, column: Column) -> np.ndarray:
    if column.dtype[1] not in "biu":
        raise WireError(f"integers were declared as {column.dtype}", where="columns")
    narrowed: np.ndarray = wide.astype(column.dtype)
    return narrowed


# --- floats -------------------------------------------------------------------


def _pack_floats(column: Column, values: np.ndarray) -> tuple[Column, bytes]:
    for digits in _likely_digits(values[:, :_PROBE], column.dtype):
        if _is_reversible(values, digits, column.dtype):
            described = msgspec.structs.replace(column, digits=digits)
            return _pack_integers(described, _scaled(values, digits))
    return _finish(column, _shuffled(values), filter="raw")


def _likely_digits(values: np.ndarray, dtype: str) -> list[int]:
    """Return with how many decimal places the first rows can be kept as integers."""
    if dtype == "<f2":
        return []
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.rint(values.astype("<f8") * _POWERS)
        back = (near.astype("<i8") / _POWERS).astype(dtype)
    bits = f"<u{values.itemsize}"
    # NaN compares false, so it falls back too.
    same = (np.abs(near) < _EXACT) & (back.view(bits) == np.ascontiguousarray(values).view(bits))
    return np.flatnonzero(same.all(axis=(1, 2))).tolist()


def _is_reversible(values: np.ndarray, digits: int, dtype: str) -> bool:
    """Tell whether ``values * 10 ** digits`` as integers give back every bit."""
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.rint(values.astype("<f8") * 10.0**digits)
    # NaN compares false, so it falls back too.
    if not np.all(np.abs(near) < _EXACT):
        return False
    back = _divided(_scaled(values, digits), digits, dtype)
    return back.tobytes() == np.ascontiguousarray(values).tobytes()


def _scaled(values: np.ndarray, digits: int) -> np.ndarray:
    return np.rint(values.astype("<f8") * 10.0**digits).astype("<i8")


def _from_decimals(wide: np.ndarray, column: Column) -> np.ndarray:
    if column.dtype not in ("<f4", "<f8"):
        raise WireError(f"decimals were declared as {column.dtype}", where="columns")
    return _divided(wide.view("<i8"), column.digits, column.dtype)


def _divided(scaled: np.ndarray, digits: int, dtype: str) -> np.ndarray:
    # Both sides are exact, so the quotient is the float nearest to the decimal number.
    with np.errstate(over="ignore"):
        values: np.ndarray = (scaled / 10.0**digits).astype(dtype)
    return values


def _unpack_raw(column: Column, n: int, packed: bytes) -> np.ndarray:
    if column.dtype[1] == "U":
        raise WireError(f"column {column.name!r} has raw text", where="columns")
    return _unshuffled(column, packed, column.dtype, column.elements(n))


# --- text ---------------------------------------------------------------------


def _pack_texts(column: Column, values: np.ndarray) -> tuple[Column, bytes]:
    distinct, codes = _coded(values.ravel())
    width = 1 if len(distinct) <= 256 else 2
    if len(distinct) > _MAX_TEXTS:
        raise WireError(f"column {column.name!r} has {len(distinct)} texts", where="columns")
    try:
        texts = msgspec.msgpack.encode(distinct)
    except ValueError as error:
        raise WireError(f"column {column.name!r}: {error}", where="columns") from error
    packed = _shuffled(codes.astype(f"<u{width}")) + texts
    return _finish(column, packed, filter="texts", width=width)


def _coded(values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts, sorted, and the place of each value among them."""
    if len(values) and (values == values[0]).all():
        return [values.item(0)], np.zeros(len(values), np.uint8)
    rows: list[str] = values.tolist()
    distinct = sorted(set(rows))
    code_of = {text: code for code, text in enumerate(distinct)}
    return distinct, np.array([code_of[row] for row in rows], np.int64)


def _unpack_texts(column: Column, n: int, packed: bytes) -> np.ndarray:
    elements = column.elements(n)
    if column.dtype[1] != "U" or column.width not in (1, 2):
        raise WireError(f"column {column.name!r} is {column.dtype}, no text", where="columns")
    cut = elements * column.width
    codes = _unshuffled(column, packed[:cut], f"<u{column.width}", elements)
    distinct = _distinct(column, packed[cut:], elements)
    if elements and int(codes.max()) >= len(distinct):
        raise WireError(f"column {column.name!r} has codes of no text", where="columns")
    texts: np.ndarray = distinct[codes]
    return texts


def _distinct(column: Column, packed: bytes, elements: int) -> np.ndarray:
    longest = int(column.dtype[2:])
    texts = _read_texts(packed)
    if len(texts) > elements or any(len(text) > longest for text in texts):
        raise WireError(
            f"column {column.name!r} has {len(texts)} distinct texts",
            where="columns",
            expected=f"at most {elements}, each at most {longest} long",
        )
    return np.array(texts, dtype=column.dtype)


def _read_texts(packed: bytes) -> list[str]:
    try:
        return msgspec.msgpack.decode(packed, type=Texts)
    except (msgspec.MsgspecError, ValueError) as error:
        raise WireError(f"distinct texts do not decode: {error}", where="columns") from error


# --- bytes --------------------------------------------------------------------


def _shuffled(values: np.ndarray) -> bytes:
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _unshuffled(column: Column, packed: bytes, dtype: str, elements: int) -> np.ndarray:
    itemsize = np.dtype(dtype).itemsize
    if len(packed) != elements * itemsize:
        raise WireError(
            f"column {column.name!r} has {len(packed)} bytes",
            where="columns",
            expected=f"{elements * itemsize}",
        )
    planes = np.frombuffer(packed, np.uint8).reshape(itemsize, elements)
    flat: np.ndarray = np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    return flat
