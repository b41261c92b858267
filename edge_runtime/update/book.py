"""The layers of many entities on one base, in one file.

An entity is whatever has a stream of its own but no device: a customer, a meter, a machine
behind a gateway. Its layers have the scope ``device:<id>``, as if it were a device; those of
the scope ``fleet`` are for all. One process serves all of them with one loaded model.

The file has one layer a line, in the encoding that is signed elsewhere. Like a bundle's folder
it is trusted because of who may write it; every layer still has to keep the base's clamps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from edge_runtime.bundle import Bundle
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.spec import Layer, LayerKind, ModelSpec
from edge_runtime.types import check_name
from edge_runtime.update.trust import MAX_SIGNED_BYTES, check_layer

__all__ = ["LARGEST_BOOK", "LayerBook", "load_book", "save_book"]

LARGEST_BOOK = 1_000_000
"""Layers a book may have."""

_FLEET = "fleet"
_DEVICE = "device:"
_Kinds = dict[LayerKind, Layer]


class LayerBook:
    """Tells which layers an entity has; not changed once made, so any thread may ask.

    Args:
        layers: In any order; of two with one scope and kind the higher number counts.
        spec: Of the base.
        base: Digest of the base.

    Raises:
        ConfigError: A scope is neither ``fleet`` nor ``device:<id>``, or an id is no name.
        BundleError: Two layers of one scope and kind have one number, or there are too many.
        TrustError: A layer is for another base, or breaks a clamp.
    """

    def __init__(self, layers: Iterable[Layer], spec: ModelSpec, base: str) -> None:
        self._scopes: dict[str, _Kinds] = {}
        for count, layer in enumerate(layers):
            if count == LARGEST_BOOK:
                raise BundleError("the book has more layers", expected=f"at most {LARGEST_BOOK}")
            check_layer(layer, spec, base, None)
            _keep(self._scopes.setdefault(_checked_scope(layer), {}), layer)
        self._fleet = self._scopes.pop(_FLEET, {})

    def __len__(self) -> int:
        """Return how many entities have layers of their own."""
        return len(self._scopes)

    def __contains__(self, entity: str) -> bool:
        return _DEVICE + entity in self._scopes

    def of(self, entity: str) -> tuple[Layer, ...]:
        """Return an entity's layers: its own, and the fleet's of every other kind.

        Always in the same order, so that equal layers give equal effective ids. Who is not in
        the book has the fleet's; without those either, the base answers alone.
        """
        kinds = self._fleet | self._scopes.get(_DEVICE + entity, {})
        return tuple(kinds[kind] for kind in get_args(LayerKind) if kind in kinds)


def load_book(path: Path, bundle: Bundle) -> LayerBook:
    """Read a book for a base.

    Raises:
        ConfigError: The file cannot be read, a line is no layer, or a scope is unknown.
        BundleError: See `LayerBook`.
        TrustError: A layer is for another base, or breaks a clamp.
    """
    return LayerBook(_read(path), bundle.spec, bundle.digest)


def save_book(path: Path, layers: Iterable[Layer]) -> None:
    """Write a book, whole or not at all: who reads meanwhile sees the old one."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.writelines(layer.encode() + b"\n" for layer in layers)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _read(path: Path) -> Iterator[Layer]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_SIGNED_BYTES), b""), 1):
                yield _layer_of(line, f"{path}:{number}")
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            expected="a file with one layer a line",
            remedy="Check the path and its permissions.",
        ) from error


def _layer_of(line: bytes, where: str) -> Layer:
    try:
        return Layer.decode(line)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"is no layer: {error}",
            where=where,
            expected=f"the JSON of a layer, below {MAX_SIGNED_BYTES} bytes",
            remedy="Write the file with save_book, one layer a line.",
        ) from error


def _checked_scope(layer: Layer) -> str:
    if layer.scope != _FLEET and not layer.scope.startswith(_DEVICE):
        raise ConfigError(
            f"a {layer.kind} layer has the scope {layer.scope!r}",
            expected="'fleet' or 'device:<id>'",
            remedy="Write a group's layer once for each of its members; a book knows no groups.",
        )
    if layer.scope != _FLEET:
        check_name(layer.scope.removeprefix(_DEVICE), "entity")
    return layer.scope


def _keep(kinds: _Kinds, layer: Layer) -> None:
    """Keep the newer of two layers of one kind."""
    before = kinds.get(layer.kind)
    if before is not None and before.seq == layer.seq and before != layer:
        raise BundleError(
            f"two {layer.kind} layers of {layer.scope} have the number {layer.seq}",
            expected="one layer of a kind, or a higher number for the newer one",
            remedy="Number a night's layers higher than those of the night before.",
        )
    if before is None or before.seq < layer.seq:
        kinds[layer.kind] = layer
