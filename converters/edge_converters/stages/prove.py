"""Prove: golden vectors, the bundle's folder, and its admission as a device would do it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle, Golden, assemble, pack, save_bundle, write_golden
from edge_runtime.bundle.bundle import MANIFEST
from edge_runtime.config.document import dump_yaml
from edge_runtime.errors import BundleError
from edge_runtime.spec import ModelSpec, as_builtins
from edge_runtime.update.admission import admit
from edge_runtime.update.proof import golden_windows

__all__ = ["proven", "write"]

_FLOAT_STEPS = 1e-4
_INTEGER_STEPS = 0.02


def proven(spec: ModelSpec, files: Mapping[str, bytes], windows: np.ndarray) -> Bundle:
    """Make a bundle whose golden answers are its own, and let it prove them.

    The tolerance is a share of the largest answer, because other processors round
    otherwise: 1e-4 for a float file and 2 % for one with integers, at least 1e-3.

    Args:
        spec: What it says; its artefact has been admitted.
        files: Everything but ``bundle.yaml`` and the golden vectors.
        windows: Golden ones, shape (n, length, channels).

    Raises:
        BundleError: It does not reproduce its own answers in a child process.
    """
    answers = _answers(spec, files, windows)
    share = _FLOAT_STEPS if spec.artefacts[0].precision == "float32" else _INTEGER_STEPS
    tolerance = max(spec.tolerance, float(f"{share * np.abs(answers).max():.1g}"))
    spec = msgspec.structs.replace(spec, tolerance=tolerance)
    bundle = _assembled(spec, files, Golden(windows, answers))
    _admit(bundle)
    return bundle


def write(bundle: Bundle, folder: Path) -> None:
    """Write the bundle's folder, whole or not at all.

    Raises:
        BundleError: There is something else in its place, or no room.
    """
    try:
        save_bundle(folder, bundle.spec, bundle.files)
    except OSError as error:
        raise BundleError(
            f"cannot be written: {error.strerror or error}",
            where=str(folder),
            expected="room and permission for a new folder",
            remedy="Nothing was left there; make room, or choose another -o.",
        ) from error


def _answers(spec: ModelSpec, files: Mapping[str, bytes], windows: np.ndarray) -> np.ndarray:
    nothing = Golden(windows, np.zeros((len(windows), len(spec.labels))))
    pipeline = open_pipeline(_assembled(spec, files, nothing))
    try:
        return np.asarray(pipeline.score_windows(golden_windows(windows)).score)
    finally:
        pipeline.scorer.session.close()


def _assembled(spec: ModelSpec, files: Mapping[str, bytes], golden: Golden) -> Bundle:
    manifest = dump_yaml(as_builtins(spec)).encode()
    return assemble({**files, MANIFEST: manifest, spec.golden: write_golden(golden)}, spec.name)


def _admit(bundle: Bundle) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.zip"
        path.write_bytes(pack(bundle))
        verdict = admit(path)
    if not verdict.is_admitted:
        raise BundleError(
            f"the finished bundle is refused: {verdict.reason}",
            where=bundle.ref,
            expected="golden windows answered as recorded, twice, alone and in a batch",
            remedy="Nothing was written; a device would refuse it too. Try another --to or "
            "--precision.",
        )
