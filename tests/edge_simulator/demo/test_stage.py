import stat
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_simulator.demo.stage import clean_folder


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

    assert stat.S_ISDIR(folders.keys.stat().st_mode)
