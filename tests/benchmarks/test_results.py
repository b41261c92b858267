"""Rows of results are kept by id and judged by their bar."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks" / "results.py"


@pytest.fixture
def results() -> ModuleType:
    """Load the module, which is no part of a package."""
    specification = importlib.util.spec_from_file_location("benchmark_results", SOURCE)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_row_above_its_bar_is_not_ok(results: ModuleType) -> None:
    """Lower is better; without a bar nothing can be missed."""
    assert results.Row.of("a", 1.2, "x", bar=1.35, peers={}).ok
    assert not results.Row.of("a", 1.36, "x", bar=1.35, peers={}).ok
    assert results.Row.of("a", 1e9, "us", bar=None, peers={}).ok


def test_rows_of_other_suites_stay(results: ModuleType, tmp_path: Path) -> None:
    """Merging replaces rows of the same id in place and keeps the others whole."""
    path = tmp_path / "results.json"
    theirs = {"id": "theirs", "value": 1, "unit": "s", "bar": 2, "ok": True, "peers": {"p": 3}}
    path.write_text(json.dumps([theirs]))
    results.merge(path, [results.Row.of("ours", 3.0, "x", bar=None, peers={})])

    results.merge(path, [results.Row.of("ours", 4.0, "x", bar=1.0, peers={"bare us": 2.5})])

    ours = {"id": "ours", "value": 4.0, "unit": "x", "bar": 1.0, "ok": False}
    assert json.loads(path.read_text()) == [theirs, {**ours, "peers": {"bare us": 2.5}}]
