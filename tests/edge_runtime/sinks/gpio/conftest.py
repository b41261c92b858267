"""A board without a board: gpiozero's mock pins, which tell every level through a named pipe.

They are found through gpiozero's own entry point, so the guardian, in its process, has
them too; and like real ones they keep their level when the process that set it is gone.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime.backoff import Backoff
from edge_runtime.sinks.gpio.config import GpioConfig
from edge_runtime.sinks.gpio.sink import GpioSink
from edge_runtime.testing import FakeClock
from edge_runtime.types import Decision, Output

PATIENCE_S = 90.0

_PINS = """
import os
from gpiozero.pins.mock import MockPin

class TellingPin(MockPin):
    def _set_function(self, value):
        fault = os.environ.get("BOARD_FAULT")
        if fault and value == "output":
            raise {"PermissionError": PermissionError}.get(fault, RuntimeError)(fault)
        super()._set_function(value)
    def _set_state(self, value):
        super()._set_state(value)
        if os.path.exists(os.environ["BOARD_EVENTS"] + ".broken") and value:
            raise OSError(5, "pin is burnt")
        pipe = os.open(os.environ["BOARD_EVENTS"], os.O_WRONLY)
        os.write(pipe, f"{self.info.name}={int(value)}\\n".encode())
        os.close(pipe)
"""


class Board:
    """What happens at the pins, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        # Open for writing too: the pipe never ends.
        self._pipe = os.open(path, os.O_RDWR)
        self._lines: list[str] = []

    def next(self) -> str:
        """Wait for the next ``PIN=LEVEL``."""
        if not self._lines:
            ready, _, _ = select.select([self._pipe], [], [], PATIENCE_S)
            assert ready, "nothing happens at the pins"
            self._lines = os.read(self._pipe, 4096).decode().split()
        return self._lines.pop(0)

    @property
    def is_quiet(self) -> bool:
        return not self._lines and not select.select([self._pipe], [], [], 0)[0]

    def close(self) -> None:
        os.close(self._pipe)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    pytest.importorskip("gpiozero")
    folder = tmp_path / "site"
    info = folder / "telling-1.dist-info"
    info.mkdir(parents=True)
    (folder / "telling.py").write_text(_PINS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: telling\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[gpiozero_mock_pin_classes]\ntellingpin = telling:TellingPin\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("GPIOZERO_MOCK_PIN_CLASS", "tellingpin")
    monkeypatch.setenv("BOARD_EVENTS", str(tmp_path / "events"))
    made = Board(tmp_path / "events")
    yield made
    made.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def switch(board: Board, clock: FakeClock) -> Iterator[Callable[..., GpioSink]]:
    """Open sinks; the first pin is 17 and follows the label ``worn`` unless told."""
    made = []

    def make(*pins: dict[str, Any], **options: Any) -> GpioSink:
        fields = {"factory": "mock", "pins": pins or ({"pin": 17, "label": "worn"},), **options}
        config = msgspec.convert(fields, GpioConfig)
        made.append(GpioSink(config, clock=clock, backoff=Backoff(1.0, 1.0, jitter=lambda: 1.0)))
        made[-1].open("pump-1")
        return made[-1]

    yield make
    for sink in made:
        sink.close()


@pytest.fixture
def decided(output: Output) -> Callable[..., Output]:
    """Make a block with decisions such as ``+worn`` and ``-worn``, of stream ``pump``."""

    def make(*edges: str, stream: str = "pump") -> Output:
        decisions = tuple(
            Decision(stream, 7, 7, "m", edge[1:], "start" if edge[0] == "+" else "end", 1.0, "id")
            for edge in edges
        )
        return Output(stream, output.estimates, decisions)

    return make
