"""Child processes that measure one round whenever they are asked, so that rounds interleave.

Both ends of the conversation: a line in asks for a round, a JSON line out
answers it. The standard library alone, for it also runs in the virtual
environments of the peers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

__all__ = ["Worker", "interleave", "serve"]

_TAIL_LINES = 3


class Worker:
    """One child.

    Args:
        command: Program and arguments.

    Attributes:
        hello: What the child said when it was ready.

    Raises:
        RuntimeError: It ended instead; its last words are in the message.
    """

    def __init__(self, command: Sequence[str]) -> None:
        # One thread each, also for libraries that choose by themselves.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.hello = self._line()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def round(self) -> dict[str, Any]:
        """Have one round measured."""
        self.ask()
        return self.answer()

    def ask(self) -> None:
        """Have one round measured and do not wait for it."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101 - a pipe, see above
        stdin.write("go\n")
        stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Return the answer to `ask`."""
        return self._line()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101 - a pipe, see above
        line = stdout.readline()
        if not line:
            _, words = self._process.communicate()
            tail = " | ".join(words.strip().splitlines()[-_TAIL_LINES:])
            raise RuntimeError(tail or f"ended with exit code {self._process.returncode}")
        return dict(json.loads(line))


def interleave(workers: Mapping[str, Worker], count: int) -> dict[str, list[dict[str, Any]]]:
    """Let the workers measure in turn; the first round of each is not kept."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for number in range(count + 1):
        for name, worker in workers.items():
            answer = worker.round()
            if number:
                found[name].append(answer)
    return found


def serve(measure: Callable[[], Mapping[str, object]], **hello: object) -> None:
    """Be the child: say hello, then measure a round for every line, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    # Whatever a library prints must not be taken for an answer.
    os.dup2(2, 1)
    print(json.dumps(hello), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(measure()), file=answers, flush=True)
