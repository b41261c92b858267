"""Ingest in several processes: starts them, keeps them running, ends them.

Threads: one, which calls `run`.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import subprocess
import threading
from collections.abc import Callable, Sequence

import msgspec

from edge_cloud.ingest import Member
from edge_runtime.backoff import Backoff
from edge_runtime.ports import Clock, Connected, Message, Transport
from edge_runtime.sync.topics import Topics

__all__ = ["Members", "shares"]

log = logging.getLogger(__name__)

_PROBE_S = 5.0
_LOOK_S = 0.2
_END_S = 10.0
_BACKOFF_S = (0.2, 10.0)
_STEADY_NS = 30 * 10**9


class _Running(msgspec.Struct):
    """One process.

    Attributes:
        member: Which.
        backoff: How long to wait before it is started again.
        process: None while it waits.
        started_ns: Monotonic time of its last start.
        due_ns: When it is started.
    """

    member: Member
    backoff: Backoff
    process: subprocess.Popen[bytes] | None = None
    started_ns: int = 0
    due_ns: int = 0


class Members:
    """Keeps ingesters running as child processes; they end when this process does.

    Args:
        processes: How many.
        group: Name of their share.
        command: Command line of one of them, which ends when its standard input does.
        probe: A transport of its own, to find out whether the broker has shared subscriptions.
        topics: The topic tree.
        clock: For waiting.
    """

    def __init__(
        self,
        processes: int,
        group: str,
        command: Callable[[Member], Sequence[str]],
        *,
        probe: Transport,
        topics: Topics,
        clock: Clock,
    ) -> None:
        self._processes = processes
        self._group = group
        self._command = command
        self._probe = probe
        self._topics = topics
        self._clock = clock
        self.restarts_total = 0

    def run(self, stop: threading.Event) -> None:
        """Keep them running until ``stop`` is set."""
        is_sharing = shares(self._probe, self._group, self._topics, self._clock, stop)
        if is_sharing is None:
            return
        running = [self._made(member) for member in self._chosen(is_sharing)]
        try:
            while True:
                for one in running:
                    self._look_after(one)
                if stop.wait(_LOOK_S):
                    return
        finally:
            for one in running:
                _end(one.process)

    def _chosen(self, is_sharing: bool) -> list[Member]:
        if is_sharing:
            return [Member(number) for number in range(self._processes)]
        log.error(
            "ingest.not_shared",
            extra={
                "processes": self._processes,
                "why": "the broker has no shared subscriptions; one process takes all rows",
            },
        )
        return [Member(0, is_sharing=False)]

    def _made(self, member: Member) -> _Running:
        return _Running(member, Backoff(*_BACKOFF_S))

    def _look_after(self, one: _Running) -> None:
        now_ns = self._clock.monotonic_ns()
        if one.process is not None and one.process.poll() is not None:
            log.error(
                "ingest.member_ended",
                extra={"member": one.member.number, "code": one.process.returncode},
            )
            _end(one.process)
            if now_ns - one.started_ns > _STEADY_NS:
                one.backoff.reset()
            one.process, one.due_ns = None, now_ns + round(one.backoff.next_s() * 1e9)
            self.restarts_total += 1
        if one.process is None and now_ns >= one.due_ns:
            one.started_ns = now_ns
            # A session of its own: Ctrl-C reaches us alone, and we end it.
            one.process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command(one.member), stdin=subprocess.PIPE, start_new_session=True
            )


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def shares(
    transport: Transport, group: str, topics: Topics, clock: Clock, stop: threading.Event
) -> bool | None:
    """Find out whether a broker delivers to shared subscriptions: some only say so.

    Args:
        transport: Not open yet; it is closed on return.
        group: Name of the share.
        topics: The topic tree.
        clock: For waiting.
        stop: Ends the wait for the broker.

    Returns:
        None when it was stopped before the broker was there.
    """
    topic = f"{topics.all_cloud}-probe-{secrets.token_hex(4)}"
    transport.open([topics.shared(group, topic)], None)
    end_ns: int | None = None
    try:
        while not stop.is_set():
            event = transport.receive(_LOOK_S)
            if isinstance(event, Connected):
                transport.publish(Message(topic, b"?"))
                end_ns = clock.monotonic_ns() + round(_PROBE_S * 1e9)
            elif isinstance(event, Message):
                return True
            elif end_ns is not None and clock.monotonic_ns() > end_ns:
                return False
        return None
    finally:
        transport.close()
