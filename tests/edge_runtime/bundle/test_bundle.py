"""Bundles: identity, completeness, and reading from folder and zip."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from edge_runtime.bundle import (
    Bundle,
    assemble,
    digest_of,
    load_bundle,
    pack,
    read_archive,
    save_bundle,
)
from edge_runtime.errors import BundleError
from edge_runtime.version import __version__


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _assert_four_parts(error: BundleError) -> None:
    assert all((error.what, error.where, error.expected, error.remedy))


def test_digest_is_the_hash_of_the_sorted_file_digests() -> None:
    """The digest can be recomputed with sha256sum and sort."""
    files = {"b": b"2", "a": b"1"}
    lines = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in "ab")

    assert digest_of(files) == hashlib.sha256(lines.encode()).hexdigest()


def test_folder_and_zip_of_one_bundle_have_the_same_digest(
    tmp_path: Path, files: dict[str, bytes], bundle: Bundle
) -> None:
    """How a bundle is stored does not change what it is."""
    folder = _write(tmp_path / "folder", files)
    archive = tmp_path / "bundle.zip"
    archive.write_bytes(pack(bundle))

    loaded = [load_bundle(folder), load_bundle(archive)]

    assert {b.digest for b in loaded} == {bundle.digest}
    assert all(b.files == files for b in loaded)


def test_packing_is_deterministic(bundle: Bundle) -> None:
    """An archive that is read and packed again has the same bytes."""
    archive = pack(bundle)

    assert pack(read_archive(archive)) == archive


def test_hidden_files_are_no_part_of_a_folder(tmp_path: Path, files: dict[str, bytes]) -> None:
    """What editors and version control leave behind does not change the digest."""
    folder = _write(tmp_path, {**files, ".DS_Store": b"junk", ".git/config": b"junk"})

    assert load_bundle(folder).digest == digest_of(files)


def test_unknown_files_are_part_of_the_bundle(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A file that this version does not know still counts for the identity."""
    folder = _write(tmp_path, {**files, "later.bin": b"?"})

    assert load_bundle(folder).digest == digest_of({**files, "later.bin": b"?"})


@pytest.mark.parametrize(
    ("backend", "file"),
    [
        (None, "model.tflite"),
        ("litert", "model.tflite"),
        ("tflite-runtime", "model.tflite"),
        ("onnx", "model.onnx"),
    ],
)
def test_artefact_is_chosen_by_backend(bundle: Bundle, backend: str | None, file: str) -> None:
    """Every backend gets the model file it can run."""
    artefact, content = bundle.artefact(backend)

    assert artefact.file == file
    assert content == bundle.files[file]


def test_artefact_for_another_backend_is_refused(bundle: Bundle) -> None:
    """A backend without a file is told which kinds there are."""
    with pytest.raises(BundleError, match="tflite, onnx, none for 'reference'") as caught:
        bundle.artefact("reference")

    _assert_four_parts(caught.value)


@pytest.mark.parametrize("name", ["bundle.yaml", "model.onnx", "golden.npz"])
def test_missing_file_is_named(files: dict[str, bytes], name: str) -> None:
    """A bundle without one of its files does not load."""
    del files[name]

    with pytest.raises(BundleError, match=name) as caught:
        assemble(files, "bundle")

    _assert_four_parts(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kind: classifier", "kind: clasifier", r"bundle.yaml:3:7: kind is 'clasifier'"),
        ("rate_hz: 3200", "rate_hz: fast", r"bundle.yaml:4:71: stream.rate_hz is 'fast'"),
        ("name: pump-bearing", "name: Pump", "model name is 'Pump'"),
        ("kind: statistics", "kind: statistic", "one of raw, statistics"),
        ("on: 0.8", "on: 0.1", "on 0.1 and off 0.6"),
        ("window:", "windw:", "unknown key 'windw'.*\n.*'window'"),
        ("name: pump", "schema: 2\nname: pump", "schema is 2; expected at most 1"),
        ("name: pump", "requires_runtime: '99.0'\nname: pump", "needs edge-runtime 99.0"),
        ("name: pump", "requires_runtime: soon\nname: pump", "requires_runtime is 'soon'"),
        ("name: pump", "{name: pump", "expected valid YAML"),
    ],
)
def test_bad_manifest_says_where(files: dict[str, bytes], old: str, new: str, message: str) -> None:
    """Whatever is wrong in bundle.yaml is a BundleError with file, line and column."""
    files["bundle.yaml"] = files["bundle.yaml"].replace(old.encode(), new.encode(), 1)

    with pytest.raises(BundleError, match=message) as caught:
        assemble(files, "pump")

    assert caught.value.where.startswith("pump")
    assert caught.value.remedy


def test_manifest_that_is_no_text_is_refused(files: dict[str, bytes]) -> None:
    """Binary junk in place of bundle.yaml is a BundleError."""
    files["bundle.yaml"] = b"\xff\xfe\x00"

    with pytest.raises(BundleError, match="not UTF-8") as caught:
        assemble(files, "pump")

    _assert_four_parts(caught.value)


def test_this_version_satisfies_itself(files: dict[str, bytes]) -> None:
    """A bundle that requires exactly this runtime loads, and shorter versions compare."""
    for version in (__version__, __version__.rsplit(".", 1)[0]):
        text = f"requires_runtime: '{version}'\n".encode()

        assert assemble({**files, "bundle.yaml": files["bundle.yaml"] + text}, "pump")


def test_missing_path_is_a_bundle_error(tmp_path: Path) -> None:
    """A path where nothing is gets a message with all four parts."""
    with pytest.raises(BundleError, match="No such file") as caught:
        load_bundle(tmp_path / "nothing")

    _assert_four_parts(caught.value)


def test_links_in_a_folder_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A bundle's folder cannot reach outside itself."""
    folder = _write(tmp_path / "folder", files)
    (folder / "secret").symlink_to("/etc/hostname")

    with pytest.raises(BundleError, match="is a link") as caught:
        load_bundle(folder)

    _assert_four_parts(caught.value)


def test_too_many_files_in_a_folder_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Pointing at a wrong, large folder ends early."""
    folder = _write(tmp_path, {**files, **{f"n{i}": b"" for i in range(64)}})

    with pytest.raises(BundleError, match="more than 64 files") as caught:
        load_bundle(folder)

    _assert_four_parts(caught.value)


def test_saved_bundle_loads_equal(tmp_path: Path, bundle: Bundle) -> None:
    """What save writes, load reads, with the same spec and digest."""
    others = {name: content for name, content in bundle.files.items() if name != "bundle.yaml"}

    saved = save_bundle(tmp_path / "a" / "b", bundle.spec, others)

    loaded = load_bundle(tmp_path / "a" / "b")
    assert loaded.spec == bundle.spec
    assert loaded.digest == saved.digest


def test_saving_a_bundle_keeps_its_manifest(tmp_path: Path, bundle: Bundle) -> None:
    """A loaded bundle that is saved again keeps its digest, comments and all."""
    save_bundle(tmp_path / "copy", bundle.spec, bundle.files)

    assert load_bundle(tmp_path / "copy").digest == bundle.digest


def test_saving_replaces_an_older_bundle_only(tmp_path: Path, bundle: Bundle) -> None:
    """An older bundle is replaced whole; anything else is left alone."""
    save_bundle(tmp_path / "here", bundle.spec, {**bundle.files, "old.txt": b""})
    save_bundle(tmp_path / "here", bundle.spec, bundle.files)
    _write(tmp_path / "home", {"thesis.txt": b"precious"})

    with pytest.raises(BundleError, match="no bundle") as caught:
        save_bundle(tmp_path / "home", bundle.spec, bundle.files)

    _assert_four_parts(caught.value)
    assert load_bundle(tmp_path / "here").digest == bundle.digest
    assert os.listdir(tmp_path / "home") == ["thesis.txt"]  # noqa: PTH208
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["here", "home"]


def test_saving_another_manifest_than_the_spec_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    """Spec and bundle.yaml cannot disagree."""
    changed = bundle.files["bundle.yaml"].replace(b"2.1", b"2.2")

    with pytest.raises(BundleError, match="differs from the spec") as caught:
        save_bundle(tmp_path / "here", bundle.spec, {**bundle.files, "bundle.yaml": changed})

    _assert_four_parts(caught.value)
