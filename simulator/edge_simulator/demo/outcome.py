"""Everything the demo measured, as one value: what the JSON file, table and report show."""

from __future__ import annotations

import msgspec

from edge_simulator.demo.evaluate import Interval, Month
from edge_simulator.demo.judge import RowCounts

__all__ = ["Marks", "Moment", "Outcome", "Replay", "Update"]


class Moment(msgspec.Struct, frozen=True):
    """One of the five things the demo is about.

    Attributes:
        title: The claim.
        evidence: What was measured in this run.
        holds: Whether the evidence supports the claim.
    """

    title: str
    evidence: str
    holds: bool


class Update(msgspec.Struct, frozen=True):
    """One update that was offered to a device outside the daily refresh.

    Attributes:
        what: Such as ``base turbine-nox@2.0.0``.
        sender: Who sent it.
        day: Simulated day, counted from 0.
        outcome: ``committed`` or ``refused``.
        reason: Why it was refused; empty otherwise.
        seconds: From the offer to the outcome.
    """

    what: str
    sender: str
    day: int
    outcome: str
    reason: str
    seconds: float


class Marks(msgspec.Struct):
    """Where in the rows something happened; None when it did not happen in this run."""

    swap_row: int | None = None
    cut_first_row: int | None = None
    cut_last_row: int | None = None
    kill_row: int | None = None


class Replay(msgspec.Struct, frozen=True):
    """Mean absolute error by year of one offline replay without faults, mg/m3.

    Attributes:
        name: Such as ``residual`` or ``24``.
        hybrid: Network and layers.
        ridge: The same correction without the network; empty where not asked for.
    """

    name: str
    hybrid: dict[str, float]
    ridge: dict[str, float] = {}


class Outcome(msgspec.Struct, kw_only=True):
    """The result of one demo.

    Attributes:
        source_rows: Rows of the CSV that were replayed.
        rows_made: Rows the device committed to its outbox, by its ledger.
        rows_stored: Source rows found in the store.
        rows_lost: Source rows not found there.
        rows_duplicated: Surplus copies found there.
        updates_committed: Updates that became live: bases and daily layer sets.
        updates_refused: Updates the device refused.
        windows_lost_at_swap: Rows of the two days around the base swap not found in the store.
        mae: Mean absolute error by variant and year, mg/m3.
        bytes_up: TCP payload from the devices, MQTT included.
        bytes_down: TCP payload to the devices.
        seconds: Whole run, from the first child process to the report.
        days: Simulated days.
        broker: Which one ran.
        mae_interval: 95 % block bootstrap, by variant and year.
        hybrid_over_ridge: Ratio of errors by year, with interval.
        months: Errors per 30 days.
        ablation: Offline replays with one more layer each.
        label_delay: Offline replays with labels 0, 24 and 48 rows late.
        updates: Offers outside the daily refresh.
        reasons: Why updates were refused.
        decisions: Decisions that the first device made.
        activation_ms: From a layer job's arrival to its first use: median, p99, largest.
        backlog_rows_largest: Most rows that waited on the device.
        rescored_rows: Rows that the cloud scored again with the device's base.
        rescored_comparable: Of these, rows for which no layer changed the base's inputs.
        rescored_equal: Of these, rows with exactly the device's score.
        fan: The second device's rows, joined like the first's.
        rows: The first device's rows, joined.
        marks: Where things happened.
        moments: The five claims with their evidence.
    """

    source_rows: int
    rows_made: int
    rows_stored: int
    rows_lost: int
    rows_duplicated: int
    updates_committed: int
    updates_refused: int
    windows_lost_at_swap: int
    mae: dict[str, dict[str, float]]
    bytes_up: int
    bytes_down: int
    seconds: float
    days: int
    broker: str
    mae_interval: dict[str, dict[str, Interval]]
    hybrid_over_ridge: dict[str, Interval]
    months: list[Month]
    ablation: list[Replay]
    label_delay: list[Replay]
    updates: list[Update]
    reasons: list[str]
    decisions: int
    activation_ms: dict[str, float]
    backlog_rows_largest: int
    rescored_rows: int
    rescored_comparable: int
    rescored_equal: int
    fan: RowCounts
    rows: RowCounts
    marks: Marks
    moments: list[Moment]
