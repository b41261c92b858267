"""A fuse ends its own process at one named step, and at no other."""

from __future__ import annotations

import signal
import subprocess
import sys

CHILD = """
import sys
from edge_simulator.fuse import Fuse
fuse = Fuse()
fuse.obey({"release": {}})
fuse.obey({"fuse": ["commit", 3]})
for step in sys.argv[1].split():
    print(step, flush=True)
    fuse.at_step(step)
"""


def passed(steps: str) -> tuple[list[str], int]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, steps], capture_output=True, text=True, check=False
    )
    return done.stdout.split(), done.returncode


def test_it_blows_at_the_third_commit() -> None:
    """SIGKILL to itself, at the step and time it was set to."""
    steps = "insert commit insert commit delete insert commit insert commit"

    told, code = passed(steps)

    assert told == steps.split()[:7]
    assert code == -signal.SIGKILL


def test_other_steps_pass() -> None:
    """Steps it was not set to, and too few of those it was, change nothing."""
    assert passed("insert ack commit delete commit") == (
        ["insert", "ack", "commit", "delete", "commit"],
        0,
    )
