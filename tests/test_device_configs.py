"""Every device that is declared in ``device_configs`` checks out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.cli import main

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "device_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_it_checks_out(path: Path) -> None:
    """Source, window, features, model and limits fit each other, shapes included."""
    assert main(["check", str(path)]) == 0
