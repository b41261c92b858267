"""Counts read like sentences."""

from __future__ import annotations

import pytest

from edge_runtime.plural import counted


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 samples"), (1, "1 sample"), (2, "2 samples"), (21, "21 samples")]
)
def test_a_noun_follows_its_number(number: int, told: str) -> None:
    """One alone is singular."""
    assert counted(number, "sample") == told
