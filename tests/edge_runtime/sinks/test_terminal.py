"""The terminal shows decisions at once and estimates now and then."""

from __future__ import annotations

import io
import os

import msgspec
import numpy as np
import pytest

from edge_runtime.errors import Rejected
from edge_runtime.quality import MASK
from edge_runtime.sinks.terminal import TerminalConfig, TerminalSink
from edge_runtime.testing import FakeClock
from edge_runtime.types import Output


class Screen(io.StringIO):
    """A text stream that says whether it is a terminal."""

    def __init__(self, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


def _sink(screen: Screen, clock: FakeClock | None = None, **options: object) -> TerminalSink:
    config = msgspec.convert(options, TerminalConfig)
    sink = TerminalSink(config, output=screen, clock=clock or FakeClock())
    sink.open("pump-1")
    return sink


def test_decision_and_latest_estimate_are_lines(output: Output) -> None:
    """A line has time, stream, what happened and the value."""
    screen = Screen()

    _sink(screen).write(output)

    assert screen.getvalue().splitlines() == [
        "1970-01-01 00:00:07.000  pump          start  worn  0.9123"
        "  pump-1/0/pump/7/bearing/worn/start",
        "1970-01-01 00:00:07.000  pump          now    nan  0.3333",
    ]


def test_one_of_many_devices_is_named_in_place_of_the_stream(output: Output) -> None:
    """A person wants to know which one it was."""
    screen = Screen()

    _sink(screen).write(msgspec.structs.replace(output, device="press 3"))

    first, second = screen.getvalue().splitlines()
    assert "press 3       start  worn  0.9123  press%203/0/pump/7/" in first
    assert "press 3       now" in second


def test_what_is_taken_back_is_shown_as_void(output: Output) -> None:
    """A person sees that an alarm was none."""
    screen = Screen()
    void = msgspec.structs.replace(output.decisions[0], revision=1, is_retracted=True)

    _sink(screen).write(msgspec.structs.replace(output, decisions=(void,)))

    assert "pump          void   worn" in screen.getvalue()


def test_suspect_lines_say_why(output: Output) -> None:
    """What is wrong with the sensor stands behind the value it has spoilt."""
    screen = Screen()
    estimates = msgspec.structs.replace(output.estimates, quality=np.array([0, 3], MASK))
    decision = msgspec.structs.replace(output.decisions[0], quality=1)

    _sink(screen).write(Output("pump", estimates, (decision,)))

    first, second = screen.getvalue().splitlines()
    assert first.endswith("0.9123  (saturated)  pump-1/0/pump/7/bearing/worn/start")
    assert second.endswith("(saturated, frozen)")


def test_estimates_are_rate_limited_and_decisions_are_not(output: Output) -> None:
    """Within a second only decisions are shown."""
    screen, clock = Screen(), FakeClock()
    sink = _sink(screen, clock)

    for seconds in (0, 0.4, 0.4, 0.4):
        clock.advance(seconds)
        sink.write(output)

    assert screen.getvalue().count("  start  ") == 4
    assert screen.getvalue().count("now") == 2


def test_estimates_can_be_left_out(output: Output) -> None:
    """A quiet terminal shows decisions alone."""
    screen = Screen()

    _sink(screen, estimates=False).write(output)

    assert "now" not in screen.getvalue()


@pytest.mark.parametrize(
    ("is_terminal", "colour", "is_coloured"),
    [
        (True, "auto", True),
        (False, "auto", False),
        (False, "always", True),
        (True, "never", False),
    ],
)
def test_colour_is_for_terminals(
    output: Output, is_terminal: bool, colour: str, is_coloured: bool
) -> None:
    """A pipe gets plain text unless it is asked for otherwise."""
    screen = Screen(is_terminal)

    _sink(screen, colour=colour).write(output)

    assert ("\x1b[" in screen.getvalue()) == is_coloured


def test_standard_output_is_the_default(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    """Without another output lines go to stdout."""
    sink = TerminalSink(TerminalConfig())

    sink.open("pump-1")
    sink.write(output)

    assert "worn" in capsys.readouterr().out


def test_terminal_that_is_gone_is_rejected(output: Output) -> None:
    """A reader that hung up will not come back."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        sink = TerminalSink(TerminalConfig(), output=pipe)
        sink.open("pump-1")

        with pytest.raises(Rejected, match="Broken pipe") as caught:
            sink.write(output)
        # What is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_closed_terminal_takes_nothing(output: Output) -> None:
    """Writing before open or after close is refused."""
    sink = _sink(Screen())
    sink.close()
    sink.close()

    with pytest.raises(Rejected, match="not open"):
        sink.write(output)
