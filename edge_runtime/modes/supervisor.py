"""The process around a device's process: starts it again after a crash or a hung call.

It passes signals and output on, and exit codes back. Only it can tell a native
crash from a power cut, so it is the one who counts: the device is told at its
next start which base it died of, and how often, and falls back by itself.

It stays in memory as long as the device runs, so it imports little, and
`supervise` replaces the program that was started by a bare interpreter.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import edge_runtime
from edge_runtime.modes.notify import Notifier
from edge_runtime.modes.vitals import Crash, Vitals

__all__ = ["Supervisor", "main", "supervise"]

# Until the device says how long a call may take: imports and a first load on a slow board.
_START_S = 120.0
# The device first tries to end a hung call itself.
_PATIENCE = 1.5
# A device that served so long has left its crashes behind.
_GOOD_S = 600.0
_BACK_OFF_S = (0.5, 30.0)
_PASSED_ON = frozenset(range(5))
# The device's threads take turns in Python, so that one heap serves them all; glibc
# would give each its own. Whoever runs the supervisor may say otherwise.
_DEFAULTS = {"MALLOC_ARENA_MAX": "1"}
# Signals that the kernel sends to a program that has gone wrong.
_FAULTS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)


class Supervisor:
    """Keep one device running until it ends by itself or is asked to.

    Args:
        command: Command line of the device; options with the descriptors of its
            page and of its tie to this process, and with its crashes, are added.
        say: Takes a line for people.
        notifier: Tells the service manager; that of the environment by default.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        say: Callable[[str], object],
        notifier: Notifier | None = None,
    ) -> None:
        self._command = list(command)
        self._say = say
        self._notifier = notifier or Notifier()
        self._child: subprocess.Popen[bytes] | None = None
        self._crashes: dict[str, Crash] = {}
        self._wait_s = _BACK_OFF_S[0]
        self._signal: int | None = None
        # Written to by a signal handler, so that a wait ends.
        self._woken, self._wake = os.pipe()

    def run(self) -> int:
        """Run until the end and return the device's exit code."""
        before = {n: signal.signal(n, self._on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            while True:
                code = self._run_once()
                if code is not None:
                    return code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run_once(self) -> int | None:
        """Run the device once; None if it has to be started again."""
        start, ooms = time.monotonic(), _oom_kills()
        vitals, code, is_hung = self._watched()
        if self._signal is not None:
            return code if code >= 0 else 128 - code
        if code in _PASSED_ON and not is_hung:
            return code
        if time.monotonic() - start > _GOOD_S:
            self._crashes.clear()
            self._wait_s = _BACK_OFF_S[0]
        is_oom = _oom_kills() > ooms
        how = "hung in a call" if is_hung else _how(code, is_oom=is_oom)
        suspects = _suspects(vitals, code, is_hung=is_hung, is_oom=is_oom)
        self._blame(suspects, how)
        self._rest(how, suspects)
        return None if self._signal is None else 128 + self._signal

    def _watched(self) -> tuple[Vitals, int, bool]:
        """Start the device and watch it; return its page, exit code, and whether it hung."""
        vitals, page = Vitals.make()
        life, theirs = os.pipe()
        tie, ours = os.pipe()
        try:
            self._child = self._start(page, theirs, tie)
            os.close(theirs)
            os.close(tie)
            is_hung = self._watch(vitals, life)
            if is_hung:
                self._child.kill()
            return vitals, self._child.wait(), is_hung
        finally:
            for descriptor in (page, life, ours):
                os.close(descriptor)

    def _start(self, page: int, life: int, tie: int) -> subprocess.Popen[bytes]:
        crashes = json.dumps(self._crashes)
        options = ["--supervised", f"{page},{tie}", "--crashed", crashes]
        return subprocess.Popen(  # noqa: S603 - our own command line
            [*self._command, *options],
            # Open there until it ends, and nowhere else.
            pass_fds=(page, life, tie),
            # Ctrl-C reaches this process alone, and is passed on once.
            process_group=0,
            env=_DEFAULTS | os.environ,
        )

    def _watch(self, vitals: Vitals, life: int) -> bool:
        """Wait until the device ends or has given no sign of life for too long."""
        poll = select.poll()
        poll.register(life, select.POLLIN)
        beats, since = -1, time.monotonic()
        while True:
            told_s = vitals.limit_s
            if told_s is not None:
                self._notifier.ready()
            self._notifier.alive()
            if poll.poll(1e3 if told_s is None else told_s / 8 * 1e3):
                return False
            limit_s = _START_S if told_s is None else told_s * _PATIENCE
            if vitals.beats != beats:
                beats, since = vitals.beats, time.monotonic()
            elif time.monotonic() - since > limit_s:
                return True

    def _blame(self, bases: Mapping[str, str], how: str) -> None:
        for stream, base in bases.items():
            before = self._crashes.get(stream)
            times = before.times + 1 if before and before.base == base else 1
            self._crashes[stream] = Crash(base, times, how)

    def _rest(self, how: str, suspects: Mapping[str, str]) -> None:
        """Say what happened, and wait a random time that doubles."""
        wait_s = self._wait_s * (1 + os.urandom(1)[0] / 255) / 2
        self._wait_s = min(2 * self._wait_s, _BACK_OFF_S[1])
        blamed = "".join(
            f", crash {self._crashes[stream].times} of base {base[:12]} in stream {stream}"
            for stream, base in suspects.items()
        )
        line = (
            f"the device {how}{blamed}; "
            f"it starts again in {wait_s:.1f} s and goes on where it had written last."
        )
        self._say(f"supervisor: {line}")
        self._notifier.status(line)
        select.select([self._woken], [], [], wait_s)

    def _on_signal(self, number: int, _frame: object) -> None:
        """Pass the first request on, and end the device hard at the second."""
        is_first, self._signal = self._signal is None, number
        os.write(self._wake, b"!")
        self._notifier.stopping()
        if self._child is not None and self._child.returncode is None:
            os.kill(self._child.pid, number if is_first else signal.SIGKILL)


def _suspects(vitals: Vitals, code: int, *, is_hung: bool, is_oom: bool) -> dict[str, str]:
    """Return the bases to blame: the one in whose call it happened.

    A damaged heap may show later, so that a fault between two calls counts against
    all bases. A kill by a person, like a power cut, counts against none; and while a
    base is loaded, its own count of attempts is what matters.
    """
    if vitals.is_loading and not is_hung:
        return {}
    if not is_hung and -code in _FAULTS:
        return vitals.busy_bases() or vitals.bases
    is_nobodys = -code == signal.SIGKILL and not (is_hung or is_oom)
    return {} if is_nobodys else vitals.busy_bases()


def _how(code: int, *, is_oom: bool) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}{' for want of memory' if is_oom else ''}"


def _oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory; 0 where it is silent."""
    try:
        with open("/proc/vmstat") as file:  # noqa: PTH123 - pathlib costs the supervisor memory
            lines = file.read().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


_PROGRAM = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from edge_runtime.modes.supervisor import main
sys.exit(main(sys.argv[1:]))
"""


def supervise(arguments: Sequence[str]) -> NoReturn:
    """Become the supervisor of a device; this program ends here, its process id stays.

    Args:
        arguments: Of ``edge-runtime``, for the device's process.
    """
    package = os.path.dirname(os.path.dirname(edge_runtime.__file__))  # noqa: PTH120 - as above
    is_safe = not {"", os.getcwd()} & set(sys.path)  # noqa: PTH109 - as above
    device = [sys.executable, *(["-P"] if is_safe else []), "-m", "edge_runtime.cli", *arguments]
    sys.stdout.flush()
    sys.stderr.flush()
    command = [sys.executable, "-S", "-E", "-c", _PROGRAM, package, *device]
    os.execv(sys.executable, command)  # noqa: S606 - our own interpreter


def main(command: Sequence[str]) -> int:
    """Supervise a device with this command line; for `supervise` alone."""
    return Supervisor(command, say=_say).run()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
