"""Bundles: a model with everything that decides its numbers, as a folder or one zip."""

from edge_runtime.bundle.archive import ArchiveLimits
from edge_runtime.bundle.arrays import read_arrays, write_arrays
from edge_runtime.bundle.bundle import (
    Bundle,
    artefact_kind,
    assemble,
    digest_of,
    load_bundle,
    pack,
    read_archive,
)
from edge_runtime.bundle.golden import Golden, read_golden, write_golden
from edge_runtime.bundle.save import save_bundle
from edge_runtime.bundle.versions import next_version

__all__ = [
    "ArchiveLimits",
    "Bundle",
    "Golden",
    "artefact_kind",
    "assemble",
    "digest_of",
    "load_bundle",
    "next_version",
    "pack",
    "read_archive",
    "read_arrays",
    "read_golden",
    "save_bundle",
    "write_arrays",
    "write_golden",
]
