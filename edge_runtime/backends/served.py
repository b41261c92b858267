"""A model in a process of its own: the child's side of `process`.

The child ends when the parent hangs up. Should the parent be gone while a call
hangs, the kernel ends the child by a signal: it watches a pipe that only the
parent holds open.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec
import numpy as np

from edge_runtime.backends import backend_of, confined
from edge_runtime.backends.shared import (
    DONE,
    FAILED,
    ORDER,
    Fault,
    Layout,
    Lines,
    Loaded,
    Memory,
    Order,
    Setting,
)
from edge_runtime.errors import EdgeError, ModelError
from edge_runtime.ports import Session

__all__ = ["main"]


class _Server:
    """One loaded model, and the streams that use it."""

    def __init__(self, lines: Lines, session: Session, layout: Layout, limit_mb: int) -> None:
        self._lines = lines
        self._root = session
        self._layout = layout
        self._limit_mb = limit_mb
        self._streams: dict[int, tuple[Session, Memory]] = {}
        # By order: single rows of models without state need no more than this.
        self._rows: dict[bytes, tuple[Callable[[np.ndarray], np.ndarray], np.ndarray, np.ndarray]]
        self._rows = {}
        self._has_state = layout.state_bytes > 0

    def serve(self) -> None:
        """Obey until the parent hangs up."""
        orders, answers, rows = self._lines.orders, self._lines.answers, self._rows
        while len(order := os.read(orders, ORDER.size)) == ORDER.size:
            try:
                if order in rows:
                    run, source, target = rows[order]
                    target[...] = run(source)
                else:
                    self._obey(*ORDER.unpack(order))
            except EdgeError as error:
                _say(answers, FAILED, _fault(error))
            except MemoryError:
                _say(answers, FAILED, _no_memory(self._limit_mb))
            else:
                os.write(answers, DONE)

    def _obey(self, order: int, number: int, count: int) -> None:
        if order in (Order.OPEN, Order.RESUME):
            self._open(number, is_resuming=order == Order.RESUME)
            return
        session, memory = self._streams[number]
        if order == Order.RUN:
            memory.target[:count] = session.run(memory.source[:count])
        elif order == Order.RESET:
            session.reset()
        elif order == Order.RESTORE:
            session.restore(memory.state.tobytes())
        elif order == Order.CLOSE:
            del self._streams[number]
            return
        self._keep_state(session, memory)

    def _open(self, number: int, *, is_resuming: bool) -> None:
        memory = Memory(self._layout, self._lines.memory, number)
        # The loaded model is the first stream's; the others fork it.
        session = self._root if number == 0 else self._root.fork()
        if is_resuming and self._has_state:
            session.restore(memory.state.tobytes())
        self._streams[number] = session, memory
        if not self._has_state:
            order = ORDER.pack(Order.RUN, number, 1)
            self._rows[order] = session.run, memory.source[:1], memory.target[:1]
        self._keep_state(session, memory)

    def _keep_state(self, session: Session, memory: Memory) -> None:
        if self._has_state:
            memory.state[:] = np.frombuffer(session.state() or b"", np.uint8)


def main(arguments: list[str]) -> int:
    """Load the model and serve it; for `process` alone."""
    lines = msgspec.json.decode(arguments[0], type=Lines)
    setting = msgspec.json.decode(arguments[1], type=Setting)
    # Ctrl-C reaches the whole group; the parent says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A card wears out under core files.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _end_with_parent(lines.life)
    # A broken pipe means that the parent has gone.
    with suppress(BrokenPipeError):
        _serve(lines, setting)
    # Nobody waits for what the interpreter would tidy up.
    os._exit(0)


def _serve(lines: Lines, setting: Setting) -> None:
    try:
        session = _load(lines.model, setting)
        loaded = Loaded(session.inputs, session.outputs, session.state_kind, _state_bytes(session))
    except EdgeError as error:
        _say(lines.answers, DONE, Loaded(fault=_fault(error)))
        return
    except MemoryError:
        _say(lines.answers, DONE, Loaded(fault=_no_memory(setting.memory_mb)))
        return
    _say(lines.answers, DONE, loaded)
    _Server(lines, session, Layout.of(loaded), setting.memory_mb).serve()


def _end_with_parent(life: int) -> None:
    """Have the kernel send SIGIO, which ends this process, when the last writer is gone."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _load(file: int, setting: Setting) -> Session:
    model = os.pread(file, os.fstat(file).st_size, 0)
    os.close(file)
    runtime = backend_of(setting.backend, setting.kind)
    runtime.probe()
    confined.limit_memory(setting.memory_mb)
    return runtime.load(model, setting.options)


def _state_bytes(session: Session) -> int | None:
    state = session.state()
    return None if state is None else len(state)


def _say(answers: int, word: bytes, message: msgspec.Struct) -> None:
    text = msgspec.json.encode(message)
    rest = word + ORDER.pack(0, 0, len(text)) + text
    while rest:
        rest = rest[os.write(answers, rest) :]


def _no_memory(limit_mb: int) -> Fault:
    return Fault(
        ModelError.__name__,
        "the model takes more memory than it may",
        expected=f"at most {limit_mb} MiB beyond its runtime",
        remedy="Raise model.memory_mb, or choose a smaller model.",
    )


def _fault(error: EdgeError) -> Fault:
    return Fault(type(error).__name__, error.what, error.where, error.expected, error.remedy)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
