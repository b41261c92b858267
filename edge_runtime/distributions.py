"""What installed distributions say of themselves: their entry points and versions.

``importlib.metadata`` answers the same questions, and is asked where a distribution
may lie in anything but a plain folder. It brings parsers of CSV, zip and e-mail,
though, and reads every distribution once for each group: on a device that is a
tenth of the time to start and most of a megabyte, to read a few short files.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Collection, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["EntryPoint", "entry_points", "installed_version"]

_SUFFIXES = (".dist-info", ".egg-info")
_VERSION = re.compile(r"^Version:[ \t]*(\S+)", re.M)


class EntryPoint(NamedTuple):
    """A line of a distribution's ``entry_points.txt``.

    Attributes:
        group: Section it stands in.
        name: Left of the equals sign.
        value: Right of it: ``module:attribute``.
    """

    group: str
    name: str
    value: str

    def load(self) -> Any:
        """Import the module and return the attribute.

        Raises:
            ImportError: There is no such module, or it cannot be imported.
            AttributeError: The module has no such attribute.
        """
        module, _, path = self.value.partition("[")[0].strip().partition(":")
        return functools.reduce(getattr, filter(None, path.split(".")), import_module(module))


def entry_points(groups: Collection[str]) -> list[EntryPoint]:
    """Return every entry point of these groups, in the order of the path.

    Where one distribution is installed twice, the one that Python would import counts.
    """
    if not _are_all_folders():
        return _as_the_library_finds_them(groups)
    return [
        entry
        for folder in _distributions().values()
        for entry in _lines_of(_read(folder, "entry_points.txt"))
        if entry.group in groups
    ]


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, without importing it; None without one."""
    if not _are_all_folders():
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version(package)
        except PackageNotFoundError:
            return None
    folder = _distributions().get(_normal(package))
    if folder is None:
        return None
    found = _VERSION.search(_read(folder, "METADATA") or _read(folder, "PKG-INFO"))
    return found[1] if found else None


# --- folders ------------------------------------------------------------------------
# Names stay text here: for all those of a large environment, paths cost milliseconds.


def _are_all_folders() -> bool:
    """Whether no zip file, egg or import hook may hold a distribution."""
    is_plain = not any(entry.endswith(".egg") or Path(entry).is_file() for entry in _path())
    hooks = [hook for hook in sys.meta_path if hasattr(hook, "find_distributions")]
    return is_plain and hooks == [PathFinder]


def _as_the_library_finds_them(groups: Collection[str]) -> list[EntryPoint]:
    from importlib import metadata

    return [
        EntryPoint(entry.group, entry.name, entry.value)
        for group in groups
        for entry in metadata.entry_points(group=group)
    ]


def _distributions() -> dict[str, str]:
    """Return where the metadata of every distribution lies, by its name."""
    found: dict[str, str] = {}
    for folder in dict.fromkeys(_path()):
        for name in _listed(folder or "."):
            if name.endswith(_SUFFIXES):
                distribution = name.rpartition(".")[0].partition("-")[0]
                found.setdefault(_normal(distribution), f"{folder or '.'}{os.sep}{name}")
    return found


def _path() -> list[str]:
    # Some programs put other things there than text.
    return [str(entry) for entry in sys.path]


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}{os.sep}{name}", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def _lines_of(text: str) -> Iterator[EntryPoint]:
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1]
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield EntryPoint(group, name.strip(), value.strip())
