"""A run finds out a cloud that does not keep what it acknowledges."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_simulator.chaos.stage import Stage
from edge_simulator.chaos.victim import IngestProcess

FORGETFUL = """\
from edge_cloud.store import Store
from edge_simulator import ingest

Store._commit = lambda self, plan: True
main = ingest.main
"""


def test_a_cloud_that_acknowledges_and_forgets_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device deletes what was acknowledged; the books name every row of it as lost."""
    (tmp_path / "forgetful.py").write_text(FORGETFUL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        IngestProcess,
        "start",
        lambda self: self._process.start(["-m", "forgetful", str(self._config)]),
    )
    folder = tmp_path / "stage"
    folder.mkdir()

    with Stage(folder, devices=["device-1"], rows=50) as stage:
        stage.release(50)
        is_drained = stage.drain(60.0)
        stage.stop()
        (books,) = stage.tallies()

    assert is_drained
    assert (books.made, books.stored, books.waiting) == (47, 0, 0)
    assert books.lost == tuple(range(3, 50))
    assert not books.is_balanced
