"""What a refresh starts from: the bundle that devices have."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Format, Precision, Request
from edge_converters.quantise.contracts import Recipe as Quantised
from edge_converters.recipes import decode_recipe
from edge_runtime.bundle import Bundle, load_bundle, next_version
from edge_runtime.bundle.bundle import MANIFEST
from edge_runtime.config.document import dump_yaml
from edge_runtime.errors import BundleError
from edge_runtime.spec import as_builtins

__all__ = ["Before", "completed", "load_before"]


class Before(msgspec.Struct, frozen=True, eq=False):
    """A bundle with integers, and how they were made.

    Attributes:
        bundle: All of it.
        recipe: How its file was made of a float one.
    """

    bundle: Bundle
    recipe: Quantised

    @property
    def model(self) -> bytes:
        """Return the file that devices have."""
        return self.bundle.files[self.bundle.spec.artefacts[0].file]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Return its files in other formats: a refresh makes one, and these are not in it."""
        return tuple(one.file for one in self.bundle.spec.artefacts[1:])

    def is_alike(self, form: Format, precision: str) -> bool:
        """Whether a file of the new weights takes the place of that one as it is."""
        return (form, precision) == (self.recipe.format, self.recipe.precision)


def load_before(path: Path) -> Before:
    """Load the bundle that devices have.

    Raises:
        BundleError: It was not made by a conversion to integers.
    """
    bundle = load_bundle(path)
    content = bundle.files.get("recipe.json")
    quantised = None if content is None else decode_recipe(content, str(path)).quantised
    if quantised is None or quantised.precision not in {"int8", "mixed"}:
        raise BundleError(
            "it does not say how its integers were made",
            where=bundle.ref,
            expected="a bundle of edge-runtime convert whose file is int8 or mixed",
            remedy="Convert the new model without --refresh; the next one can refresh that.",
        )
    return Before(bundle, quantised)


def completed(request: Request, before: Before, folder: Path) -> Request:
    """Return what a refresh asks for: spec, format and precision of the bundle before.

    Without calibration data its golden windows are asked, which of a cell are one sequence.

    Args:
        request: Names the new model.
        before: What devices have.
        folder: Where its parts are written.
    """
    spec = before.bundle.spec
    version = request.version or next_version(spec.version)
    described, windows = folder / MANIFEST, folder / "golden.npz"
    spec = msgspec.structs.replace(spec, version=version)
    described.write_text(dump_yaml(as_builtins(spec)))
    golden = before.bundle.golden().inputs
    sequence = golden.reshape(1, -1, golden.shape[-1])
    np.savez(windows, inputs=sequence if spec.state.tensors else golden)
    precision: Precision = before.recipe.precision
    return msgspec.structs.replace(
        request,
        calib=request.calib or windows,
        spec=described,
        formats=(before.recipe.format,),
        precisions=(precision,),
    )
