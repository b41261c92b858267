"""Results to the sinks: at once to those that only take, with the commit to those that resume."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import cast

from edge_runtime import registry
from edge_runtime.config import DeviceConfig, split_kind
from edge_runtime.errors import SinkError
from edge_runtime.ports import ResumableSink, Sink
from edge_runtime.types import Output

__all__ = ["Files", "Shower", "open_sinks"]

log = logging.getLogger(__name__)

# Results that may wait for a slow sink; when full, the pipeline waits (policy: block).
_QUEUE_OUTPUTS = 256
_RETRY_S = 1.0


def open_sinks(
    config: DeviceConfig, stack: ExitStack, epoch: int
) -> tuple[dict[str, ResumableSink], list[Sink]]:
    """Open the sinks of a device; the stack closes them.

    Returns:
        Those that can go back, by the name that their marks have, and the others.
    """
    files: dict[str, ResumableSink] = {}
    prompt: list[Sink] = []
    for number, options in enumerate(config.sinks):
        kind, rest = split_kind(options)
        sink = cast(Sink, registry.create("sinks", kind, rest, "sinks"))
        sink.open(config.device, epoch=epoch)
        stack.callback(sink.close)
        if isinstance(sink, ResumableSink):
            files[str(number)] = sink
        else:
            prompt.append(sink)
    return files, prompt


class Shower:
    """Give every result to the sinks as soon as it is there.

    Thread: its own, so that neither the disk nor a slow sink holds up a decision. A
    sink that fails loses that block and is counted.

    Args:
        sinks: Open.
        on_wait: Called every second while the sinks are behind.

    Attributes:
        blocks_lost: Blocks that a sink did not take.
    """

    def __init__(self, sinks: Sequence[Sink], on_wait: Callable[[], None]) -> None:
        self._sinks = sinks
        self._on_wait = on_wait
        self._queue: queue.Queue[Output | None] = queue.Queue(_QUEUE_OUTPUTS)
        self._has_ended = False
        self.blocks_lost = 0

    def put(self, output: Output | None) -> None:
        """Hand over a result; None lets `run` return when everything before is shown."""
        while not self._has_ended:
            with suppress(queue.Full):
                self._queue.put(output, timeout=_RETRY_S)
                return
            self._on_wait()

    def finish(self) -> None:
        """Let `run` return when everything handed over is shown."""
        self.put(None)

    def run(self) -> None:
        """Show until `finish`."""
        try:
            while (output := self._queue.get()) is not None:
                self.blocks_lost += sum(not _is_taken(sink, output) for sink in self._sinks)
        finally:
            self._has_ended = True


class Files:
    """The sinks that take results with the commit they belong to, each exactly once.

    Args:
        sinks: Open, by the name that their marks have in the outbox.
        is_durable: Whether a mark outlives a power cut, as the commit with it does.

    Attributes:
        blocks_lost: Blocks that a sink did not take.
    """

    def __init__(self, sinks: Mapping[str, ResumableSink], *, is_durable: bool) -> None:
        self._sinks = sinks
        self._is_durable = is_durable
        self.blocks_lost = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no such sink."""
        return not self._sinks

    def resume(self, marks: Mapping[str, bytes]) -> None:
        """Take back what no commit knows of.

        Raises:
            SinkError: A sink cannot go back.
        """
        for name, sink in self._sinks.items():
            if name in marks:
                sink.resume(marks[name])

    def write(self, outputs: Sequence[Output]) -> dict[str, bytes]:
        """Write results and return how far each sink has come."""
        for output in outputs:
            taken = [_is_taken(sink, output) for sink in self._sinks.values()]
            self.blocks_lost += taken.count(False)
        marks = {}
        for name, sink in self._sinks.items():
            with suppress(SinkError):
                # Without a new mark the old one stays: the sink goes back further.
                marks[name] = sink.mark(is_durable=self._is_durable)
        return marks


def _is_taken(sink: Sink, output: Output) -> bool:
    try:
        sink.write(output)
    except SinkError as error:
        log.warning("sink.failed", extra={"sink": type(sink).__name__, "why": str(error)})
        return False
    return True
