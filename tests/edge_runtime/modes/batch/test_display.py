"""Progress is one line on a terminal, few lines elsewhere, and tells the truth."""

from __future__ import annotations

import io

import pytest

from edge_runtime.modes.batch import Progress
from edge_runtime.modes.batch.display import Display, line_of
from edge_runtime.testing import FakeClock


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def progress(share: float, seconds: float = 10.0, total: int | None = 1000) -> Progress:
    return Progress(round(1000 * share), total, share, 200, 0.2, seconds)


def test_rate_and_time_to_go_count_from_where_the_run_began() -> None:
    """What an earlier run did makes this one neither faster nor nearer its end."""
    line = line_of(progress(0.6), bar=False)

    assert line == " 60 %, 600 of 1,000 rows, 40 rows/s, 0:10 to go"


def test_nothing_is_divided_by_nothing() -> None:
    """Before the first second there is no rate and no time to go."""
    assert "0 rows/s" in line_of(progress(0.2, seconds=0.0), bar=False)
    assert "to go" not in line_of(progress(0.2), bar=True)
    assert " of " not in line_of(progress(0.5, total=None), bar=True)


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), 5), (io.StringIO(), 0)])
def test_a_terminal_is_drawn_at_most_five_times_a_second(stream: io.StringIO, shown: int) -> None:
    """A hundred updates in a second are five lines on a terminal and none in a log."""
    clock = FakeClock()
    display = Display(stream, clock)

    for step in range(100):
        clock.advance(0.01)
        display.show(progress(0.2 + step / 200))

    assert stream.getvalue().count("rows/s") == shown


def test_a_log_gets_a_line_now_and_then() -> None:
    """Without a terminal there are whole lines, five seconds apart, and no control codes."""
    clock, stream = FakeClock(), io.StringIO()
    display = Display(stream, clock)

    for _ in range(22):
        clock.advance(1)
        display.show(progress(0.5))
    display.end()

    assert stream.getvalue().count("\n") == 4 and "\r" not in stream.getvalue()


def test_the_line_is_left_clean() -> None:
    """What follows the progress starts on an empty line."""
    clock, stream = FakeClock(), Terminal()
    display = Display(stream, clock)

    clock.advance(1)
    display.show(progress(0.5))
    display.end()

    assert stream.getvalue().rpartition("\r")[2] == ""
