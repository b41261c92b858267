"""The parts of a screen say what is so, on every terminal."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from edge_simulator.screen import (
    PANEL_LINES,
    Face,
    LiveScreen,
    device_panel,
    link_text,
    sparkline,
)

FACE = Face(
    name="pump-1",
    what="wear of a bearing",
    unit="mm",
    is_linked=True,
    runs="bearing@1.0 without layers",
    decision="wear starts at 0.7, row 12",
    answers=(0.1, 0.5, 0.7),
)


def _drawn(part: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(part)
    return console.export_text()


def test_a_panel_says_what_a_device_does() -> None:
    """Answer with its unit, decision, what runs, link and backlog, on as many lines as promised."""
    text = _drawn(device_panel(FACE))

    for part in ("pump-1", "▁▆█", "0.70 mm", "wear starts at 0.7", "bearing@1.0", "online"):
        assert part in text
    assert len(text.splitlines()) == PANEL_LINES


@pytest.mark.parametrize("width", [20, 40, 80, 250])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Long words are cut, never wrapped into the next panel."""
    face = msgspec.structs.replace(FACE, decision="long " * 90, answers=(0.5,) * 48)

    lines = _drawn(device_panel(face, is_chosen=True), width).splitlines()

    assert max(map(len, lines)) <= width
    assert len(lines) == PANEL_LINES


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"is_linked": True}, "online"),
        ({"is_linked": False}, "offline, deciding"),
        ({"is_linked": True, "faults": ("cut", "power_off")}, "no power"),
    ],
)
def test_the_worst_state_is_the_one_shown(changes: dict[str, object], words: str) -> None:
    """Who has no power has no link either."""
    face = msgspec.structs.replace(FACE, **changes)

    assert link_text(face).plain == words


def test_a_screen_is_drawn_at_its_end_and_not_at_every_step() -> None:
    """Refreshing is cheap: what comes too soon is left out, and the last state is shown."""
    drawn = []
    out = io.StringIO()
    screen = LiveScreen(
        lambda: drawn.append(len(drawn)) or f"state {len(drawn)}",
        Console(file=out, width=40, force_terminal=True, color_system=None),
    )

    with screen:
        for _ in range(100):
            screen.refresh()

    assert len(drawn) < 50
    assert f"state {len(drawn)}\n" in out.getvalue()


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0, 1.0], "▄▄"), ([0.0, 7.0], "▁█"), ([0.0, float("nan"), 7.0], "▁▁█")],
)
def test_a_sparkline_spans_from_lowest_to_highest(values: list[float], line: str) -> None:
    """Blocks are scaled to what is shown; constant and missing values do not break them."""
    assert sparkline(values) == line
