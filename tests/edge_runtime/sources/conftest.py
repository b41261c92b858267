"""What every recording's test needs: a stream, and a source of a file in its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime import registry
from edge_runtime.sources import Recording
from edge_runtime.spec import ChannelSpec, StreamSpec


@pytest.fixture
def need() -> StreamSpec:
    return StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 10.0)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Recording]:
    """Build a recording of a file in the test's folder; its rows are 0.1 s apart."""

    def make(kind: str, name: str, /, **options: Any) -> Recording:
        if kind != "wav":
            options.setdefault("time", {"start": "2013-01-01T00:00:00Z", "step_s": 0.1})
        source = registry.create("sources", kind, {"path": str(tmp_path / name), **options})
        assert isinstance(source, Recording)
        return source

    return make
