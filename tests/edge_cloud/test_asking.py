"""Asking a device: one answer, or the knowledge that there is none."""

from __future__ import annotations

import threading

import pytest

from edge_cloud.asking import ask
from edge_runtime.clock import SystemClock
from edge_runtime.modes.commands import Commands
from edge_runtime.ports import Message
from edge_runtime.sync.messages import Answer, Command, decode
from edge_runtime.sync.topics import Topics
from edge_runtime.testing.clock import FakeClock
from edge_runtime.testing.transport import MemoryBroker

TOPICS = Topics()


class Pump:
    """A device that answers commands on its own thread, from the ``first``-th on."""

    def __init__(self, broker: MemoryBroker, first: int = 1) -> None:
        self.asked: list[Command] = []
        self.done = 0
        self._first = first
        self._commands = Commands("pump", {"status": self._status}, FakeClock())
        self._transport = broker.transport("pump")
        self._transport.open([TOPICS.dn("pump", "#")], None)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._transport.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            event = self._transport.receive(5.0)
            if isinstance(event, Message):
                self._answer(decode(event.payload, Command))

    def _answer(self, command: Command) -> None:
        self.asked.append(command)
        topic = TOPICS.up("pump", "evt")
        self._transport.publish(Message(topic, b"\x00 of somebody else"))
        if len(self.asked) >= self._first:
            self._transport.publish(Message(topic, self._commands.answer(command)))

    def _status(self, options: object) -> dict[str, object]:
        self.done += 1
        return {"backlog": 3}


def asked_of(broker: MemoryBroker, timeout_s: float) -> Answer | None:
    transport = broker.transport("cloud-ask")
    return ask(transport, "pump", "status", {}, timeout_s=timeout_s, clock=SystemClock())


@pytest.mark.parametrize("first", [1, 2])
def test_an_answer_comes_back_to_who_asked(first: int) -> None:
    """Also when the first question is lost: it is asked again and done once."""
    broker = MemoryBroker()
    pump = Pump(broker, first)

    answer = asked_of(broker, timeout_s=30.0)
    pump.stop()

    assert answer is not None
    assert (answer.state, answer.result, pump.done) == ("done", {"backlog": 3}, 1)
    assert len({command.id for command in pump.asked}) == 1
    assert len(pump.asked) == first


def test_a_device_that_is_silent_leaves_no_answer() -> None:
    """After the time-out nobody knows whether it was done, and that is what is said."""
    assert asked_of(MemoryBroker(), timeout_s=0.05) is None
