"""The network thread: the link to the broker, and the update agents behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgspec

from edge_runtime.config import DeviceConfig, SyncConfig
from edge_runtime.modes.board_times import board_times
from edge_runtime.modes.commands import Commands, Do
from edge_runtime.modes.updates import OnEvent, StreamUpdates, Updates
from edge_runtime.pipeline import AnyPipeline
from edge_runtime.ports import Clock, Message, Transport
from edge_runtime.quality import names_of_mask
from edge_runtime.spec import ModelSpec
from edge_runtime.sync.link import Downlink, Link
from edge_runtime.sync.messages import MOST_SHOWN, Answers, BoardTimes, Command, LastRow
from edge_runtime.sync.outbox import Outbox
from edge_runtime.sync.state import StateStore
from edge_runtime.sync.topics import Topics
from edge_runtime.types import Output
from edge_runtime.version import __version__

__all__ = ["Connect", "Uplink"]

Connect = Callable[[SyncConfig, str, Clock], Transport]
"""Makes a transport for a client id; nothing is opened yet."""


class Uplink:
    """Drain the outbox, and carry jobs to the agents.

    Thread: `run` is the network thread; the rest is callable from any thread.

    Args:
        config: The device's, with a broker in it.
        streams: By name.
        transport: Not open yet.
        state: Started.
        outbox: Open.
        clock: For time-outs.
        on_pipeline: Runs something on the pipeline thread, between two windows.
        on_event: Told about the link, and about what went live or was refused.
        commands: What may be asked of the device, by name.
    """

    def __init__(
        self,
        config: DeviceConfig,
        streams: Mapping[str, StreamUpdates],
        transport: Transport,
        state: StateStore,
        outbox: Outbox,
        *,
        clock: Clock,
        on_pipeline: Callable[[Callable[[], None]], None],
        on_event: OnEvent,
        commands: Mapping[str, Do],
    ) -> None:
        sync = config.sync or SyncConfig()
        self._link = Link(config.device, transport, outbox, state, clock, self._take, sync)
        self._updates = Updates(
            config.device,
            streams,
            send=self._link.send,
            wake=self._link.wake,
            on_pipeline=on_pipeline,
            on_event=self._announced(on_event),
        )
        self._commands = Commands(config.device, commands, clock)
        self._answers_topic = Topics().up(config.device, "evt")
        self._streams = streams
        self._profiles = config.profiles
        # What this board took, by base, as far as that was looked up.
        self._times: dict[str, BoardTimes | None] = {}
        self._outbox = outbox
        self._clock = clock
        self._on_event = on_event
        self._stop = threading.Event()
        self._can_fetch = False
        self.is_connected = False

    @property
    def backlog_rows(self) -> int:
        """Rows that the cloud has not acknowledged."""
        return self._outbox.rows

    def on_agents(self, do: Callable[[], None]) -> None:
        """Have something done on the network thread, to which the agents belong."""
        self._updates.post(do)

    def counters(self) -> dict[str, int]:
        """Return what the link counts."""
        counted = msgspec.structs.asdict(self._link.stats())
        return {name: int(value) for name, value in counted.items() if value is not None}

    def reports(self) -> dict[str, int]:
        """Return how many reports of update jobs were made, by state."""
        return dict(self._updates.reports)

    def run(self) -> None:
        """Work until `stop`, then say good-bye."""
        self._look_up_times()
        self.announce()
        self._link.open()
        try:
            self._updates.start()
            while not self._stop.is_set():
                self._look_up_times()
                self._link.step(self._updates.wait_s)
                self._note_link()
                self._updates.step(self._clock.monotonic_ns())
        finally:
            self._link.close()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()
        self._link.wake()

    def note_commit(self) -> None:
        """Look at the outbox; it was written to."""
        self._link.note_commit()

    def show(self, output: Output, pipeline: AnyPipeline) -> None:
        """Show the newest answer of a stream to whoever watches."""
        self._link.show(output.stream, lambda: _last_row(output, pipeline))

    def _take(self, asked: Downlink) -> tuple[Message, ...]:
        if isinstance(asked, Command):
            return (Message(self._answers_topic, self._commands.answer(asked)),)
        # What the agents answer is sent by themselves, some of it later.
        self._updates.take(asked)
        return ()

    def _note_link(self) -> None:
        is_connected = self._link.is_connected
        if is_connected != self.is_connected:
            self.is_connected = is_connected
            self._on_event("link.changed", {"is_connected": is_connected})
        can_fetch = is_connected and not self._link.is_day_spent
        if can_fetch != self._can_fetch:
            self._can_fetch = can_fetch
            self._updates.set_link(can_fetch)

    def _announced(self, on_event: OnEvent) -> OnEvent:
        """Say in ``up/life`` what runs, before anybody is told that it changed."""

        def tell(name: str, facts: Mapping[str, object]) -> None:
            if name.endswith(".activated"):
                self.announce()
            on_event(name, facts)

        return tell

    def announce(self) -> None:
        """Say in ``up/life`` what runs; callable from any thread."""
        pipelines = {name: stream.serving.pipeline for name, stream in self._streams.items()}
        times = {name: self._times.get(pipeline.base) for name, pipeline in pipelines.items()}
        self._link.announce(
            base={name: pipeline.base for name, pipeline in pipelines.items()},
            effective={name: pipeline.effective_id for name, pipeline in pipelines.items()},
            runtime=__version__,
            streams={name: _answers(pipeline.spec) for name, pipeline in pipelines.items()},
            board_times={name: told for name, told in times.items() if told is not None},
        )

    def _look_up_times(self) -> None:
        """Read what this board took for bases that are new, and say it.

        On the network thread: whoever changes a base must not wait for files.
        """
        pipelines = [stream.serving.pipeline for stream in self._streams.values()]
        # A cascade is timed as a whole: its time is that of no one file.
        bases = {one.base for one in pipelines if not one.spec.cascade}
        found = {base: board_times(base, self._profiles) for base in bases - self._times.keys()}
        self._times |= found
        if any(found.values()):
            self.announce()


def _answers(spec: ModelSpec) -> Answers:
    return Answers(
        f"{spec.name}@{spec.version}", _shown(spec), _deciding(spec)[:MOST_SHOWN], spec.unit
    )


def _deciding(spec: ModelSpec) -> tuple[str, ...]:
    return tuple(dict.fromkeys(limit.label for limit in spec.limits))


def _shown(spec: ModelSpec) -> tuple[str, ...]:
    """Return the labels that fit a message, in the model's order: first those that decide."""
    if len(spec.labels) <= MOST_SHOWN:
        return spec.labels
    wanted = dict.fromkeys((*_deciding(spec), *spec.labels))
    kept = set(list(wanted)[:MOST_SHOWN])
    return tuple(label for label in spec.labels if label in kept)


def _last_row(output: Output, pipeline: AnyPipeline) -> LastRow:
    estimates = output.estimates
    values = dict(zip(pipeline.spec.labels, estimates.value[-1].tolist(), strict=True))
    shown = {label: values[label] for label in _shown(pipeline.spec)}
    mask = 0 if estimates.quality is None else int(estimates.quality[-1])
    quality = tuple(names_of_mask(mask))
    return LastRow(int(estimates.end_ns[-1]), shown, pipeline.started[:MOST_SHOWN], quality)
