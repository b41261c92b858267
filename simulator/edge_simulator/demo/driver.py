"""The replay driver: releases rows day by day, hands out labels, and lets the story happen.

It may hold back tomorrow's rows until today's layers have arrived, which makes
a run reproducible; the device itself never waits for anything.
"""

from __future__ import annotations

import csv
import io
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np

from edge_cloud.jobs import ENDED, JobRow
from edge_runtime.errors import SourceError
from edge_simulator.demo.data import SENSORS, Turbine
from edge_simulator.demo.evaluate import DAY_ROWS
from edge_simulator.demo.outcome import Marks, Update
from edge_simulator.demo.script import Step, steps_between
from edge_simulator.demo.stage import FAN, TURBINE, Stage
from edge_simulator.demo.view import Scene, View
from edge_simulator.fleet.real_device import RealDevice
from edge_simulator.fleet.view import looked_at
from edge_simulator.keys import Keys
from edge_simulator.screen import SPARK_POINTS

__all__ = ["HUMAN_ROW_S", "LABEL_DELAY_ROWS", "Driver", "Ledger", "Plan", "Stopped"]

HUMAN_ROW_S = 0.08
"""Time between two rows at human speed."""
LABEL_DELAY_ROWS = 24
"""Rows by which labels are late."""

_HOUR_NS = 3_600_000_000_000
_FIRST_NS = 1_356_998_400_000_000_000  # 2013-01-01T00:00:00Z, the first replayed row
_SWAP_ROW_S = 0.03
_SWAP_ROWS = 48
_CUT_DAY_S = 0.12
_KILL_ROWS = 3
_WAIT_S = 60.0
_STEP_S = 0.05
_ERROR_SAMPLES = 60
_SIGNAL = SENSORS.index("TEY")


class Plan(msgspec.Struct, frozen=True):
    """What is to be replayed.

    Attributes:
        rows: Rows of the turbine.
        fan_rows: Rows of the fan, spread over the run.
        human_rows: Rows at human speed, before the fast-forward.
        story: What happens, in order.
    """

    rows: int
    fan_rows: int
    human_rows: int
    story: tuple[Step, ...]

    @property
    def days(self) -> int:
        """Simulated days, the last one perhaps not whole."""
        return -(-self.rows // DAY_ROWS)


class Ledger(msgspec.Struct):
    """What the driver saw, apart from the store.

    Attributes:
        rows_made: Source rows that the device committed to its outbox.
        backlog: Samples of (data row, rows waiting on the device).
        decisions: Decisions made.
        cut_decisions: Decisions made while the link was cut.
        cut_rows: Rows released while the link was cut.
        activation_s: Time from a layer set's arrival to its first use.
        layer_sets: Layer sets that became live.
        kills: Times the device was killed.
        resume_s: Time from a kill to the next committed row.
        updates: Offers outside the daily refresh.
        marks: Where things happened, as data rows.
    """

    rows_made: int = 0
    backlog: list[tuple[int, int]] = []
    decisions: int = 0
    cut_decisions: int = 0
    cut_rows: int = 0
    activation_s: list[float] = []
    layer_sets: int = 0
    kills: int = 0
    resume_s: list[float] = []
    updates: list[Update] = []
    marks: Marks = msgspec.field(default_factory=Marks)


class Stopped(Exception):
    """The viewer pressed q."""


class Driver:
    """Plays one run, on one thread.

    Args:
        turbine: All rows.
        plan: What to replay.
        scene: What the viewer sees.
        keys: What the viewer presses.
    """

    def __init__(self, turbine: Turbine, plan: Plan, scene: Scene, keys: Keys) -> None:
        self._turbine = turbine
        self._plan = plan
        self._scene = scene
        self._keys = keys
        self._first = turbine.first_row
        self._released = 0
        self._labelled = 0
        self._is_acting = False
        self._base_job: str | None = None
        self._base_offered_s = 0.0
        self._signal: deque[float] = deque(maxlen=SPARK_POINTS)
        self._errors: deque[tuple[float, float]] = deque(maxlen=_ERROR_SAMPLES)
        self.ledger = Ledger()

    def play(self, stage: Stage, view: View) -> None:
        """Replay every day; returns when both devices' rows are in the store.

        Raises:
            Stopped: The viewer has seen enough.
            SourceError: Something did not answer in time; the message says what.
        """
        self._stage, self._view = stage, view
        self._scene.phase = "human speed" if self._plan.human_rows else "fast-forward"
        for day in range(self._plan.days):
            first = day * DAY_ROWS
            self._play_day(first, min(first + DAY_ROWS, self._plan.rows))
            self._scene.note_progress(day + 1, self._released)
        self._perform(self._finish)

    # --- one day --------------------------------------------------------------------

    def _play_day(self, first: int, last: int) -> None:
        """Release a day's rows; labels come with the row that follows theirs by 24."""
        self._scene.year = int(self._turbine.year[self._first + first])
        for step in steps_between(self._plan.story, first, last):
            self._advance(step.row)
            self._act(step)
        self._advance(last - 1)
        self._deliver_labels(last - LABEL_DELAY_ROWS)
        self._advance(last)
        self._release_fan(last)
        if self._is_cut:
            self._pass_cut_day(last)
        elif self._base_job is None and last % DAY_ROWS == 0:
            self._await_layers(last)
        self._refresh()

    def _advance(self, row: int) -> None:
        """Release rows below ``row``, at the speed of the moment."""
        while self._released < row:
            self._take_keys()
            self._note_base()
            if self._released < self._plan.human_rows:
                self._release(self._released + 1)
                self._pause(HUMAN_ROW_S)
            elif self._base_job is not None:
                self._release(self._released + 1)
                self._pause(_SWAP_ROW_S)
                self._await_slow_base()
            else:
                self._begin_fast_forward()
                self._release(row)

    def _release(self, row: int) -> None:
        if self._is_cut:
            self.ledger.cut_rows += row - self._released
        self._released = row
        self._stage.fleet.elapsed_ns = row * _HOUR_NS
        self._stage.turbine.release({TURBINE[1]: self._first + row})

    def _release_fan(self, row: int) -> None:
        share = row / self._plan.rows
        self._stage.fan.release({FAN[1]: round(self._plan.fan_rows * share)})

    def _deliver_labels(self, upto: int) -> None:
        """Put labels of rows below ``upto`` into the cloud's inbox, whole files only."""
        if upto <= self._labelled:
            return
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["device", "stream", "time_ns", "value", "known_at_ns"])
        for row in range(self._labelled, upto):
            time_ns = _time_ns(row)
            known_at_ns = time_ns + LABEL_DELAY_ROWS * _HOUR_NS
            lines.writerow([*TURBINE, time_ns, self._turbine.nox[self._first + row], known_at_ns])
        path = self._stage.folders.inbox / f"labels-{upto:06d}.csv"
        unfinished = path.with_suffix(".partial")
        unfinished.write_text(text.getvalue())
        unfinished.replace(path)
        self._labelled = upto

    def _await_layers(self, row: int) -> None:
        """Hold tomorrow back until the layers made with today's last row have arrived."""
        wanted_ns = _time_ns(row - 1)
        self._await(
            lambda: self._is_cut or self._layers_made_ns() >= wanted_ns,
            f"layers that know row {self._first + row - 1}",
        )
        if self.ledger.backlog and self.ledger.backlog[-1][1] and not self._is_cut:
            self._sample_backlog(row)

    def _layers_made_ns(self) -> int:
        turbine = self._stage.turbine.process
        told = turbine.latest("layers.activated", TURBINE[1]).get("made_ns") or 0
        streams = turbine.latest("status").get("streams", {})
        return max(told, streams.get(TURBINE[1], {}).get("layers_made_ns") or 0)

    def _pass_cut_day(self, row: int) -> None:
        """Without a link the device goes on; only its own disk sets the pace."""
        self._await_committed(row)
        self._sample_backlog(row)
        if self._released > self._plan.human_rows:
            self._pause(_CUT_DAY_S)

    def _await_committed(self, row: int) -> None:
        position = self._first + row
        self._await(lambda: self._position() >= position, f"row {position - 1} in the outbox")

    def _position(self) -> int:
        return _committed(self._stage.turbine, TURBINE[1])

    def _sample_backlog(self, row: int) -> None:
        waiting = int(self._stage.turbine.process.ask().get("backlog_rows", 0))
        self.ledger.backlog.append((self._first + row, waiting))

    @property
    def _is_cut(self) -> bool:
        return self._stage.is_cut

    # --- what happens ---------------------------------------------------------------

    def _act(self, step: Step) -> None:
        acts: Mapping[str, Callable[[], None]] = {
            "cut": self._cut,
            "mend": self._mend,
            "kill": self._kill,
            "publish_base": self._publish_base,
            "offer_tampered_base": self._offer_tampered_base,
            "offer_wild_layer": self._offer_wild_layer,
        }
        self._perform(acts[step.act])

    def _perform(self, act: Callable[[], None]) -> None:
        """Do one thing to its end: keys pressed meanwhile start nothing else."""
        self._is_acting = True
        try:
            act()
        finally:
            self._is_acting = False

    def _cut(self) -> None:
        if self._is_cut:
            return
        self._sample_backlog(self._released)
        self._stage.toggle_link()
        self.ledger.marks.cut_first_row = self._first + self._released
        self._tell("the link is cut; the device goes on deciding", "yellow")

    def _mend(self) -> None:
        if not self._is_cut:
            return
        self._await_committed(self._released)
        self._sample_backlog(self._released)
        waiting = self.ledger.backlog[-1][1]
        self._stage.fleet.look_around()
        self._stage.toggle_link()
        self.ledger.marks.cut_last_row = self._first + self._released
        self._tell(f"the link is mended; {waiting} rows drain from the device's disk", "green")

    def _kill(self) -> None:
        """SIGKILL while rows are on their way, then start the same device again."""
        stage, row = self._stage, self._released
        is_slow = row < self._plan.human_rows
        ahead = row + _KILL_ROWS if is_slow else row - row % DAY_ROWS + DAY_ROWS - 1
        self._release(min(ahead, self._plan.rows))
        stage.toggle_power()
        self.ledger.kills += 1
        self.ledger.marks.kill_row = self._first + row
        pid = stage.turbine.process.pid
        self._tell(f"SIGKILL to the device, pid {pid}, in the middle of a day", "red")
        self._refresh()
        killed_s = time.monotonic()
        stage.toggle_power()
        self._await_committed(self._released)
        self.ledger.resume_s.append(time.monotonic() - killed_s)
        pid = stage.turbine.process.pid
        text = f"it is back, pid {pid}, and resumed from its last commit"
        self._tell(text, "green")

    def _publish_base(self) -> None:
        self._base_job = self._stage.offer_second_base()
        self._base_offered_s = time.monotonic()
        ref = self._stage.turbine_second.ref
        self._tell(f"base {ref} is published, signed with the release key")

    def _note_base(self) -> None:
        """See whether the new base has become live, or was refused."""
        job = self._job(self._base_job)
        if job is None or job.state not in ENDED:
            return
        seconds = time.monotonic() - self._base_offered_s
        activated = self._stage.turbine.process.latest("base.activated", TURBINE[1])
        self.ledger.marks.swap_row = activated.get("index")
        ref = self._stage.turbine_second.ref
        self._note_update(f"base {ref}", "the release key", job.state, job.reason, seconds)
        style = "green" if job.state == "committed" else "red"
        self._tell(f"base {ref}: {job.state} after {seconds:.1f} s, while rows flowed", style)
        self._base_job = None

    def _await_slow_base(self) -> None:
        """Let at most two days pass with a base on its way, then wait for its end."""
        job = self._job(self._base_job)
        began = next((s.row for s in self._plan.story if s.act == "publish_base"), 0)
        if job is not None and self._released - began >= _SWAP_ROWS and not self._is_cut:
            self._await(
                lambda: self._is_cut or self._has_ended(job.job.id), "the new base", polled=True
            )

    def _offer_tampered_base(self) -> None:
        what = f"base {self._stage.turbine_second.ref} with one bit of its weights flipped"
        sender = "somebody without the release key"
        self._offer(what, sender, self._stage.offer_tampered_base)

    def _offer_wild_layer(self) -> None:
        made_ns = _time_ns(self._released - 1)
        self._offer(
            "residual layer that adds 500 mg/m³",
            "a thief of the layer key",
            lambda: self._stage.offer_wild_layer(made_ns),
        )

    def _offer(self, what: str, sender: str, offer: Callable[[], str]) -> None:
        # Over a link that the viewer has cut no answer would come.
        self._mend()
        offered_s = time.monotonic()
        identity = offer()
        self._await(lambda: self._has_ended(identity), f"an answer to {what}", polled=True)
        job = self._job(identity)
        state, reason = (job.state, job.reason) if job else ("silent", "")
        reason = reason.partition("\n")[0]
        self._note_update(what, sender, state, reason, time.monotonic() - offered_s)
        style = "red" if state == "committed" else "magenta"
        self._tell(f"{what}: {state}; {reason}", style)

    def _note_update(self, what: str, sender: str, state: str, reason: str, seconds: float) -> None:
        day = (self._released - 1) // DAY_ROWS
        self.ledger.updates.append(Update(what, sender, day, state, reason, seconds))
        self._scene.refused += state == "refused"

    def _job(self, identity: str | None) -> JobRow | None:
        return self._stage.cloud.jobs.get(identity) if identity else None

    def _has_ended(self, identity: str) -> bool:
        job = self._job(identity)
        return job is not None and job.state in ENDED

    # --- the end --------------------------------------------------------------------

    def _finish(self) -> None:
        self._scene.phase = "waiting for the last acknowledgements"
        self._mend()
        if self._base_job is not None:
            identity = self._base_job
            self._await(lambda: self._has_ended(identity), "the new base", polled=True)
            self._note_base()
        self._await_committed(self._plan.rows)
        self.ledger.rows_made = self._position() - self._first
        fan = self._stage.fan
        self._await(
            lambda: _committed(fan, FAN[1]) >= self._plan.fan_rows,
            "the fan's last row",
            polled=True,
        )
        for device in (self._stage.turbine, fan):
            self._await(partial(_is_drained, device), "an empty outbox", polled=True)

    # --- waiting and showing ----------------------------------------------------------

    def _await(self, is_true: Callable[[], bool], what: str, *, polled: bool = False) -> None:
        """Wait with the screen alive, at most a minute."""
        deadline = time.monotonic() + _WAIT_S
        turbine = self._stage.turbine.process
        while not is_true():
            if time.monotonic() > deadline:
                raise SourceError(
                    f"no {what} within {_WAIT_S:g} s",
                    where=TURBINE[0],
                    expected="a device, broker and cloud that answer",
                    remedy=f"Look into {self._stage.folders.logs}.\n{turbine.last_words()}",
                )
            if polled:
                time.sleep(0.01)
            else:
                turbine.wait_for(is_true, _STEP_S)
            self._take_keys()
            self._refresh()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._refresh()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_S))
            self._refresh()

    def _refresh(self) -> None:
        scene, ledger, stage = self._scene, self.ledger, self._stage
        stage.fleet.look_around()
        scene.is_link_up = not stage.is_cut
        scene.devices = [looked_at(stage.fleet, face) for face in scene.devices]
        scene.devices[0] = msgspec.structs.replace(scene.devices[0], signal=tuple(self._signal))
        scene.note_progress(self._released // DAY_ROWS, self._released)
        scene.committed = ledger.layer_sets + sum(u.outcome == "committed" for u in ledger.updates)
        scene.bytes_up, scene.bytes_down = stage.traffic()
        if self._errors:
            alone, hybrid = np.mean(list(self._errors), axis=0)
            scene.alone_error, scene.hybrid_error = float(alone), float(hybrid)
        self._view.refresh()

    def _take_keys(self) -> None:
        for key in self._keys.pressed():
            if key == "q":
                raise Stopped
            if self._is_acting:
                continue
            if key == "c":
                self._perform(self._mend if self._is_cut else self._cut)
            elif key == "k":
                self._perform(self._kill)

    def _begin_fast_forward(self) -> None:
        if self._scene.phase != "fast-forward":
            self._scene.phase = "fast-forward"
            self._tell("fast-forward: a day is released when yesterday's layers have arrived")

    def _tell(self, text: str, style: str = "") -> None:
        self._scene.tell(text, style)

    # --- what the devices tell -----------------------------------------------------------

    def on_told(self, device: str, event: str, facts: Mapping[str, Any]) -> None:
        """Take what a device tells."""
        if device != TURBINE[0]:
            return
        match event:
            case "estimates.made":
                self._note_estimates(facts)
            case "decision.made":
                self.ledger.decisions += 1
                self.ledger.cut_decisions += self._is_cut
            case "layers.activated":
                self.ledger.layer_sets += 1
                self.ledger.activation_s.append(float(facts.get("seconds", 0.0)))

    def _note_estimates(self, facts: Mapping[str, Any]) -> None:
        columns = (facts[name] for name in ("index", "score", "value"))
        for index, (score, *_), (value, *_) in zip(*columns, strict=True):
            self._signal.append(float(self._turbine.sensors[index, _SIGNAL]))
            truth = float(self._turbine.nox[index])
            self._errors.append((abs(score - truth), abs(value - truth)))


def _time_ns(row: int) -> int:
    return _FIRST_NS + row * _HOUR_NS


def _committed(device: RealDevice, stream: str) -> int:
    return int(device.process.latest("rows.committed", stream).get("position", 0))


def _is_drained(device: RealDevice) -> bool:
    return int(device.process.ask().get("backlog_rows", -1)) == 0
