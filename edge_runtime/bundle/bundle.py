"""A base bundle: ``bundle.yaml``, model files and golden vectors, immutable."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_runtime.bundle.archive import BUNDLE_LIMITS, check_names, read_zip, write_zip
from edge_runtime.bundle.golden import Golden, read_golden
from edge_runtime.config.convert import parse_yaml
from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.spec import ArtefactSpec, ModelSpec
from edge_runtime.version import __version__

__all__ = [
    "Bundle",
    "artefact_kind",
    "assemble",
    "digest_of",
    "load_bundle",
    "pack",
    "read_archive",
]

MANIFEST = "bundle.yaml"
_KIND_OF_BACKEND = {"litert": "tflite", "tflite-runtime": "tflite"}


class Bundle(msgspec.Struct, frozen=True, eq=False):
    """A model with everything that decides its numbers.

    Attributes:
        spec: What ``bundle.yaml`` says.
        digest: Identity: SHA-256 over the sorted file digests, hex.
        files: Every file by name, ``bundle.yaml`` included.
    """

    spec: ModelSpec
    digest: str
    files: dict[str, bytes]

    @property
    def ref(self) -> str:
        """``name@version``, for people."""
        return f"{self.spec.name}@{self.spec.version}"

    def artefact(
        self, backend: str | None = None, file: str | None = None
    ) -> tuple[ArtefactSpec, bytes]:
        """Return the model file that ``backend`` runs; the preferred one for None.

        Args:
            backend: Name of a backend.
            file: Name of the model file itself, whatever runs it.

        Raises:
            BundleError: The bundle has no such file, or none for that backend.
        """
        if file is not None:
            return self._named_artefact(file)
        if backend is None:
            return self._entry(self.spec.artefacts[0])
        return self.backend_artefact(artefact_kind(backend))

    def backend_artefact(self, kind: str) -> tuple[ArtefactSpec, bytes]:
        """Return the first model file of one kind: ``tflite``, ``onnx`` or ``reference``.

        Raises:
            BundleError: The bundle has none.
        """
        for artefact in self.spec.artefacts:
            if artefact.backend == kind:
                return self._entry(artefact)
        kinds = ", ".join(dict.fromkeys(artefact.backend for artefact in self.spec.artefacts))
        raise BundleError(
            f"has model files for {kinds}, none for {kind!r}",
            where=self.ref,
            expected=f"an artefact with backend {kind!r}",
            remedy="Choose a backend that runs one of its files, or convert the model.",
        )

    def golden(self) -> Golden:
        """Read the golden vectors.

        Raises:
            BundleError: They are no sound arrays.
        """
        return read_golden(self.files[self.spec.golden], f"{self.ref}/{self.spec.golden}")

    def _named_artefact(self, file: str) -> tuple[ArtefactSpec, bytes]:
        for artefact in self.spec.artefacts:
            if artefact.file == file:
                return self._entry(artefact)
        files = ", ".join(artefact.file for artefact in self.spec.artefacts)
        raise BundleError(
            f"has no model file {file!r}",
            where=self.ref,
            expected=f"one of {files}",
            remedy="Name one of these, or tune again: edge-runtime tune BUNDLE.",
        )

    def _entry(self, artefact: ArtefactSpec) -> tuple[ArtefactSpec, bytes]:
        return artefact, self.files[artefact.file]


def artefact_kind(backend: str) -> str:
    """Return the kind of model file a backend runs: ``tflite`` for ``litert``."""
    return _KIND_OF_BACKEND.get(backend, backend)


def digest_of(files: Mapping[str, bytes]) -> str:
    """Return the identity of a set of files.

    SHA-256, hex, over one line a file, sorted by name: ``<sha256 of the file>  <name>``.
    """
    lines = (f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load_bundle(path: Path | str) -> Bundle:
    """Load a bundle from a folder, or from the same as one zip file.

    Hidden files and folders (``.git``, ``.DS_Store``) are no part of a bundle
    and are passed over; every other file is part of it and of its digest.

    Raises:
        BundleError: It is missing, incomplete, unsound or breaks a limit.
    """
    path = Path(path)
    if path.is_dir():
        return assemble(_read_folder(path), str(path))
    return _read_archive(_read_file(path, BUNDLE_LIMITS.total_bytes + (1 << 20)), str(path))


def read_archive(content: bytes) -> Bundle:
    """Read a packed bundle: at most 64 files, 64 MiB a file, 128 MiB in all.

    Raises:
        BundleError: It is incomplete, unsound or breaks a limit.
    """
    return _read_archive(content, "archive")


def pack(bundle: Bundle) -> bytes:
    """Write a bundle as one zip; equal bundles give equal bytes."""
    return write_zip(bundle.files)


def assemble(files: Mapping[str, bytes], where: str) -> Bundle:
    """Make a bundle of its files after checking that it is complete.

    Raises:
        BundleError: ``bundle.yaml`` does not fit, a file it names is missing,
            or it needs a newer runtime.
    """
    check_names(files, where)
    spec = _read_spec(files, where)
    _check_runtime(spec, where)
    own = (spec.artefacts, *(stage.artefacts for stage in spec.cascade))
    models = [artefact.file for artefacts in own for artefact in artefacts]
    for name in [*models, spec.golden]:
        if name not in files:
            raise BundleError(
                f"{MANIFEST} names {name!r}, which is missing",
                where=where,
                expected=f"one of {', '.join(sorted(files))}",
                remedy=f"Add the file to the bundle, or correct {MANIFEST}.",
            )
    return Bundle(spec, digest_of(files), dict(files))


def _read_archive(content: bytes, where: str) -> Bundle:
    return assemble(read_zip(content, where), where)


def _read_spec(files: Mapping[str, bytes], where: str) -> ModelSpec:
    if MANIFEST not in files:
        raise BundleError(
            f"{MANIFEST} is missing",
            where=where,
            expected=f"{MANIFEST} at the top, not inside a folder",
            remedy="Point to the bundle itself; pack one with edge-runtime bundle pack FOLDER.",
        )
    try:
        return parse_yaml(_text(files[MANIFEST], where), ModelSpec, f"{where}/{MANIFEST}")
    except ConfigError as error:
        raise BundleError(
            error.what, where=error.where, expected=error.expected, remedy=error.remedy
        ) from error


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BundleError(
            f"byte {error.start} is not UTF-8",
            where=f"{where}/{MANIFEST}",
            expected="YAML in UTF-8",
            remedy="Save the file as UTF-8.",
        ) from error


def _check_runtime(spec: ModelSpec, where: str) -> None:
    try:
        needed = _version(spec.requires_runtime)
    except ValueError as error:
        raise BundleError(
            f"requires_runtime is {spec.requires_runtime!r}",
            where=f"{where}/{MANIFEST}",
            expected="a version such as 0.1 or 0.1.0",
            remedy="Correct requires_runtime.",
        ) from error
    if needed > _version(__version__):
        raise BundleError(
            f"{spec.name}@{spec.version} needs edge-runtime {spec.requires_runtime}, "
            f"and this is {__version__}",
            where=where,
            expected=f"at most {__version__}",
            remedy="Upgrade edge-runtime on this device, or use an older bundle.",
        )


def _version(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,3}", text):
        raise ValueError(text)
    numbers = [int(part) for part in text.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _read_folder(folder: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    remaining = BUNDLE_LIMITS.total_bytes
    for path in _visible(folder):
        if len(files) == BUNDLE_LIMITS.files:
            raise _too_large(folder, f"more than {BUNDLE_LIMITS.files} files")
        content = _read_file(path, min(BUNDLE_LIMITS.file_bytes, remaining))
        remaining -= len(content)
        files[path.relative_to(folder).as_posix()] = content
    return files


def _visible(folder: Path) -> list[Path]:
    found: list[Path] = []
    pending = [folder]
    while pending:
        entries = itertools.islice(pending.pop().iterdir(), 16 * BUNDLE_LIMITS.files)
        visible = [entry for entry in entries if not entry.name.startswith(".")]
        for entry in visible:
            if entry.is_symlink():
                raise BundleError(
                    f"{entry.name!r} is a link",
                    where=str(entry),
                    expected="plain files and folders",
                    remedy="Replace the link by a copy of the file.",
                )
        pending += [entry for entry in visible if entry.is_dir()]
        found += [entry for entry in visible if not entry.is_dir()]
    return sorted(found)


def _read_file(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise BundleError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            expected="a bundle: a folder, or one zip file",
            remedy="Check the path and its permissions.",
        ) from error
    if len(content) > limit_bytes:
        raise _too_large(path, f"more than {limit_bytes} bytes")
    return content


def _too_large(path: Path, what: str) -> BundleError:
    return BundleError(
        f"holds {what}",
        where=str(path),
        expected="at most 64 files, 64 MiB a file and 128 MiB in all",
        remedy="Check that this is the right file; keep only what the model needs.",
    )
