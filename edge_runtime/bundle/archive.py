"""Zip archives from outside, read within limits; written so that bytes repeat.

Names follow one strict grammar. It leaves no room for absolute paths, ``..``,
backslashes, drive letters, hidden files or look-alikes in Unicode.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping

import msgspec

from edge_runtime.errors import BundleError

__all__ = ["ArchiveLimits", "check_names", "read_zip", "write_zip"]

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"
_NAME = re.compile(rf"{_PART}(?:/{_PART}){{0,7}}")
_FIXED_DATE = (1980, 1, 1, 0, 0, 0)
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class ArchiveLimits(msgspec.Struct, frozen=True):
    """How much an archive may hold."""

    files: int = 64
    file_bytes: int = 64 << 20
    total_bytes: int = 128 << 20


BUNDLE_LIMITS = ArchiveLimits()


def read_zip(content: bytes, where: str, limits: ArchiveLimits = BUNDLE_LIMITS) -> dict[str, bytes]:
    """Unpack a zip archive in memory, sorted by name.

    Nothing is inflated before the declared sizes fit ``limits``, and never
    more than was declared.

    Raises:
        BundleError: It is no sound archive, or breaks a limit.
    """
    if len(content) > limits.total_bytes + (1 << 20):
        raise _refused(where, f"has {len(content)} bytes", f"at most {limits.total_bytes}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = _members(archive, where, limits)
            return {member.filename: _read(archive, member) for member in members}
    except BundleError:
        raise
    except _UNREADABLE as error:
        raise _refused(where, f"cannot be unpacked ({error})", "a sound zip archive") from error


def write_zip(files: Mapping[str, bytes]) -> bytes:
    """Pack files, sorted and stored, with fixed dates: equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _FIXED_DATE)
            member.create_system = 3
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, files[name])
    return buffer.getvalue()


def check_names(names: Iterable[str], where: str) -> None:
    """Check that file names are safe and distinct, also where case does not count.

    Raises:
        BundleError: A name is unsafe, stands twice, or is also a folder.
    """
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name):
            raise _refused(
                where,
                f"holds a file named {name[:100]!r}",
                "relative names of letters, digits, '.', '_' and '-', not starting with '.' or '-'",
            )
        if name.lower() in seen:
            raise _refused(where, f"holds {name!r} twice", "every name once, in any case")
        seen.add(name.lower())
    _check_folders(seen, where)


def _check_folders(names: set[str], where: str) -> None:
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in names:
                raise _refused(where, f"holds a file that is also the folder of {name!r}", "one")


def _members(archive: zipfile.ZipFile, where: str, limits: ArchiveLimits) -> list[zipfile.ZipInfo]:
    if len(archive.infolist()) > 2 * limits.files:
        raise _too_many(where, len(archive.infolist()), limits)
    members = [member for member in archive.infolist() if not _is_empty_folder(member)]
    if len(members) > limits.files:
        raise _too_many(where, len(members), limits)
    check_names((member.filename for member in members), where)
    for member in members:
        _check_member(member, where, limits)
    total = sum(member.file_size for member in members)
    if total > limits.total_bytes:
        raise _refused(where, f"unpacks to {total} bytes", f"at most {limits.total_bytes}")
    return sorted(members, key=lambda member: member.filename)


def _is_empty_folder(member: zipfile.ZipInfo) -> bool:
    return member.is_dir() and member.file_size == 0 and bool(_NAME.fullmatch(member.filename[:-1]))


def _check_member(member: zipfile.ZipInfo, where: str, limits: ArchiveLimits) -> None:
    name = member.filename
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise _refused(where, f"{name!r} is a link or a device", "plain files only")
    if member.flag_bits & 1:
        raise _refused(where, f"{name!r} is encrypted", "plain files only")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _refused(
            where, f"{name!r} has compression {member.compress_type}", "stored or deflated files"
        )
    if member.file_size > limits.file_bytes:
        raise _refused(
            where, f"{name!r} unpacks to {member.file_size} bytes", f"at most {limits.file_bytes}"
        )


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        # zipfile hands out at most the declared size, and inflates in steps.
        content = file.read(member.file_size + 1)
    if len(content) != member.file_size:
        raise zipfile.BadZipFile(f"{member.filename!r} ends after {len(content)} bytes")
    return content


def _too_many(where: str, count: int, limits: ArchiveLimits) -> BundleError:
    return _refused(where, f"holds {count} files", f"at most {limits.files}")


def _refused(where: str, what: str, expected: str) -> BundleError:
    return BundleError(
        what,
        where=where,
        expected=expected,
        remedy="Fetch or pack it again: edge-runtime bundle pack FOLDER.",
    )
