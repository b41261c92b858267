"""A supervisor starts its device again after a crash, and never after a clean end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.modes import supervisor
from edge_runtime.modes.supervisor import Supervisor

# Does the next step of a plan at every start, and writes down what it was told.
DEVICE = """
import json, os, signal, sys, time
from pathlib import Path
from edge_runtime.modes.vitals import Vitals

told, plan = Path(sys.argv[1]), sys.argv[2].split(",")
page = int(sys.argv[sys.argv.index("--supervised") + 1].split(",")[0])
with told.open("a") as file:
    file.write(sys.argv[sys.argv.index("--crashed") + 1] + "\\n")
do = plan[len(told.read_text().splitlines()) - 1]
vitals = Vitals(page)
if do != "silent":
    vitals.tell(0.2 if do == "hang" else 1.0, {"a": "base-a", "b": "base-b"})
where, _, how = do.rpartition(":")
if where:
    vitals.enter("ab".index(where))
me, parent = os.getpid(), os.getppid()
if do == "loading":
    with vitals.loading():
        os.kill(me, signal.SIGSEGV)
if how.isdigit():
    sys.exit(int(how))
elif how == "hang":
    vitals.enter(0)
    signal.pause()
elif how == "busy":
    for _ in range(40):
        vitals.enter(0)
        vitals.leave()
        vitals.beat()
        time.sleep(0.05)
elif how == "asked":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    os.kill(parent, signal.SIGTERM)
    while True: signal.pause()
elif how == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.kill(parent, signal.SIGTERM)
    os.kill(parent, signal.SIGINT)
    while True: signal.pause()
elif how == "silent":
    os.abort()
else:
    os.kill(me, getattr(signal, how))
"""

Supervise = Callable[..., tuple[int, list[dict[str, Any]], list[str]]]


@pytest.fixture
def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervise:
    """Run a plan; gives the exit code, what each start was told, and what was said."""
    monkeypatch.setattr(supervisor, "_BACK_OFF_S", (0.01, 0.02))

    def supervise(*plan: str) -> tuple[int, list[dict[str, Any]], list[str]]:
        told, said = tmp_path / "told", []
        command = [sys.executable, "-c", DEVICE, str(told), ",".join(plan)]
        code = Supervisor(command, say=said.append).run()
        return code, [json.loads(line) for line in told.read_text().splitlines()], said

    return supervise


@pytest.mark.parametrize("code", range(5))
def test_an_end_of_its_own_is_passed_on(supervise: Supervise, code: int) -> None:
    """Success, failure, usage, trust and doubt end the supervisor with the same code."""
    assert supervise(str(code)) == (code, [{}], [])


@pytest.mark.parametrize("set_by_a_person", [None, "3"])
def test_a_device_gets_one_heap_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, set_by_a_person: str | None
) -> None:
    """Memory is scarcer than the time its threads would wait for each other's allocations."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if set_by_a_person:
        monkeypatch.setenv("MALLOC_ARENA_MAX", set_by_a_person)
    program = "import os, sys; sys.exit(int(os.environ['MALLOC_ARENA_MAX']))"

    code = Supervisor([sys.executable, "-c", program], say=print).run()

    assert code == int(set_by_a_person or 1)


@pytest.mark.parametrize("fault", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"])
def test_a_crash_in_a_call_counts_against_that_base(supervise: Supervise, fault: str) -> None:
    """The device starts again, and is told which base it died of and how often."""
    code, told, said = supervise(f"b:{fault}", f"b:{fault}", "0")

    how = f"was killed by {fault}"
    assert code == 0
    assert told == [{}, {"b": ["base-b", 1, how]}, {"b": ["base-b", 2, how]}]
    assert len(said) == 2
    assert how in said[0] and "crash 1 of base base-b in stream b" in said[0]


def test_a_crash_between_calls_counts_against_every_base(supervise: Supervise) -> None:
    """Nobody knows whose heap it was, so all that ran are counted."""
    _, told, _ = supervise("SIGSEGV", "a:SIGSEGV", "0")

    assert {name: crash[1] for name, crash in told[1].items()} == {"a": 1, "b": 1}
    assert {name: crash[1] for name, crash in told[2].items()} == {"a": 2, "b": 1}


def test_a_crash_while_a_base_is_loaded_counts_against_no_serving_base(
    supervise: Supervise,
) -> None:
    """The candidate's own attempts are counted elsewhere; what serves is not to blame."""
    assert supervise("loading", "0")[:2] == (0, [{}, {}])


@pytest.mark.parametrize("kill", ["SIGKILL", "a:SIGKILL"])
def test_a_kill_from_outside_counts_against_nobody(supervise: Supervise, kill: str) -> None:
    """SIGKILL without want of memory is a person's: the device starts again, blameless."""
    code, told, said = supervise(kill, "0")

    assert (code, told) == (0, [{}, {}])
    assert "was killed by SIGKILL;" in said[0]


def test_want_of_memory_in_a_call_counts(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the kernel has killed for memory, the model that was being called is to blame."""
    kills = iter(range(100))
    monkeypatch.setattr(supervisor, "_oom_kills", lambda: next(kills))

    _, told, _ = supervise("a:SIGKILL", "SIGKILL", "0")

    assert told[1] == {"a": ["base-a", 1, "was killed by SIGKILL for want of memory"]}
    assert told[2] == told[1]


def test_an_unknown_exit_code_is_a_crash(supervise: Supervise) -> None:
    """A library that ends the process with a code of its own does not end the device."""
    code, told, _ = supervise("a:9", "9", "0")

    assert code == 0
    assert told == [{}, *2 * [{"a": ["base-a", 1, "ended with code 9"]}]]


def test_a_hung_call_is_ended(supervise: Supervise) -> None:
    """Without a sign of life for half as long again as its limit, a device is killed."""
    code, told, said = supervise("hang", "0")

    assert code == 0
    assert told[1] == {"a": ["base-a", 1, "hung in a call"]}
    assert "hung in a call" in said[0]


def test_a_busy_device_is_let_alone(supervise: Supervise) -> None:
    """Calls that end in time may go on for longer than the limit."""
    assert supervise("busy") == (0, [{}], [])


def test_a_device_that_dies_before_it_speaks_starts_again(supervise: Supervise) -> None:
    """Without a table of bases nobody is blamed; its own count of starts does that."""
    assert supervise("silent", "0")[:2] == (0, [{}, {}])


def test_long_good_service_leaves_crashes_behind(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash counts as the first again when the device has served for long before it."""
    monkeypatch.setattr(supervisor, "_GOOD_S", 0.0)

    _, told, _ = supervise("a:SIGSEGV", "a:SIGSEGV", "0")

    assert [crash[1] for crash in (told[1]["a"], told[2]["a"])] == [1, 1]


def test_a_request_to_end_is_passed_on(supervise: Supervise) -> None:
    """SIGTERM lets the device end cleanly, and its code is the supervisor's."""
    assert supervise("asked") == (0, [{}], [])


def test_a_second_request_ends_it_hard(supervise: Supervise) -> None:
    """A device that does not listen is killed when it is asked again."""
    assert supervise("stubborn")[0] == 128 + 9


def test_the_supervisor_stays_small() -> None:
    """It imports neither numpy nor msgspec, and takes 14 MB at most."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import edge_runtime.modes.supervisor\n"
        "status = open('/proc/self/status').read()\n"
        "print(int(status.split('VmRSS:')[1].split()[0]), *sys.modules)\n"
    )
    root = Path(supervisor.__file__).parents[2]

    out = subprocess.run(
        [sys.executable, "-S", "-E", "-c", script, str(root)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert not {"numpy", "msgspec", "yaml", "email", "logging"} & set(out[1:])
    assert int(out[0]) <= 14 * 1024
