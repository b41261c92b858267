"""Versions are for people: the next one is told by the last."""

from __future__ import annotations

import pytest

from edge_runtime.bundle import next_version


@pytest.mark.parametrize(
    ("version", "expected"),
    [("1.0.0", "1.0.1"), ("2.9", "2.10"), ("7", "8"), ("1.0-rc2", "1.0-rc3"), ("beta", "beta.1")],
)
def test_the_last_number_goes_up(version: str, expected: str) -> None:
    """Whatever stands around it."""
    assert next_version(version) == expected
