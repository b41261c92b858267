"""The page of promises is what the matrix says, and every test in it exists."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MATRIX: list[dict[str, Any]] = yaml.safe_load((ROOT / "tests/matrix/matrix.yaml").read_text())


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """Return tools/make_promises.py."""
    spec = importlib.util.spec_from_file_location("make_promises", ROOT / "tools/make_promises.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_matrix_says(tool: ModuleType) -> None:
    """Whoever changes the matrix or the run writes the page anew: python tools/make_promises.py."""
    run = json.loads((ROOT / "tests/matrix/chaos.json").read_text())

    text = tool.PAGE.read_text()
    assert text == tool.page(text, MATRIX, run)


@pytest.mark.parametrize("row", MATRIX, ids=[row["fault"] for row in MATRIX])
def test_every_promise_has_tests_that_exist(row: dict[str, Any]) -> None:
    """Each row names at least one test, by file and function."""
    assert row["promise"] and row["tests"]
    for test in row["tests"]:
        path, _, name = test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        assert name in {each.name for each in tree.body if isinstance(each, ast.FunctionDef)}, test


def test_every_test_of_kills_and_links_is_in_the_matrix() -> None:
    """What is tested here is promised there."""
    promised = {test for row in MATRIX for test in row["tests"]}
    here = {
        f"tests/matrix/{path.name}::{each.name}"
        for path in Path(__file__).parent.glob("test_*.py")
        if path.name != Path(__file__).name
        for each in ast.parse(path.read_text()).body
        if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")
    }

    assert here - promised == {"tests/matrix/test_kills.py::test_a_kill_leaves_nothing_running"}


def test_the_latest_run_kept_every_row_through_two_hundred_kills() -> None:
    """At least two hundred kills, at least forty a minute, and books that close."""
    run = json.loads((ROOT / "tests/matrix/chaos.json").read_text())

    assert run["kills"] >= 200 and run["kills_a_minute"] >= 40
    assert run["rows_made"] == run["rows_stored"] + run["rows_in_gaps"]
    assert (run["rows_duplicated"], run["rows_lost"], run["rows_waiting"]) == (0, 0, 0)
    assert sum(run["kills_at_steps"].values()) >= 0.3 * run["kills"]
