"""Plug-ins are found by name, lazily, and built from checked options."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from edge_runtime import registry
from edge_runtime.errors import ConfigError
from edge_runtime.version import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of another distribution on the import path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    registry._entries.cache_clear()
    yield tmp_path
    registry._entries.cache_clear()


def _register(folder: Path, entry: str, source: str = "") -> None:
    metadata = folder / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[edge_runtime.sources]\n{entry}\n")
    (folder / "other_plugin.py").write_text(source)
    sys.modules.pop("other_plugin", None)


def test_built_ins_come_through_entry_points() -> None:
    """Every built-in source and sink is registered under its name."""
    assert {"csv", "npz", "parquet", "wav"} <= set(registry.names("sources"))
    assert {"jsonl", "terminal"} <= set(registry.names("sinks"))
    assert {"litert", "onnx", "reference", "tflite-runtime"} <= set(registry.names("backends"))


def test_names_are_sorted_in_every_group() -> None:
    """Lists for people have one order."""
    for group in registry.GROUPS:
        assert list(registry.names(group)) == sorted(registry.names(group))


def test_unknown_name_suggests_the_closest() -> None:
    """A typing error gets the name that was probably meant."""
    with pytest.raises(ConfigError, match=r"no source named 'cvs'.*\n.*'csv'") as caught:
        registry.find("sources", "cvs")

    assert caught.value.exit_code == 2


def test_plugin_of_another_package_uses_the_same_door(package: Path) -> None:
    """An installed package adds a source without any change here."""
    _register(package, "sine = other_plugin:Sine", "class Sine:\n    pass\n")

    assert type(registry.create("sources", "sine", {})).__name__ == "Sine"
    assert "csv" in registry.names("sources")


def test_plugin_cannot_take_a_name_that_is_taken(package: Path) -> None:
    """Two packages with one name are an error, not a matter of luck."""
    _register(package, "csv = other_plugin:Csv", "class Csv:\n    pass\n")

    with pytest.raises(ConfigError, match="two packages register the source 'csv'"):
        registry.find("sources", "csv")


@pytest.mark.parametrize("source", ["import no_such_module_here\n", "x = 1\n"])
def test_plugin_that_cannot_be_imported_says_why(package: Path, source: str) -> None:
    """A broken installation is told apart from a wrong name."""
    _register(package, "sine = other_plugin:Sine", source)

    with pytest.raises(ConfigError, match="'sine' cannot be loaded") as caught:
        registry.find("sources", "sine")

    assert caught.value.__cause__ is not None


def test_unknown_option_suggests_the_closest() -> None:
    """A wrong key in the options is named with its place."""
    with pytest.raises(ConfigError, match=r"pump.yaml:3: unknown key 'pth'.*\n.*'path'"):
        registry.create("sinks", "jsonl", {"pth": "x"}, "pump.yaml:3")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": 5}, "expected Path, got 5"),
        ({}, "missing required field `path`"),
        ({"path": "x", "estimates": "yes"}, "Expected `bool`"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    """A plug-in is never built from options of a wrong type."""
    with pytest.raises(ConfigError, match=message):
        registry.create("sinks", "jsonl", options)


def test_error_of_a_config_itself_keeps_its_sentence() -> None:
    """What a plug-in's own check says reaches the reader."""
    options = {"path": "x.csv", "time": {"column": "t"}, "first_row": 5, "last_row": 5}

    with pytest.raises(ConfigError, match="first_row is 5 and last_row 5"):
        registry.create("sources", "csv", options)


def test_plugin_without_options_takes_none() -> None:
    """Commands and backends have no options to get wrong."""
    with pytest.raises(ConfigError, match="unknown key 'threads'"):
        registry.create("commands", "plugins", {"threads": 2})


def test_version_is_the_distribution_s() -> None:
    """The version stands in two files and is one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == __version__ == version("edge-runtime")
