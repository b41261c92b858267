"""Hostile archives: every one is a BundleError with four parts, in bounded memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import ArchiveLimits, Bundle, pack, read_archive
from edge_runtime.bundle.archive import read_zip, write_zip
from edge_runtime.errors import BundleError

NAMES = [
    "/etc/passwd",
    "../up",
    "a/../../up",
    "a\\b",
    "C:/windows",
    ".hidden",
    "a/.hidden",
    "-rf",
    "a//b",
    "a/",
    "n\u00e4me",
    "x" * 101,
    "/".join("abcdefghi"),
    "new\nline",
]


def _zip(
    *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED
) -> bytearray:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, content in members:
            archive.writestr(name, content, method)
    return bytearray(buffer.getvalue())


def _refuse(content: bytes | bytearray, message: str = "") -> None:
    with pytest.raises(BundleError, match=message) as caught:
        read_zip(bytes(content), "x.zip")
    error = caught.value
    assert all((error.what, error.where, error.expected, error.remedy))


@pytest.mark.parametrize("name", NAMES)
def test_unsafe_names_are_refused(name: str) -> None:
    """No name can leave the bundle or hide in it."""
    _refuse(_zip((name, b"1")), "holds a file named")


def test_names_twice_are_refused() -> None:
    """Two files of one name, also in another case, are ambiguous."""
    _refuse(_zip(("a", b"1"), ("a", b"2")), "twice")
    _refuse(_zip(("a", b"1"), ("A", b"2")), "twice")


def test_file_that_is_also_a_folder_is_refused() -> None:
    """An archive that cannot become a folder is refused."""
    _refuse(_zip(("a", b"1"), ("a/b", b"2")), "also the folder")


def test_too_many_members_are_refused() -> None:
    """The number of files is bounded, empty folders included."""
    _refuse(_zip(*((f"f{i}", b"") for i in range(65))), "holds 65 files")
    _refuse(_zip(*((f"f{i}/", b"") for i in range(200))), "holds 200 files")


def test_links_are_refused() -> None:
    """A symbolic link inside an archive is no plain file."""
    link = zipfile.ZipInfo("model.tflite")
    link.external_attr = 0o120777 << 16

    _refuse(_zip((link, b"/etc/passwd")), "link")


def test_encrypted_members_are_refused() -> None:
    """An encrypted member cannot be verified."""
    content = _zip(("a", b"1"))
    content[content.index(b"PK\x01\x02") + 8] |= 1

    _refuse(content, "encrypted")


def test_unknown_compression_is_refused() -> None:
    """Only stored and deflated files are unpacked."""
    _refuse(_zip(("a", b"1" * 100), method=zipfile.ZIP_LZMA), "compression 14")


def test_declared_bomb_is_refused_before_it_is_inflated() -> None:
    """A member that says it is too large costs no memory."""
    bomb = _zip(("a", bytes(65 << 20)), method=zipfile.ZIP_DEFLATED)

    tracemalloc.start()
    _refuse(bomb, "unpacks to 68157440 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 << 20


def test_total_size_is_bounded() -> None:
    """Many members that fit one by one do not fit together."""
    limits = ArchiveLimits(total_bytes=1000)
    content = bytes(_zip(*((f"f{i}", bytes(300)) for i in range(4)), method=zipfile.ZIP_DEFLATED))

    with pytest.raises(BundleError, match="unpacks to 1200 bytes"):
        read_zip(content, "x.zip", limits)


def test_undeclared_bomb_is_cut_at_its_declared_size() -> None:
    """A member that understates its size is refused and costs no memory."""
    bomb = _zip(("a", bytes(60 << 20)), method=zipfile.ZIP_DEFLATED)
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", bomb, bomb.index(signature) + offset, 100)

    tracemalloc.start()
    _refuse(bomb, "cannot be unpacked")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 4 << 20


def test_too_large_archive_is_refused_unread() -> None:
    """An archive above the limit is not even opened."""
    with pytest.raises(BundleError, match="has 2000000 bytes"):
        read_zip(bytes(2_000_000), "x.zip", ArchiveLimits(total_bytes=1000))


def test_damaged_content_is_refused(bundle: Bundle) -> None:
    """A flipped bit in a file breaks its checksum."""
    content = bytearray(pack(bundle))
    content[content.index(b"tflite bytes")] ^= 1

    _refuse(content, "CRC")


@pytest.mark.parametrize("content", [b"", b"TFL3", b"PK\x05\x06", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_bundle_is_refused(content: bytes) -> None:
    """Empty files, models and empty archives are no bundles."""
    with pytest.raises(BundleError) as caught:
        read_archive(content)

    assert all((caught.value.what, caught.value.expected, caught.value.remedy))


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_archive_is_a_bundle_error(bundle: Bundle, data: st.DataObject) -> None:
    """An archive cut anywhere never loads and never raises anything else."""
    content = pack(bundle)
    cut = data.draw(st.integers(0, len(content) - 1))

    with pytest.raises(BundleError):
        read_archive(content[:cut])


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_load_or_are_a_bundle_error(bundle: Bundle, data: st.DataObject) -> None:
    """Whatever bytes change, reading gives a bundle or a BundleError."""
    content = bytearray(pack(bundle))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))

    try:
        read_archive(bytes(content))
    except BundleError as error:
        assert error.what  # noqa: PT017


@given(st.dictionaries(st.sampled_from(["a", "b/c", "model.tflite"]), st.binary(max_size=200)))
@settings(max_examples=30)
def test_files_survive_the_archive(files: dict[str, bytes]) -> None:
    """Writing and reading an archive changes nothing."""
    assert read_zip(write_zip(files), "x.zip") == files
