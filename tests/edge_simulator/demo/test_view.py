import io

import msgspec
import pytest
from rich.console import Console

from edge_simulator.demo.view import LineView, Scene, live_view, render
from edge_simulator.screen import Face


@pytest.fixture
def scene() -> Scene:
    turbine = Face(
        name="turbine-1",
        what="NOx of a gas turbine",
        unit="mg/m³",
        signal_unit="MWh",
        pid=4711,
        runs="turbine-nox@1.0.0 with layers 12ab",
        decision="nox-high starts at 81.2, row 15102",
        signal=(130.0, 140.0, 135.0),
        answers=(70.0, 75.0, 81.2),
    )
    scene = Scene(904, [turbine, Face(name="fan-1", what="unbalance of a fan")])
    scene.tell("broker: iotcore from PyPI")
    return scene


def _drawn(scene: Scene, width: int = 100, height: int = 40) -> str:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(render(scene, height))
    return console.export_text()


def test_the_screen_says_what_runs_where(scene: Scene) -> None:
    """Device, base, layers, decision, live answer and events are all there without a terminal."""
    text = _drawn(scene)

    for part in (
        "turbine-1",
        "pid 4711",
        "turbine-nox@1.0.0",
        "with layers 12ab",
        "nox-high starts at 81.2",
        "81.20 mg/m³",
        "broker: iotcore",
        "day 0 of 904",
    ):
        assert part in text


def test_a_cut_link_cannot_be_overlooked(scene: Scene) -> None:
    """Offline is shown as a state in which the device decides, with what waits on its disk."""
    scene.is_link_up = False
    scene.devices[0] = msgspec.structs.replace(scene.devices[0], backlog_rows=120)

    text = _drawn(scene)

    assert "LINK CUT" in text
    assert "offline, deciding" in text
    assert "120 rows wait on its disk" in text


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (100, 40), (250, 80)])
def test_any_terminal_can_show_it(scene: Scene, width: int, height: int) -> None:
    """No line is wider than the terminal, and a usual one holds the whole screen."""
    for number in range(50):
        scene.tell(f"event {number} " + "long " * 30)

    lines = _drawn(scene, width, height).rstrip("\n").split("\n")

    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 27)


def test_lines_are_printed_once(scene: Scene) -> None:
    """Without a terminal each event is one line, printed when it comes."""
    out = io.StringIO()
    view = LineView(scene, Console(file=out, width=80))

    with view:
        view.refresh()
        scene.tell("the link is cut")
        view.refresh()
        view.refresh()

    assert out.getvalue().count("broker: iotcore") == 1
    assert out.getvalue().count("the link is cut") == 1


def test_the_live_screen_is_drawn_without_a_terminal(scene: Scene) -> None:
    """The live view can be driven in a test: it draws at the end at the latest."""
    out = io.StringIO()

    with live_view(scene, Console(file=out, width=100, height=40, force_terminal=True)) as view:
        view.refresh()

    assert "turbine-1" in out.getvalue()


def test_a_pace_gives_the_time_to_go() -> None:
    """The remaining time follows from the days done of late."""
    scene = Scene(100, [])

    assert scene.remaining_s() is None
    scene._pace.extend([(10.0, 0, 0), (12.0, 20, 480)])
    scene.day = 20
    assert scene.rates() == (10.0, 240.0)
    assert scene.remaining_s() == 8.0
