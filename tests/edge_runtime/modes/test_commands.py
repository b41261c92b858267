"""Commands from afar: done once, answered every time."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.modes.commands import Commands, set_log_level
from edge_runtime.sync.messages import Answer, Command, decode
from edge_runtime.testing.clock import FakeClock


class Room:
    """Commands with a table of three, one of which refuses and one of which fails."""

    def __init__(self, quality: str = "ntp") -> None:
        self.clock = FakeClock()
        self.done: list[Mapping[str, str]] = []
        table = {"note": self._note, "refuse": self._refuse, "fail": lambda _: {"x": 1 // 0}}
        self.commands = Commands("pump", table, self.clock, quality=lambda: quality)

    def ask(self, command: Command) -> Answer:
        return decode(self.commands.answer(command), Answer)

    def _note(self, options: Mapping[str, str]) -> Mapping[str, object]:
        self.done.append(options)
        return {"times": len(self.done)}

    def _refuse(self, _: Mapping[str, str]) -> Mapping[str, object]:
        raise ConfigError("no such level")


def test_a_command_that_comes_twice_is_done_once_and_answered_twice() -> None:
    """QoS 1 repeats, and an asker that heard nothing asks again under the same id."""
    room = Room()

    answers = [room.ask(Command("c-1", "note", {"a": "b"})) for _ in range(2)]

    assert answers[0] == answers[1]
    assert (answers[0].state, answers[0].result) == ("done", {"times": 1})
    assert room.done == [{"a": "b"}]


def test_what_cannot_be_done_is_answered_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Unknown and refused commands say so; one that fails is logged too."""
    room = Room()

    states = {name: room.ask(Command(name, name)) for name in ("dance", "refuse", "fail")}

    assert [answer.state for answer in states.values()] == ["refused", "refused", "failed"]
    assert "there are fail, note, refuse" in states["dance"].reason
    assert "no such level" in states["refuse"].reason
    assert "ZeroDivisionError" in states["fail"].reason
    assert "command.failed" in caplog.text


@pytest.mark.parametrize(
    ("quality", "ahead_ns", "state"),
    [("ntp", -1, "expired"), ("ntp", 1, "done"), ("unsynced", -1, "done")],
)
def test_a_deadline_counts_where_the_clock_is_kept(quality: str, ahead_ns: int, state: str) -> None:
    """A device that knows no time does not refuse what it was just asked."""
    room = Room(quality)

    answer = room.ask(Command("c", "note", deadline_ns=room.clock.now_ns() + ahead_ns))

    assert answer.state == state
    assert len(room.done) == (state == "done")


def test_the_newest_answers_are_remembered_and_no_more() -> None:
    """Memory is bounded: the 65th oldest command would be done again."""
    room = Room()
    for number in range(65):
        room.ask(Command(f"c-{number}", "note"))

    room.ask(Command("c-64", "note"))
    assert len(room.done) == 65
    room.ask(Command("c-0", "note"))
    assert len(room.done) == 66


def test_an_answer_too_large_for_the_wire_is_a_failure() -> None:
    """The asker hears why, and the link does not end."""
    commands = Commands("pump", {"big": lambda _: {"x": "y" * 100_000}}, FakeClock())

    answer = decode(commands.answer(Command("c", "big")), Answer)

    assert answer.state == "failed"
    assert "expected at most 98304" in answer.reason


def test_the_log_level_can_be_set_and_says_what_it_was() -> None:
    """For one logger by name; another word is refused."""
    logger = logging.getLogger("edge_runtime.test_commands")
    logger.setLevel("WARNING")

    result = set_log_level({"level": "debug", "logger": logger.name})

    assert (logger.level, result["before"]) == (logging.DEBUG, "warning")
    with pytest.raises(ConfigError, match="loud"):
        set_log_level({"level": "loud"})
