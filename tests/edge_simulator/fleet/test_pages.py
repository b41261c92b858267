"""The documentation of fleets is complete, and its example is a fleet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from edge_simulator.fleet.config import ExpectConfig, FaultConfig, FleetConfig, GroupConfig, What
from edge_simulator.fleet.engine import Engine
from edge_simulator.fleet.load import load_fleet
from edge_simulator.fleet.pace import Pacer
from edge_simulator.fleet.play import play
from edge_simulator.fleet.shipped import scenario_names

DOCS = Path(__file__).resolve().parents[3] / "docs"
HOWTO = (DOCS / "howto/simulate-a-fleet.md").read_text()
REFERENCE = (DOCS / "reference/simulator/fleet.md").read_text()


def test_the_example_of_the_page_is_a_fleet(cellar: Path) -> None:
    """It reads without an error, and its first hours run."""
    block, _ = re.findall(r"```yaml\n(.*?)```", HOWTO, re.S)
    path = cellar / "cellar.yaml"
    path.write_text(block.replace("first_row: 1000", "first_row: 10"))
    fleet = load_fleet(path)
    hours = msgspec.structs.replace(fleet, duration_ns=3 * 3600 * 10**9)

    result = play(Engine(hours, cellar / "run"), Pacer(None))

    assert result.total("rows_made", ["pump-1", "pump-2"]) > 2 * 170
    assert result.total("rows_lost", ["pump-1", "pump-2"]) == 0


def test_every_key_stands_on_the_reference_page() -> None:
    """A key, fault or number that is not described there does not exist for people."""
    kinds = get_args(FaultConfig)
    words = {str(kind.__struct_config__.tag) for kind in kinds} | set(get_args(What))
    for struct in (FleetConfig, GroupConfig, ExpectConfig, *kinds):
        words |= {field.encode_name for field in msgspec.structs.fields(struct)}

    missing = [word for word in sorted(words) if f"`{word}`" not in REFERENCE]

    assert missing == []


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_is_told_of(name: str) -> None:
    """The how-to page says what its story is."""
    assert f"`{name}`" in HOWTO
