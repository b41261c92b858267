"""Renew the certificate of a running device at two thirds of its life."""

from __future__ import annotations

import logging
import threading

from edge_runtime.backoff import Backoff
from edge_runtime.errors import EdgeError
from edge_runtime.ports import Clock
from edge_runtime.sync.identity.enrolment import renew
from edge_runtime.sync.identity.folder import IdentityFolder, Validity

__all__ = ["Renewal"]

log = logging.getLogger(__name__)

# A clock may jump while nobody looks, so the longest sleep is short against any life.
_LOOK_S = 3600.0
# By a clock that is far ahead the next certificate is old at once.
_SHORTEST_S = 10.0
_FIRST_S, _LAST_S = 60.0, 6 * 3600.0


class Renewal:
    """Looks from time to time, renews when it is time, and tries again later where it fails.

    The clock decides only when to ask: whether a certificate is still good is for others to
    say. While the clock shows less than when the certificate was signed, it is not asked.

    Args:
        folder: The device's identity.
        clock: Wall time.
        backoff: How long to wait after a failure; from a minute to six hours by default.
    """

    def __init__(
        self, folder: IdentityFolder, clock: Clock, *, backoff: Backoff | None = None
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._backoff = backoff or Backoff(_FIRST_S, _LAST_S)
        self._stop = threading.Event()
        self._is_failing = False

    def run(self) -> None:
        """Work until `stop`."""
        wait_s = 0.0
        while not self._stop.wait(wait_s):
            wait_s = self.step()

    def stop(self) -> None:
        """End `run`; callable from any thread."""
        self._stop.set()

    def step(self) -> float:
        """Renew if it is time; return how long to wait before the next look, s."""
        validity = self._folder.validity()
        if validity is None:
            return _LOOK_S
        now_s = self._clock.now_ns() / 1e9
        if now_s >= validity.renew_at_s:
            try:
                validity = self._renewed(validity, now_s)
            except EdgeError as error:
                return self._note_failure(error, validity)
        return min(_LOOK_S, max(validity.renew_at_s - now_s, _SHORTEST_S))

    def _renewed(self, validity: Validity, now_s: float) -> Validity:
        fresh = renew(self._folder, validity, now_s=now_s)
        self._backoff.reset()
        self._is_failing = False
        log.info("identity.renewed", extra={"not_after_s": fresh.not_after_s})
        return fresh

    def _note_failure(self, error: EdgeError, validity: Validity) -> float:
        if not self._is_failing:
            facts = {"why": str(error), "not_after_s": validity.not_after_s}
            log.warning("identity.not_renewed", extra=facts)
        self._is_failing = True
        return self._backoff.next_s()
