"""The sink and its guardian, in a process of its own, at the pins of a mock board."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edge_runtime import registry
from edge_runtime.child import child_environment
from edge_runtime.config import parse_yaml
from edge_runtime.errors import MissingExtra, Rejected, Transient
from edge_runtime.sinks.gpio.config import GpioConfig, PinConfig
from edge_runtime.sinks.gpio.sink import GpioSink
from edge_runtime.testing import FakeClock
from edge_runtime.types import Output

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "sinks" / "gpio.md"
Board = Any
Switch = Callable[..., GpioSink]
Decided = Callable[..., Output]


def test_a_label_switches_its_pin(board: Board, switch: Switch, decided: Decided) -> None:
    """Off at the start, on from the start of the label to its end."""
    sink = switch()
    assert board.next() == "GPIO17=0"

    sink.write(decided("+worn"))
    assert board.next() == "GPIO17=1"
    sink.write(decided())
    sink.write(decided("+other", "-other"))
    sink.write(decided("-worn"))
    assert board.next() == "GPIO17=0"


def test_low_can_mean_on_and_on_can_be_safe(board: Board, switch: Switch, decided: Decided) -> None:
    """Levels are turned round for active-low loads; a normally-on load stays on."""
    low = {"pin": 17, "label": "worn", "active_high": False}
    sink = switch(low, {"pin": 18, "label": "worn", "safe": "on"})
    assert [board.next(), board.next()] == ["GPIO17=1", "GPIO18=1"]

    sink.write(decided())
    assert board.next() == "GPIO18=0"
    sink.write(decided("+worn"))
    assert [board.next(), board.next()] == ["GPIO17=0", "GPIO18=1"]
    sink.close()
    assert [board.next(), board.next()] == ["GPIO17=1", "GPIO18=1"]


def test_a_pin_is_on_while_any_stream_says_so(
    board: Board, switch: Switch, decided: Decided
) -> None:
    """Two pumps share an alarm; a pin with a stream listens to that one alone."""
    sink = switch({"pin": 17, "label": "worn"}, {"pin": 18, "label": "worn", "stream": "b"})
    assert [board.next(), board.next()] == ["GPIO17=0", "GPIO18=0"]

    sink.write(decided("+worn", stream="a"))
    assert board.next() == "GPIO17=1"
    sink.write(decided("+worn", stream="b"))
    assert board.next() == "GPIO18=1"
    sink.write(decided("-worn", stream="a"))
    sink.write(decided("-worn", stream="b"))
    assert [board.next(), board.next()] == ["GPIO17=0", "GPIO18=0"]


def test_what_late_samples_change_about_the_past_ends_in_what_stands(
    board: Board, switch: Switch, decided: Decided
) -> None:
    """The pin shows the labels that stand, in whatever order the revisions come."""
    sink = switch()
    assert board.next() == "GPIO17=0"
    sink.write(decided("+worn"))
    assert board.next() == "GPIO17=1"

    again = decided("+worn", "-worn")
    sink.write(msgspec.structs.replace(again, started=("worn",)))
    sink.write(msgspec.structs.replace(again, started=()))

    assert board.next() == "GPIO17=0"


def test_a_pulse_ends_by_itself(board: Board, switch: Switch, decided: Decided) -> None:
    """The start of a label gives one pulse, also if the label ends in the same block."""
    sink = switch({"pin": 17, "label": "worn", "pulse_s": 0.05})
    assert board.next() == "GPIO17=0"

    for _ in range(2):
        sink.write(decided("+worn", "-worn"))
        assert [board.next(), board.next()] == ["GPIO17=1", "GPIO17=0"]


def test_a_pipeline_that_says_nothing_leaves_the_pins_safe(
    board: Board, switch: Switch, decided: Decided
) -> None:
    """Silence switches off, and the next result on again, for the label still lasts."""
    sink = switch(safe_after_s=0.1)
    assert board.next() == "GPIO17=0"

    for _ in range(2):
        sink.write(decided("+worn"))
        assert [board.next(), board.next()] == ["GPIO17=1", "GPIO17=0"]


def test_results_without_decisions_are_signs_of_life(
    board: Board, switch: Switch, decided: Decided, clock: FakeClock
) -> None:
    """They are passed on four times in the longest silence, and not more often."""
    sink = switch(safe_after_s=8.0)
    sent = []
    send = sink._guardian.send
    sink._guardian.send = lambda order: (sent.append(order), send(order))

    for _ in range(20):
        sink.write(decided())
        clock.advance(0.5)

    assert len(sent) == 5


DEVICE = """
import signal, sys, msgspec
# Whoever started the tests may have told them to outlive their terminal.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
import numpy as np
from edge_runtime.sinks.gpio.config import GpioConfig
from edge_runtime.sinks.gpio.sink import GpioSink
from edge_runtime.types import Decision, Estimates, Output
none, values = np.arange(0), np.zeros((0, 1))
sink = GpioSink(msgspec.json.decode(sys.argv[1], type=GpioConfig))
sink.open("pump-1")
start = Decision("s", 1, 1, "m", "worn", "start", 1.0, "id")
sink.write(Output("s", Estimates(none, none, none, values, values, None, "id"), (start,)))
print(sink.guardian_pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT, signal.SIGHUP])
def test_pins_are_safe_after_the_device_was_killed(board: Board, number: int) -> None:
    """Also by SIGKILL, with a minimum time that has not passed; then the guardian ends."""
    pins = [
        {"pin": 17, "label": "worn", "min_on_s": 600},
        {"pin": 18, "label": "worn", "pulse_s": 600},
        {"pin": 19, "label": "other", "safe": "on"},
    ]
    device = subprocess.Popen(
        [sys.executable, "-c", DEVICE, json.dumps({"pins": pins, "factory": "mock"})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    assert [board.next() for _ in range(3)] == ["GPIO17=0", "GPIO18=0", "GPIO19=1"]
    assert [board.next() for _ in range(3)] == ["GPIO17=1", "GPIO18=1", "GPIO19=0"]
    assert device.stdout
    assert device.stderr
    device.stdout.readline()

    device.send_signal(number)

    assert [board.next() for _ in range(3)] == ["GPIO17=0", "GPIO18=0", "GPIO19=1"]
    # The guardian holds this pipe too: it ends when both have ended.
    device.stderr.read()
    device.communicate()
    assert device.returncode == -number


def test_a_guardian_that_is_told_to_end_makes_the_pins_safe_and_stays(
    board: Board, switch: Switch, decided: Decided
) -> None:
    """A service manager tells all processes; orders that still come change nothing."""
    sink = switch()
    assert board.next() == "GPIO17=0"
    sink.write(decided("+worn"))
    assert board.next() == "GPIO17=1"
    assert sink.guardian_pid

    os.kill(sink.guardian_pid, signal.SIGTERM)
    assert board.next() == "GPIO17=0"
    sink.write(decided("-worn"))
    sink.write(decided("+worn"))
    sink.close()

    # What comes last is the guardian's last act.
    assert board.next() == "GPIO17=0"
    assert board.is_quiet


def test_ctrl_c_is_not_meant_for_the_guardian(board: Board, switch: Switch) -> None:
    """It has a session of its own, so the device ends first and in order."""
    sink = switch()
    assert sink.guardian_pid

    assert os.getsid(sink.guardian_pid) != os.getsid(0)


def _flood(sink: GpioSink, *outputs: Output) -> None:
    """Write more orders than a pipe holds."""
    for _ in range(20_000):
        for output in outputs:
            sink.write(output)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_guardian_that_dies_or_hangs_is_replaced(
    board: Board, switch: Switch, decided: Decided, clock: FakeClock, number: int
) -> None:
    """That is a failed write; the next one finds pins that were safe and are right again."""
    sink = switch()
    assert board.next() == "GPIO17=0"
    sink.write(decided("+worn"))
    assert board.next() == "GPIO17=1"
    assert sink.guardian_pid
    os.kill(sink.guardian_pid, number)

    with pytest.raises(Transient, match="guardian") as caught:
        _flood(sink, decided("-worn"), decided("+worn"))
    with pytest.raises(Transient, match="soon"):
        sink.write(decided("+worn"))
    clock.advance(1.0)
    sink.write(decided())

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    assert [board.next(), board.next()] == ["GPIO17=0", "GPIO17=1"]


def test_a_pin_that_fails_takes_the_others_to_their_safe_state(
    board: Board, switch: Switch, decided: Decided
) -> None:
    """An error of the hardware is no reason to leave a load on."""
    sink = switch({"pin": 17, "label": "a"}, {"pin": 18, "label": "b"})
    assert [board.next(), board.next()] == ["GPIO17=0", "GPIO18=0"]
    sink.write(decided("+a"))
    assert board.next() == "GPIO17=1"

    board.path.with_name("events.broken").touch()
    sink.write(decided("+b"))

    assert [board.next(), board.next()] == ["GPIO17=0", "GPIO18=0"]


@pytest.mark.parametrize(
    ("options", "fault", "what", "remedy"),
    [
        ({}, "PermissionError", "PermissionError", "usermod -aG gpio"),
        ({}, "can not open gpiochip", "gpiochip", "/dev/gpiochip0"),
        ({}, "GPIO busy", "busy", "gpioinfo"),
        ({"pins": ({"pin": 99, "label": "a"},)}, "", "99 is not a valid pin", "Correct pin"),
        ({"factory": "nothere"}, "", "nothere", "edge-runtime\\[gpio\\]"),
    ],
)
def test_pins_that_cannot_be_claimed_stop_the_start(
    switch: Switch,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    fault: str,
    what: str,
    remedy: str,
) -> None:
    """The error says what to do."""
    monkeypatch.setenv("BOARD_FAULT", fault)

    with pytest.raises(Rejected, match=what) as caught:
        switch(**options)

    assert re.search(remedy, caught.value.remedy)
    assert caught.value.where and caught.value.expected


@pytest.mark.skipif(Path("/proc/device-tree/system/linux,revision").exists(), reason="a Pi")
def test_a_machine_that_is_no_raspberry_pi_is_told_so(switch: Switch) -> None:
    """The real pin library is asked, and refuses."""
    with pytest.raises(Rejected, match="Pi") as caught:
        switch(factory="native")

    assert "Raspberry Pi" in caught.value.remedy


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line to install it is exact."""
    monkeypatch.setitem(sys.modules, "gpiozero", None)

    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[gpio\]"'):
        GpioSink(GpioConfig((PinConfig(17, "worn"),))).open("pump-1")


def test_the_guardian_is_small() -> None:
    """It runs all the time beside the device: without NumPy, and without gpiozero's weight here."""
    code = (
        "import sys, edge_runtime.sinks.gpio.guardian\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'gpiozero')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_writing_before_open_is_rejected(decided: Decided) -> None:
    """A sink that is not open switches nothing."""
    sink = GpioSink(GpioConfig((PinConfig(17, "worn"),)))
    sink.close()

    with pytest.raises(Rejected, match="is not open"):
        sink.write(decided("+worn"))


def test_the_page_shows_what_works_and_leaves_nothing_out() -> None:
    """The example is one, and every option stands on the page."""
    text = PAGE.read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (options,) = parse_yaml(example, dict[str, Any], "gpio.md")["sinks"]

    assert options.pop("kind") == "gpio"
    assert isinstance(registry.create("sinks", "gpio", options), GpioSink)
    names = [*GpioConfig.__struct_fields__, *PinConfig.__struct_fields__]
    assert [name for name in names if f"`{name}`" not in text] == []
