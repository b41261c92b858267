"""Every registered sink keeps the contract of its port."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import registry
from edge_runtime.ports import Sink
from edge_runtime.testing import check_sink
from edge_runtime.types import Decision, Estimates, Output

OPTIONS: Mapping[str, Mapping[str, Any]] = {"jsonl": {"path": "out.jsonl"}, "terminal": {}}


def _output(rows: int, decisions: int) -> Output:
    index = np.arange(rows)
    value = np.full((rows, 2), np.nan)
    estimates = Estimates(index, index, index, value, value, None, "0" * 16)
    decision = Decision("s", 1, 1, "m", "worn", "end", -0.0, "0" * 16)
    return Output("s", estimates, (decision,) * decisions)


def test_every_sink_is_checked() -> None:
    """A new sink needs options here."""
    assert set(OPTIONS) == set(registry.names("sinks"))


@pytest.mark.parametrize("kind", sorted(OPTIONS))
def test_sink_keeps_its_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A sink takes empty and full blocks, closes twice and opens again."""
    monkeypatch.chdir(tmp_path)

    def make() -> Sink:
        sink: Sink = registry.create("sinks", kind, OPTIONS[kind])
        return sink

    check_sink(make, [_output(0, 0), _output(3, 0), _output(0, 2), _output(500, 1)])
