"""Writes a bundle's folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edge_runtime.bundle.bundle import MANIFEST, Bundle, assemble
from edge_runtime.config.document import dump_yaml
from edge_runtime.errors import BundleError
from edge_runtime.spec import ModelSpec, as_builtins

__all__ = ["save_bundle"]


def save_bundle(folder: Path, spec: ModelSpec, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle's folder; an older bundle there is replaced.

    The files are written and synced beside ``folder`` and then renamed, so
    that ``folder`` never holds half a bundle.

    Args:
        folder: Where to; its parent is made if missing.
        spec: What ``bundle.yaml`` says.
        files: Every other file. A ``bundle.yaml`` among them is kept as it is,
            byte for byte, if it says the same as ``spec``.

    Raises:
        BundleError: A file that ``spec`` names is missing, ``bundle.yaml``
            says something else, or ``folder`` holds something that is no bundle.
    """
    manifest = dump_yaml(as_builtins(spec)).encode()
    bundle = assemble({MANIFEST: manifest, **files}, str(folder))
    if bundle.spec != spec:
        raise BundleError(
            f"{MANIFEST} among the files differs from the spec",
            where=str(folder),
            expected="the same model",
            remedy=f"Leave {MANIFEST} out of the files; it is written from the spec.",
        )
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=folder.parent) as workspace:
        _write_files(Path(workspace) / "new", bundle.files)
        _swap(Path(workspace), folder)
    return bundle


def _check_replaceable(folder: Path) -> None:
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and not (folder / MANIFEST).is_file():
        raise BundleError(
            "there is something here that is no bundle",
            where=str(folder),
            expected="a free path, or an older bundle",
            remedy="Choose another folder.",
        )


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _swap(workspace: Path, folder: Path) -> None:
    if folder.exists():
        folder.rename(workspace / "old")
    (workspace / "new").rename(folder)
    shutil.rmtree(workspace / "old", ignore_errors=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
