"""The emulated arm64 system that `tools/arm64` makes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools" / "arm64"


@pytest.fixture(scope="session")
def arm64() -> Path:
    """The folder that root.sh has filled; named by EDGE_ARM64, else build/arm64."""
    folder = Path(os.environ.get("EDGE_ARM64", ROOT / "build" / "arm64")).resolve()
    if not (folder / "root/opt/site/edge_runtime").exists():
        pytest.skip(f"no arm64 system in {folder}: sh tools/arm64/root.sh {folder}")
    return folder


@pytest.fixture(scope="session")
def machine_folder(arm64: Path) -> Path:
    """The same with a kernel; vm.py makes it."""
    if not (arm64 / "initrd").exists():
        pytest.skip(f"no kernel in {arm64}: python tools/arm64/vm.py {arm64}")
    sys.path.insert(0, str(TOOLS))
    return arm64


@pytest.fixture(scope="session")
def card_folder(arm64: Path) -> Path:
    """The same with the card of a board; card.sh makes it."""
    if not (arm64 / "card.img").exists():
        pytest.skip(f"no card in {arm64}: sh tools/arm64/card.sh {arm64}")
    sys.path.insert(0, str(TOOLS))
    return arm64
