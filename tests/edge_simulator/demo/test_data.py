from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.errors import ConfigError
from edge_simulator.demo.data import SENSORS, load_turbine
from edge_simulator.places import find_places


def test_the_committed_rows_are_what_the_demo_says() -> None:
    """Five years, of which 2013 to 2015 are replayed: 21 694 rows from data row 15 039 on."""
    turbine = load_turbine(find_places().turbine_rows)

    assert len(turbine) == 36_733
    assert turbine.first_row == 15_039
    assert len(turbine) - turbine.first_row == 21_694
    assert np.isfinite(turbine.sensors).all()


def test_an_emission_is_never_an_input() -> None:
    """CO, measured by the analyser that measures NOx, is among no model's channels."""
    places = find_places()

    for path in (places.turbine_first, places.turbine_second):
        names = load_bundle(path).spec.stream.names
        assert names == SENSORS
        assert "CO" not in names


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """A file without NOx is refused with its path."""
    path = tmp_path / "rows.csv"
    path.write_text("year,AT\n2013,1.0\n")

    with pytest.raises(ConfigError, match=r"rows\.csv"):
        load_turbine(path)


def test_text_in_a_number_is_refused(tmp_path: Path) -> None:
    """A cell that is no number stops the demo before anything is started."""
    path = tmp_path / "rows.csv"
    header = ",".join(("year", *SENSORS, "NOX"))
    path.write_text(f"{header}\n2013,warm{',1' * 9}\n")

    with pytest.raises(ConfigError, match="cannot be read"):
        load_turbine(path)
