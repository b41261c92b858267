"""The stand-in for a serial port behaves like an adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.testing.serial import FakeSerial


@pytest.fixture
def port(tmp_path: Path) -> Iterator[FakeSerial]:
    made = FakeSerial(tmp_path)
    yield made
    made.close()


def test_the_name_stays_and_the_node_is_new(port: FakeSerial) -> None:
    """What is plugged in again gets the next free number."""
    held = os.open(port.port, os.O_RDWR | os.O_NOCTTY)
    before = port.node
    port.unplug()
    port.unplug()
    assert not port.port.exists()
    assert port.send(b"x") == 0

    port.plug()

    assert port.port.exists()
    assert port.node != before
    os.close(held)


def test_what_nobody_reads_finds_no_room(port: FakeSerial) -> None:
    """A sensor does not wait for its reader."""
    sent = [port.send(bytes(1000)) for _ in range(200)]

    assert sent[0] == 1000
    assert sum(sent) < 200_000
