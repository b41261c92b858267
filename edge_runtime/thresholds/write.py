"""A new version of a bundle, with another operating point, proven before it is there."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, Golden, save_bundle, write_golden
from edge_runtime.errors import BundleError
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Choice
from edge_runtime.spec import ModelSpec
from edge_runtime.update.admission import admit
from edge_runtime.update.proof import golden_windows

__all__ = ["REPORT", "write_operating_point"]

REPORT = "operating-point.json"
"""File of the bundle that tells how its operating point was found."""

_MANIFEST = "bundle.yaml"


def write_operating_point(folder: Path, bundle: Bundle, spec: ModelSpec, report: bytes) -> Bundle:
    """Write the new version; it is admitted in a child process before it gets its name.

    Args:
        folder: Where to; an older bundle there is replaced.
        bundle: The one it is made of.
        spec: The new one's.
        report: JSON that becomes `REPORT`.

    Raises:
        BundleError: It does not answer its golden windows, or the folder is taken.
    """
    kept = {name: content for name, content in bundle.files.items() if name != _MANIFEST}
    files = kept | {REPORT: report, spec.golden: _golden(bundle, spec)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tuned-", dir=folder.parent) as workspace:
        draft = Path(workspace) / "bundle"
        save_bundle(draft, spec, files)
        verdict = admit(draft)
    if not verdict.is_admitted:
        raise BundleError(
            f"the new version is not admitted: {verdict.reason}",
            where=str(folder),
            expected="golden windows answered as recorded, twice",
            remedy=f"Check the bundle it is made of: edge-runtime bundle admit {bundle.ref}.",
        )
    return save_bundle(folder, spec, files)


def _golden(bundle: Bundle, spec: ModelSpec) -> bytes:
    """Return the golden vectors; asked again only where a temperature changes the answers."""
    if spec.output == bundle.spec.output:
        return bundle.files[bundle.spec.golden]
    inputs = bundle.golden().inputs
    session = open_session(bundle, Choice())
    try:
        pipeline = Pipeline(spec, session, base=bundle.digest)
        outputs = pipeline.score_windows(golden_windows(np.asarray(inputs))).score
    finally:
        session.close()
    return write_golden(Golden(inputs, outputs))
