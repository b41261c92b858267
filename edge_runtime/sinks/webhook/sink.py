"""Results to a web server, without the storage writer ever waiting for it."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence

import msgspec

from edge_runtime.backoff import Backoff
from edge_runtime.clock import SystemClock
from edge_runtime.config.check import check_file
from edge_runtime.errors import ConfigError, Rejected
from edge_runtime.ports import Clock
from edge_runtime.sinks.rows import rows_of
from edge_runtime.sinks.webhook.config import WebhookConfig
from edge_runtime.sinks.webhook.post import Answer, Poster
from edge_runtime.types import Output

__all__ = ["WebhookSink"]

log = logging.getLogger(__name__)

_BACKOFF_S = (0.5, 60.0)
_GOODBYE_S = 1.0

_Row = dict[str, object]


class WebhookSink:
    """Posts decisions, and estimates if wanted, as JSON to a web server.

    Delivery: at most ``attempts`` times each, in order; rows that do not fit the queue
    (``drop_oldest``), that the server refuses or that it does not take in time are
    counted and dropped. A row may arrive twice, with the same ``id``. Thread: one of
    its own posts; `write` only queues and never waits.

    Args:
        config: Options.
        clock: Paces the posts.
        backoff: Paces what is tried again.
    """

    Config = WebhookConfig

    def __init__(
        self, config: WebhookConfig, *, clock: Clock | None = None, backoff: Backoff | None = None
    ) -> None:
        self._config = config
        self._clock = clock or SystemClock()
        self._backoff = backoff or Backoff(*_BACKOFF_S)
        self._device, self._epoch = "", 0
        self._rows: deque[_Row] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._discarded: Counter[str] = Counter()
        self._sent = 0
        self._trouble: str | None = None
        self._is_overflowing = False
        self._poster: Poster | None = None
        self._thread: threading.Thread | None = None

    @property
    def sent(self) -> int:
        """Rows that the server has taken."""
        return self._sent

    @property
    def discarded(self) -> dict[str, int]:
        """Rows that were dropped, by reason; callable from any thread."""
        with self._changed:
            return dict(self._discarded)

    def open(self, device: str, *, epoch: int = 0) -> None:
        """Start the thread that posts; whether the server answers is not asked yet.

        Raises:
            ConfigError: The secret or the CA file cannot be used.
        """
        self._device, self._epoch = device, epoch
        self._poster = Poster(self._config, self._secret())
        self._closing.clear()
        self._thread = threading.Thread(
            target=self._run, args=(self._poster,), name="webhook", daemon=True
        )
        self._thread.start()

    def write(self, output: Output) -> None:
        """Queue one block.

        Raises:
            Rejected: The sink is not open.
        """
        if self._thread is None:
            raise Rejected(
                "is not open",
                where="webhook",
                expected="open before write",
                remedy="Open the sink first.",
            )
        wanted = self._config
        found = rows_of(
            self._device, self._epoch, output, estimates=wanted.estimates, aside=wanted.aside
        )
        rows = list(found)
        with self._changed:
            self._rows.extend({"id": _identity(row), **row} for row in rows)
            self._make_room()
            self._changed.notify()

    def close(self) -> None:
        """Post what is left, for at most ``close_s``; safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is None or self._poster is None:
            return
        self._closing.set()
        with self._changed:
            self._changed.notify()
        thread.join(self._config.close_s)
        if thread.is_alive():
            self._give_up()
            self._poster.abort()
            thread.join(_GOODBYE_S)

    # --- queue --------------------------------------------------------------------

    def _make_room(self) -> None:
        surplus = len(self._rows) - self._config.queue
        for _ in range(surplus):
            self._rows.popleft()
        if surplus > 0:
            self._drop("queue_full", surplus)
        if surplus > 0 and not self._is_overflowing:
            self._is_overflowing = True
            log.warning("webhook.overflowed", extra={"rows": self._config.queue})

    def _drop(self, reason: str, rows: int) -> None:
        """Count rows; the caller holds the lock."""
        if rows:
            self._discarded[reason] += rows

    def _next_batch(self) -> list[_Row]:
        """Wait for rows; empty when the sink closes and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._closing.is_set())
            count = min(len(self._rows), self._config.batch)
            return [self._rows.popleft() for _ in range(count)]

    # --- thread -------------------------------------------------------------------

    def _run(self, poster: Poster) -> None:
        while batch := self._next_batch():
            start_ns = self._clock.monotonic_ns()
            answer = self._deliver(poster, batch)
            self._note(answer, len(batch))
            if self._closing.is_set() and answer.verdict == "later":
                self._give_up()
                return
            spent_s = (self._clock.monotonic_ns() - start_ns) / 1e9
            self._closing.wait(max(0.0, self._config.every_s - spent_s))

    def _deliver(self, poster: Poster, batch: Sequence[_Row]) -> Answer:
        """Post a batch until it is taken or refused, or was tried often enough."""
        body = msgspec.json.encode({"device": self._device, "rows": batch})
        key = hashlib.sha256("\n".join(str(row["id"]) for row in batch).encode()).hexdigest()
        answer = poster.post(body, key)
        for _ in range(self._config.attempts - 1):
            if answer.verdict != "later" or self._closing.is_set():
                break
            self._note_trouble(answer)
            self._closing.wait(max(answer.wait_s, self._backoff.next_s()))
            answer = poster.post(body, key)
        return answer

    def _note(self, answer: Answer, rows: int) -> None:
        if answer.verdict == "taken":
            self._note_success(rows)
            return
        self._note_trouble(answer)
        with self._changed:
            self._drop("refused" if answer.verdict == "never" else "unreachable", rows)

    def _note_success(self, rows: int) -> None:
        self._sent += rows
        self._backoff.reset()
        self._is_overflowing = False
        if self._trouble is not None:
            self._trouble = None
            log.info("webhook.recovered", extra={"host": self._config.parts.hostname})

    def _note_trouble(self, answer: Answer) -> None:
        """Log a trouble once, and again when it changes its kind."""
        if self._trouble != answer.verdict:
            self._trouble = answer.verdict
            where = {"host": self._config.parts.hostname, "why": answer.why}
            log.warning("webhook.failed", extra=where)

    def _give_up(self) -> None:
        with self._changed:
            self._drop("closed", len(self._rows))
            self._rows.clear()

    # --- files --------------------------------------------------------------------

    def _secret(self) -> bytes | None:
        config = self._config
        if config.ca_file is not None:
            check_file(config.ca_file, "ca_file", "webhook")
        if config.secret_file is None:
            return None
        check_file(config.secret_file, "secret_file", "webhook", is_secret=True)
        secret = config.secret_file.read_bytes().strip()
        if not secret:
            raise ConfigError(
                f"secret_file {str(config.secret_file)!r} is empty",
                where="webhook",
                expected="a key of some length",
                remedy="Write one: openssl rand -hex 32.",
            )
        return secret


# What tells a row from all others, by its kind. A revision is named where there is one.
_IDENTITY = {
    "decision": ("index", "time_ns", "model", "label", "edge", "tier", "revision"),
    "estimate": ("index", "end_ns", "kind", "revision"),
    "sample": ("time_ns", "values", "reason", "kind"),
}


def _identity(row: _Row) -> str:
    """Return what tells a row from all others, see `Decision`.

    The time stands for the epoch, so that a device whose state was lost, and that
    counts its epochs anew, does not repeat old identities.
    """
    names = ("device", "stream", *_IDENTITY[str(row["kind"])])
    return "/".join(str(row[name]) for name in names if name in row)
