"""Installed distributions are read as the standard library reads them, only faster."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from edge_runtime.distributions import EntryPoint, entry_points, installed_version
from edge_runtime.machine import RUNTIMES


def _installed(folder: Path, name: str, entries: str, version: str = "1.0") -> None:
    facts = folder / f"{name}-{version}.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "entry_points.txt").write_text(entries)


@pytest.mark.parametrize("group", ["edge_runtime.sources", "console_scripts", "pytest11"])
def test_entry_points_are_those_of_the_standard_library(group: str) -> None:
    """No distribution is overlooked, and none counts twice."""
    known = [(entry.group, entry.name, entry.value) for entry in metadata.entry_points(group=group)]

    found = entry_points([group])

    assert known
    assert sorted(found) == sorted(known)


@pytest.mark.parametrize("package", [*RUNTIMES, "paho-mqtt", "PyYAML", "edge_runtime"])
def test_versions_are_those_of_the_standard_library(package: str) -> None:
    """However its name is written, a package has the version its metadata say."""
    try:
        known = metadata.version(package)
    except metadata.PackageNotFoundError:
        known = None

    assert installed_version(package) == known


def test_a_package_that_is_absent_has_no_version() -> None:
    """Absence is None."""
    assert installed_version("no-such-package-as-this") is None


def test_the_distribution_that_python_would_import_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lies earlier on the path hides an older one of its name."""
    _installed(tmp_path / "new", "Some.Thing", "[some.group]\na = new:A\n", "2.0")
    _installed(tmp_path / "old", "some_thing", "[some.group]\na = old:A\n")
    monkeypatch.syspath_prepend(str(tmp_path / "old"))
    monkeypatch.syspath_prepend(str(tmp_path / "new"))

    assert entry_points(["some.group"]) == [EntryPoint("some.group", "a", "new:A")]
    assert installed_version("some-thing") == "2.0"


def test_a_distribution_in_a_zip_file_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a distribution may lie in something else than a folder, the library is asked."""
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("packed-3.0.dist-info/METADATA", "Name: packed\nVersion: 3.0\n")
        archive.writestr("packed-3.0.dist-info/entry_points.txt", "[some.group]\np = packed:P\n")
    monkeypatch.syspath_prepend(str(tmp_path / "app.zip"))

    assert entry_points(["some.group"]) == [EntryPoint("some.group", "p", "packed:P")]
    assert installed_version("packed") == "3.0"


def test_comments_and_other_groups_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is read as setuptools and others write it."""
    entries = "# made by hand\n[x]\nb = m:B\n\n[some.group]\n  a=m:A [extra]  \n"
    _installed(tmp_path, "hand", entries)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert entry_points(["some.group"]) == [EntryPoint("some.group", "a", "m:A [extra]")]


def test_a_strange_path_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that are missing or no text, and files in another encoding, disturb nobody."""
    _installed(tmp_path, "one", "[some.group]\na = m:A\n")
    _installed(tmp_path, "two", "")
    (tmp_path / "two-1.0.dist-info" / "entry_points.txt").write_bytes(b"[x]\n\xe9 = m:B\n")
    monkeypatch.setattr(sys, "path", [tmp_path / "missing", tmp_path, *sys.path])

    assert entry_points(["some.group"]) == [EntryPoint("some.group", "a", "m:A")]


def test_an_entry_point_loads_what_it_names() -> None:
    """An extra behind it, a path inside the module and a bare module are all allowed."""
    assert EntryPoint("g", "n", "pathlib:Path.home [extra]").load() == Path.home
    assert EntryPoint("g", "n", "pathlib").load() is sys.modules["pathlib"]


@pytest.mark.parametrize(
    ("group", "name", "heavy"),
    [
        ("sources", "wav", {"importlib.metadata", "csv", "difflib"}),
        ("commands", "run", {"importlib.metadata", "csv", "difflib", "msgspec", "numpy"}),
    ],
)
def test_finding_a_plugin_imports_little(group: str, name: str, heavy: set[str]) -> None:
    """A device pays neither time nor memory for what it does not use."""
    program = (
        f"import sys; from edge_runtime import registry; registry.find({group!r}, {name!r});"
        f"print(sorted({heavy} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout == "[]\n", done.stderr
