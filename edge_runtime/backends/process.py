"""A model in a child process: what it does to its heap, it does not do to the device.

A call costs a copy of the row into shared memory, nine bytes through pipes and
two switches between processes. The wait is bounded; a child that dies or hangs is
replaced, its streams go on with the state after their last answer, and the row
that was being answered is asked again. A call that hung is not.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import random
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from typing import IO, TypeVar

import msgspec
import numpy as np

from edge_runtime import errors
from edge_runtime.backends import confined
from edge_runtime.backends.blocks import in_blocks, no_rows
from edge_runtime.backends.faults import (
    cannot_load,
    cannot_restore,
    cannot_run,
    check_batch,
    closed,
)
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
from edge_runtime.types import StateKind

__all__ = ["ProcessSession", "open_in_process"]

log = logging.getLogger(__name__)

# Interpreter, numpy and runtime come up on a slow board, then the model is loaded.
_START_S = 60.0
_END_S = 2.0
# A call is given up when so many children in a row have died young.
_DEATHS = 3
_YOUNG_S = 60.0
# After that, no child is started for a random time up to this, doubling each time.
_BACK_OFF_S = (0.5, 30.0)
_LARGEST_MESSAGE = 1 << 20
_Said = TypeVar("_Said", Loaded, Fault)


def open_in_process(model: bytes, setting: Setting) -> ProcessSession:
    """Open a model in a child process.

    Blocks until it is loaded, about half a second.

    Args:
        model: The file, verified by the caller.
        setting: How it is run, and the child's limits.

    Raises:
        ConfigError: There is no such backend.
        MissingExtra: Its package is not installed.
        ModelError: The bytes are no model it can run, or the child died of them.
    """
    child = _Child(model, setting)
    try:
        child.start()
        return ProcessSession(child)
    except _Died as death:
        child.end()
        raise cannot_load(child.name, setting.kind, f"its process died: {death}") from death


class ProcessSession:
    """One stream of a model in a child process; a `Session` for one worker.

    Args:
        child: Loaded; shared by the sessions that were forked from one.

    Attributes:
        inputs: As the model declares them.
        outputs: As the model declares them.
        state_kind: What the model keeps between calls.
    """

    def __init__(self, child: _Child) -> None:
        self._child = child
        loaded = child.loaded
        self.inputs, self.outputs = loaded.inputs, loaded.outputs
        self.state_kind: StateKind = loaded.state_kind
        self._layout = Layout.of(loaded)
        self._row = self.inputs[0].shape
        self._dtype = np.dtype(self.inputs[0].dtype)
        self._stream = child.add(self._layout)
        self._target = self._stream.memory.target
        self._target_row = self._target[:1]
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the child that runs the model now, or ran it last."""
        return self._child.pid

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Answer ``batch``, shape (n, …), in the dtype of the input tensor.

        Returns:
            The first output, shape (n, …). The array belongs to the caller.

        Raises:
            ShapeError: Shape or dtype is not the model's.
            ModelError: The model failed, took too long, or ended several children.
        """
        if batch.shape != self._row or batch.dtype != self._dtype or self._is_closed:
            return self._run_other(batch)
        self._child.ask(self._stream, Order.RUN, batch)
        return self._target_row.copy()

    def reset(self) -> None:
        """Forget state kept between calls."""
        self._check_open()
        self._child.ask(self._stream, Order.RESET)

    def fork(self) -> ProcessSession:
        """Return a session in the same child with state of its own."""
        self._check_open()
        return ProcessSession(self._child)

    def state(self) -> bytes | None:
        """Return the state after the last answer; None where it cannot be read."""
        self._check_open()
        if self._child.loaded.state_bytes is None:
            return None
        return self._stream.state.tobytes()

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes.

        Raises:
            ModelError: They are not this model's state.
        """
        self._check_open()
        if len(state) != self._layout.state_bytes:
            raise cannot_restore(self._child.name, len(state), self._layout.state_bytes)
        if not state:
            return
        self._stream.memory.state[:] = np.frombuffer(state, np.uint8)
        self._child.ask(self._stream, Order.RESTORE)

    def close(self) -> None:
        """Leave the child; it ends with its last session. Safe to call twice."""
        if not self._is_closed:
            self._is_closed = True
            self._child.remove(self._stream)

    def _run_other(self, batch: np.ndarray) -> np.ndarray:
        self._check_open()
        check_batch(self._child.name, batch, self.inputs[0])
        if not len(batch):
            return no_rows(self.outputs[0])
        if len(batch) > self._layout.rows:
            return in_blocks(self._run_block, batch, self._layout.rows)
        return self._run_block(batch)

    def _run_block(self, batch: np.ndarray) -> np.ndarray:
        self._child.ask(self._stream, Order.RUN, batch)
        return self._target[: len(batch)].copy()

    def _check_open(self) -> None:
        if self._is_closed:
            raise closed(self._child.name)


class _Stream:
    """One stream of a child: its number, its memory, and a copy of its state.

    A child that dies may have written anything into the memory, at any instant.
    The copy is taken when it says that it is done.
    """

    def __init__(self, number: int, memory: Memory) -> None:
        self.number = number
        self.memory = memory
        self.state = memory.state.copy()


class _Died(Exception):
    """The child is gone; the message says how."""

    def __init__(self, how: str, *, is_hung: bool = False) -> None:
        super().__init__(how)
        self.is_hung = is_hung


class _Child:
    """The process, whichever it is now, and the streams that it serves."""

    def __init__(self, model: bytes, setting: Setting) -> None:
        self._lines: _Ends | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.name = setting.backend or setting.kind
        self.loaded = Loaded()
        self._setting = setting
        self._model = _nameless()
        self._model.write(model)
        self._model.flush()
        self._memory = _nameless()
        self._streams: dict[int, _Stream] = {}
        self._wait_s = _BACK_OFF_S[0]
        self._rests_until = 0.0
        self._started_s = 0.0
        self._deaths = 0

    def __del__(self) -> None:
        self.end()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    # --- streams ----------------------------------------------------------------

    def add(self, layout: Layout) -> _Stream:
        """Open a stream with memory of its own."""
        number = next(n for n in itertools.count() if n not in self._streams)
        self._grow((number + 1) * layout.size)
        stream = _Stream(number, Memory(layout, self._memory.fileno(), number))
        self.ask(stream, Order.OPEN)
        self._streams[stream.number] = stream
        return stream

    def _grow(self, size: int) -> None:
        """Make room; nobody can take it back, so that what is mapped stays there."""
        if os.fstat(self._memory.fileno()).st_size < size:
            self._memory.truncate(size)
        if hasattr(fcntl, "F_ADD_SEALS"):
            fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)

    def remove(self, stream: _Stream) -> None:
        """Close a stream; the last one ends the child."""
        del self._streams[stream.number]
        if not self._streams:
            self.end()
        elif self._lines is not None:
            with suppress(_Died, EdgeError):
                self._order(stream, Order.CLOSE)

    def ask(self, stream: _Stream, order: int, batch: np.ndarray | None = None) -> None:
        """Have something done; where the child dies of it, by the next one.

        Args:
            stream: Whose.
            order: What.
            batch: Rows to run.

        Raises:
            EdgeError: What the child says of its model.
            ModelError: It hung, several children died of it, or none is started now.
        """
        while True:
            try:
                if self._lines is None:
                    self._revive()
                self._order(stream, order, batch)
            except _Died as death:
                self._bury(death)
                if death.is_hung or self._deaths >= _DEATHS:
                    self._rest()
                    raise cannot_run(self.name, death) from death
            else:
                return

    def _order(self, stream: _Stream, order: int, batch: np.ndarray | None = None) -> None:
        lines, count = self._opened(), 0
        if batch is not None:
            count = len(batch)
            stream.memory.source[:count] = batch
        try:
            os.write(lines.orders, ORDER.pack(order, stream.number, count))
            answer = lines.read(1)
        except OSError as error:
            raise _Died(str(error)) from error
        if answer == DONE:
            if len(stream.state):
                stream.state[:] = stream.memory.state
        elif answer == FAILED:
            raise _raised(self._heard(Fault))
        else:
            raise _Died("it answered nonsense")

    # --- the process --------------------------------------------------------------

    def start(self) -> None:
        """Start the process and let it load the model.

        Raises:
            EdgeError: What the child says of its model.
            _Died: It said nothing.
        """
        self._lines = self._spawned()
        self._started_s = time.monotonic()
        if self._lines.read(1) != DONE:
            raise _Died("it answered nonsense")
        loaded = self._heard(Loaded)
        if loaded.fault is not None:
            self.end()
            raise _raised(loaded.fault)
        self._lines.limit_s = self._setting.limit_s
        self.loaded = loaded

    def _spawned(self) -> _Ends:
        orders, our_orders = os.pipe()
        our_answers, answers = os.pipe()
        life, our_life = os.pipe()
        theirs = Lines(orders, answers, life, self._model.fileno(), self._memory.fileno())
        arguments = [msgspec.json.encode(one).decode() for one in (theirs, self._setting)]
        ends = _Ends(our_orders, our_answers, our_life)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                confined.command("edge_runtime.backends.served", arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=msgspec.structs.astuple(theirs),
                env=confined.environment(),
            )
        except OSError as error:
            ends.close()
            raise _Died(f"it cannot be started: {error}") from error
        finally:
            for descriptor in (orders, answers, life):
                os.close(descriptor)
        return ends

    def end(self) -> None:
        """Hang up, and wait until the process is gone."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _revive(self) -> None:
        """Start a new process, and let its streams go on from their last answers."""
        if time.monotonic() < self._rests_until:
            raise cannot_run(self.name, "its process died too often, and rests for a while")
        self.start()
        for stream in self._streams.values():
            stream.memory.state[:] = stream.state
            self._order(stream, Order.RESUME)

    def _bury(self, death: _Died) -> None:
        if time.monotonic() - self._started_s > _YOUNG_S:
            self._deaths, self._wait_s = 0, _BACK_OFF_S[0]
        self._deaths += 1
        if self._process is not None and death.is_hung:
            self._process.kill()
        self.end()
        code = self._process.returncode if self._process else None
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        facts = {"backend": self.name, "pid": self.pid, "why": str(death), "ended": how}
        log.warning("model.process_died", extra=facts)

    def _rest(self) -> None:
        """Start none for a while; meanwhile every call fails at once."""
        wait_s = random.uniform(self._wait_s / 2, self._wait_s)  # noqa: S311 - jitter, no secret
        self._rests_until = time.monotonic() + wait_s
        self._wait_s = min(2 * self._wait_s, _BACK_OFF_S[1])

    def _heard(self, kind: type[_Said]) -> _Said:
        """Return the message that the child sends now."""
        lines = self._opened()
        *_, length = ORDER.unpack(lines.read(ORDER.size))
        if length > _LARGEST_MESSAGE:
            raise _Died("it answered nonsense")
        try:
            return msgspec.json.decode(lines.read(length), type=kind)
        except msgspec.DecodeError as error:
            raise _Died("it answered nonsense") from error

    def _opened(self) -> _Ends:
        assert self._lines is not None  # noqa: S101 - callers have looked
        return self._lines


class _Ends:
    """Our ends of the pipes to one process."""

    def __init__(self, orders: int, answers: int, life: int) -> None:
        self.orders = orders
        self.limit_s = _START_S
        self._answers = answers
        self._life = life
        self._poll = select.poll()
        self._poll.register(answers, select.POLLIN)

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes.

        Raises:
            _Died: The process is gone, or they did not come in time.
        """
        parts = self._read(count)
        while len(parts) < count:
            parts += self._read(count - len(parts))
        return parts

    def _read(self, most: int) -> bytes:
        if not self._poll.poll(self.limit_s * 1e3):
            raise _Died(f"no answer within {self.limit_s:g} s", is_hung=True)
        part = os.read(self._answers, most)
        if not part:
            raise _Died("it hung up")
        return part

    def close(self) -> None:
        for descriptor in (self.orders, self._answers, self._life):
            os.close(descriptor)


def _raised(fault: Fault) -> EdgeError:
    """Return the error that the child had."""
    kind = getattr(errors, fault.kind, ModelError)
    return kind(fault.what, where=fault.where, expected=fault.expected, remedy=fault.remedy)


def _nameless() -> IO[bytes]:
    if not hasattr(os, "memfd_create"):
        return tempfile.TemporaryFile()
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    return os.fdopen(os.memfd_create("edge-runtime", flags), "r+b")
