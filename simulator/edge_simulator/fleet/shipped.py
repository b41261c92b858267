"""The scenarios that come with the package, and the recordings they run on."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.registry import closest
from edge_simulator.fleet.load import Fleet, load_fleet
from edge_simulator.places import find_places

__all__ = ["find_fleet", "scenario_names"]

_FOLDER = Path(__file__).resolve().parents[1] / "scenarios"


def scenario_names() -> tuple[str, ...]:
    """Return the names of the shipped scenarios, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def find_fleet(wanted: Path) -> Fleet:
    """Read a fleet's file, or the shipped scenario of that name.

    Paths in a shipped scenario are relative to the recordings of the package.

    Raises:
        ConfigError: There is neither, or it does not fit.
    """
    path = wanted
    if not wanted.exists() and wanted.stem in scenario_names():
        path = _FOLDER / f"{wanted.stem}.yaml"
    if not path.exists():
        raise ConfigError(
            "there is no such file",
            where=str(wanted),
            expected="a fleet's YAML file, or the name of a shipped scenario",
            remedy=closest(wanted.stem, scenario_names()),
        )
    if path.resolve().parent == _FOLDER:
        return load_fleet(path, folder=find_places().root)
    return load_fleet(path)
