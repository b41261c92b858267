"""A device, an ingest and a broker as real processes, with a proxy on every link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import MissingExtra
from edge_simulator.broker import choose_broker
from edge_simulator.chaos.plan import Kill
from edge_simulator.chaos.stage import Stage

DEVICE = "device-1"
ROWS = 20_000
LIMIT_S = 60.0


class Scene:
    """A stage whose device reads as the test lets it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.released = 0

    @property
    def stored(self) -> int:
        """Rows that the device knows to be in the cloud."""
        return int(self.counters.get("rows_acked_total", 0))

    @property
    def counters(self) -> dict[str, int]:
        """What the device counts, as it told last."""
        return dict(self.stage.devices[DEVICE].latest("status").get("counters", {}))

    def trickle(self, what: str, is_done: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Let four more samples pass every 20 ms, until something has come of it."""
        deadline_s = time.monotonic() + limit_s
        pace = threading.Event()
        while not is_done():
            assert time.monotonic() < deadline_s, f"{what} did not happen"
            self.released += 4
            self.stage.release(self.released)
            pace.wait(0.02)

    def trickle_for(self, seconds: float) -> None:
        """Let samples pass for so long."""
        end_s = time.monotonic() + seconds
        self.trickle("the end", lambda: time.monotonic() > end_s, 2 * seconds + LIMIT_S)

    def flow(self) -> None:
        """Let samples pass until some more of them have arrived."""
        self.trickle("an acknowledgement", lambda: self.stored > 0)

    def killed_at(self, victim: str, step: str, passings: int = 2) -> None:
        """Let a process end at a step of its work, and start it again."""
        process = self.stage.victims[victim]
        kills = len(process.kills)
        process.light(Kill(0.0, victim, step, passings))
        self.trickle(f"{victim} at its {step}", lambda: not process.look())
        assert process.kills[kills:] == [Kill(0.0, victim, step, passings)]
        process.start()

    def balance(self) -> None:
        """Let everything arrive, and see that each row made is stored once."""
        assert self.stage.drain(LIMIT_S), f"rows still wait: {self.counters}"
        self.stage.stop()
        (books,) = self.stage.tallies()
        assert books.is_balanced and books.stored == books.made > 0, books
        assert books.made == self.released - 3


@pytest.fixture
def make_scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Start a scene; options are those of `Stage`."""
    with ExitStack() as stack:

        def make(**options: Any) -> Scene:
            stage = Stage(tmp_path, devices=[DEVICE], rows=ROWS, **options)
            return Scene(stack.enter_context(stage))

        yield make


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    """A scene on whichever broker there is."""
    return make_scene()


@pytest.fixture
def mosquitto_scene(make_scene: Callable[..., Scene]) -> Callable[..., Scene]:
    """Start a scene on Mosquitto."""
    try:
        choose_broker("mosquitto")
    except MissingExtra as error:
        pytest.skip(str(error))
    return lambda **options: make_scene(broker="mosquitto", **options)
