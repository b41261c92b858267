"""Recordings play what is in the file, once or again and again."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.spec import ChannelSpec
from edge_simulator.demo.data import load_turbine
from edge_simulator.places import find_places
from edge_simulator.signals.recording import (
    GasTurbineConfig,
    RecordedConfig,
    load_gas_turbine,
    load_recorded,
)

ROWS = 300
CHANNELS = (ChannelSpec("x", "g"), ChannelSpec("y", "g"))
SAMPLES = np.random.default_rng(1).integers(-9999, 9999, (ROWS, 2), np.int16)
TRUTH = (np.arange(ROWS) >= 100).astype(np.int16)


def _csv(path: Path) -> None:
    table = np.column_stack((SAMPLES, TRUTH))
    np.savetxt(path, table, "%d", ",", header="x,y,broken", comments="")


def _npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, x=SAMPLES[:, 0], y=SAMPLES[:, 1], broken=TRUTH)


def _parquet(path: Path) -> None:
    columns = {"x": SAMPLES[:, 0], "y": SAMPLES[:, 1], "broken": TRUTH}
    pq.write_table(pa.table(columns), path)


def _wav(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setsampwidth(2)
        file.setnchannels(3)
        file.setframerate(100)
        file.writeframes(np.column_stack((SAMPLES, TRUTH)).astype("<i2").tobytes())


WRITERS = {"csv": _csv, "npz": _npz, "parquet": _parquet, "wav": _wav}


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., RecordedConfig]:
    """Write the rows in a format and declare them."""

    def make(ending: str = "npz", **options: Any) -> RecordedConfig:
        path = tmp_path / f"rows.{ending}"
        WRITERS[ending](path)
        options = {"path": path, "channels": CHANNELS, "rate_hz": 100.0, **options}
        return RecordedConfig(**options)

    return make


@pytest.mark.parametrize("ending", sorted(WRITERS))
def test_every_format_gives_its_rows_and_truth(
    recorded: Callable[..., RecordedConfig], ending: str
) -> None:
    """A signal reads what the runtime's own loaders read."""
    truth = 2 if ending == "wav" else "broken"

    signal = load_recorded(recorded(ending, truth=truth, at_end="end"))

    assert signal.length == ROWS
    assert signal.read(0, ROWS).tolist() == SAMPLES.tolist()
    assert signal.truth(0, ROWS).tolist() == TRUTH.tolist()


def test_repeated_rows_begin_again(recorded: Callable[..., RecordedConfig]) -> None:
    """Sample n is row n modulo the length, also far away and across the seam."""
    signal = load_recorded(recorded())

    first = 7 * ROWS - 20
    assert signal.length is None
    assert signal.read(first, 50).tolist() == np.concatenate((SAMPLES[-20:], SAMPLES[:30])).tolist()
    assert signal.read(10**12 * ROWS, ROWS * 3).tolist() == np.tile(SAMPLES, (3, 1)).tolist()


def test_a_recording_that_ends_has_nothing_after_it(
    recorded: Callable[..., RecordedConfig],
) -> None:
    """Who asks for more has made a mistake."""
    signal = load_recorded(recorded(at_end="end", first_row=10, last_row=20))

    assert signal.read(0, 10).tolist() == SAMPLES[10:20].tolist()
    with pytest.raises(ValueError, match="rows 5 to 11 of a signal from 0 to 10"):
        signal.read(5, 6)


def test_without_labels_truth_is_unknown(recorded: Callable[..., RecordedConfig]) -> None:
    """NaN is not healthy."""
    assert np.isnan(load_recorded(recorded()).truth(0, 5)).all()


def test_columns_and_options_reach_the_loader(tmp_path: Path) -> None:
    """Whatever a source of the format can be told, a signal can be told."""
    path = tmp_path / "rows.csv"
    path.write_text("1;2\n3;4\n")
    config = RecordedConfig(
        path=path,
        channels=CHANNELS,
        rate_hz=1.0,
        columns={"x": 1, "y": 0},
        options={"delimiter": ";", "has_header": False},
    )

    assert load_recorded(config).read(0, 2).tolist() == [[2, 1], [4, 3]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"truth": "x"}, ConfigError, "truth in column 'x' goes from"),
        ({"truth": "nowhere"}, ConfigError, "no column 'nowhere'"),
        ({"options": {"colour": "red"}}, ConfigError, "unknown key 'colour'"),
        ({"options": {"speed": "1"}}, ConfigError, "options names 'speed'"),
        ({"last_row": ROWS + 1}, SourceError, "ends after 300 rows"),
        ({"ending": "wav", "rate_hz": 50.0}, ConfigError, "100 Hz; expected the model's 50 Hz"),
    ],
)
def test_what_does_not_fit_is_said(
    recorded: Callable[..., RecordedConfig],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    """Errors are those of the loaders, with file and remedy."""
    with pytest.raises(error, match=message):
        load_recorded(recorded(**options))


def test_an_unknown_ending_is_refused() -> None:
    """The file's name tells its format."""
    with pytest.raises(ConfigError, match=r"ends in \.csv, \.npz, \.parquet, \.wav"):
        RecordedConfig(path=Path("rows.xlsx"), channels=CHANNELS, rate_hz=1.0)


def test_the_gas_turbine_is_bundled() -> None:
    """Nine sensors at one row an hour, and their units."""
    turbine = load_turbine(find_places().turbine_rows)
    config = GasTurbineConfig(at_end="end", first_row=turbine.first_row)

    signal = load_gas_turbine(config)

    count = len(turbine) - turbine.first_row
    assert signal.length == count
    assert signal.rate_hz == pytest.approx(1 / 3600)
    assert signal.channels[0] == ChannelSpec("AT", "°C")
    expected = turbine.sensors[turbine.first_row :].astype(np.float32)
    assert signal.read(0, count).tobytes() == expected.tobytes()
