"""What a TFLite file carries besides its graph: associated files and LiteRT metadata.

Label files are a zip at the end of the file; the metadata is a FlatBuffers table of its
own in the buffer ``TFLITE_METADATA``. Source: LiteRT's ``metadata_schema.fbs``.
"""

from __future__ import annotations

import io
import zipfile

import msgspec
import numpy as np

from edge_converters.embed import read_manifest
from edge_converters.sidecars.manifest import from_manifest
from edge_converters.sidecars.sidecar import Sidecar
from edge_runtime.spec import Normalise

__all__ = ["read_tflite_metadata"]

_NAME = "TFLITE_METADATA"
_LARGEST_LABELS = 1 << 20
_MOST_LABELS = 1 << 14
# Slots of the fields in their tables.
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_SUBGRAPHS = 0, 1, 3
_SUBGRAPH_INPUTS, _TENSOR_UNITS = 2, 4
_UNIT_OPTIONS_TYPE, _UNIT_OPTIONS, _NORMALISATION = 0, 1, 1
_OPTIONS_MEAN, _OPTIONS_STD = 0, 1


class _Told(msgspec.Struct, frozen=True):
    """What the table says: name, description, and mean and std of the input."""

    name: str = ""
    description: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def read_tflite_metadata(model: bytes) -> Sidecar | None:
    """Read labels, name and normalisation; our own manifest comes first. None without any."""
    own = read_manifest(model, "tflite")
    if own is not None:
        return from_manifest(own, "manifest in the file")
    labels = _labels(model)
    told = _metadata(model)
    if not labels and told == _Told():
        return None
    changes: dict[str, object] = {}
    if told.mean and all(one > 0 for one in told.std):
        changes["normalise"] = Normalise(told.mean, told.std)
    notes = tuple(text for text in (told.name, told.description) if text)
    return Sidecar(origin="LiteRT metadata", changes=changes, labels=labels, notes=notes)


def _labels(model: bytes) -> tuple[str, ...]:
    """Return the lines of the first text file in the appended zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            names = [one for one in archive.infolist() if one.filename.endswith(".txt")]
            if not names or names[0].file_size > _LARGEST_LABELS:
                return ()
            text = archive.read(names[0]).decode("utf-8", "replace")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):
        return ()
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    return lines if len(lines) <= _MOST_LABELS else ()


def _metadata(model: bytes) -> _Told:
    from ai_edge_litert import schema_py_generated as schema

    parsed = schema.Model.GetRootAs(model, 0)
    for index in range(parsed.MetadataLength()):
        entry = parsed.Metadata(index)
        if entry.Name() == _NAME.encode():
            data = parsed.Buffers(entry.Buffer()).DataAsNumpy()
            return _table(data.tobytes()) if isinstance(data, np.ndarray) else _Told()
    return _Told()


def _table(content: bytes) -> _Told:
    import flatbuffers.table
    from flatbuffers import encode, number_types

    root = flatbuffers.table.Table(
        content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0)
    )
    view = _View(root)
    mean, std = _normalisation(view)
    return _Told(view.text(_MODEL_NAME), view.text(_MODEL_DESCRIPTION), mean, std)


def _normalisation(root: _View) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for graph in root.tables(_MODEL_SUBGRAPHS)[:1]:
        for tensor in graph.tables(_SUBGRAPH_INPUTS)[:1]:
            for unit in tensor.tables(_TENSOR_UNITS):
                options = unit.table(_UNIT_OPTIONS)
                if unit.byte(_UNIT_OPTIONS_TYPE) == _NORMALISATION and options is not None:
                    return options.floats(_OPTIONS_MEAN), options.floats(_OPTIONS_STD)
    return (), ()


class _View:
    """Fields of a FlatBuffers table by slot."""

    def __init__(self, table) -> None:  # type: ignore[no-untyped-def]
        self._table = table

    def _place(self, slot: int) -> int:
        offset = self._table.Offset(4 + 2 * slot)
        return int(offset + self._table.Pos) if offset else 0

    def text(self, slot: int) -> str:
        """Return a string field; empty where it is not set."""
        place = self._place(slot)
        return self._table.String(place).decode("utf-8", "replace") if place else ""

    def byte(self, slot: int) -> int:
        """Return a byte field; 0 where it is not set."""
        place = self._place(slot)
        return int(self._table.Bytes[place]) if place else 0

    def table(self, slot: int) -> _View | None:
        """Return a table field, or None."""
        place = self._place(slot)
        return self._at(self._table.Indirect(place)) if place else None

    def tables(self, slot: int) -> list[_View]:
        """Return a vector of tables."""
        offset = self._table.Offset(4 + 2 * slot)
        if not offset:
            return []
        first = self._table.Vector(offset)
        count = self._table.VectorLen(offset)
        return [self._at(self._table.Indirect(first + 4 * index)) for index in range(count)]

    def floats(self, slot: int) -> tuple[float, ...]:
        """Return a vector of floats."""
        offset = self._table.Offset(4 + 2 * slot)
        if not offset:
            return ()
        count, first = self._table.VectorLen(offset), self._table.Vector(offset)
        return tuple(np.frombuffer(self._table.Bytes, "<f4", count, first).tolist())

    def _at(self, place: int) -> _View:
        return _View(type(self._table)(self._table.Bytes, place))
