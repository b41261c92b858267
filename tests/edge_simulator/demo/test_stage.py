import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_simulator.demo.data import load_turbine
from edge_simulator.demo.stage import FAN, TURBINE, clean_folder, demo_fleet
from edge_simulator.places import find_places


def test_a_second_run_empties_what_the_first_made(tmp_path: Path) -> None:
    """The folder of an earlier demo is made anew."""
    folders = clean_folder(tmp_path / "demo")
    (folders.store / "catalogue.db").write_text("old")
    (folders.root / "report.html").write_text("old")

    again = clean_folder(tmp_path / "demo")

    assert not (again.store / "catalogue.db").exists()
    assert not (again.root / "report.html").exists()
    assert again.inbox.is_dir()


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    """Whoever says --out ~/photos keeps the photos."""
    photo = tmp_path / "photos" / "one.jpg"
    photo.parent.mkdir()
    photo.write_text("dear")

    with pytest.raises(ConfigError, match="--out"):
        clean_folder(photo.parent)

    assert photo.read_text() == "dear"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_something_else_than_a_folder_is_left_alone(kind: str, tmp_path: Path) -> None:
    """Neither a file nor a link to a folder is taken for the demo's own."""
    real = clean_folder(tmp_path / "real").root
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("dear")
    else:
        out.symlink_to(real)

    with pytest.raises(ConfigError, match="is no folder"):
        clean_folder(out)

    assert (real / "store").is_dir()


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    """A folder made by hand is fine as long as nothing is in it."""
    folders = clean_folder(tmp_path)

    assert stat.S_ISDIR(folders.inbox.stat().st_mode)


def test_the_fleet_begins_with_the_first_row_after_training() -> None:
    """Its row and its time say the same: what was trained on is never replayed."""
    fleet = demo_fleet()

    turbine, fan = fleet.members
    source = turbine.config.streams[TURBINE[1]].source
    first = load_turbine(find_places().turbine_rows).first_row
    start = datetime.fromisoformat(source["time"]["start"])
    assert (turbine.name, fan.name) == (TURBINE[0], FAN[0])
    assert source["first_row"] == turbine.feeds[TURBINE[1]].first == first
    assert start + timedelta(hours=first) == datetime(2013, 1, 1, tzinfo=UTC)
