"""What the search through a tape brings: one window, answered again."""

from __future__ import annotations

import msgspec

from edge_runtime.modes.explain.context import Signal
from edge_runtime.pipeline import Trace
from edge_runtime.spec import ModelSpec
from edge_runtime.tape import Answer
from edge_runtime.types import Decision

__all__ = ["Found", "Moment", "Said"]


class Moment(msgspec.Struct, frozen=True):
    """A window of the time before, as smoothing and limits saw it.

    Attributes:
        index: Stream index of its last sample.
        end_ns: Time of that sample.
        value: A number for each label.
        smoothed: The same; None while there are too few values.
        decisions: Made on it.
    """

    index: int
    end_ns: int
    value: list[float]
    smoothed: list[float] | None
    decisions: tuple[Decision, ...]


class Said(msgspec.Struct, frozen=True):
    """What was said of one window, each time in the order in which it was.

    Attributes:
        answers: One, and one for each revision that late samples made.
        decisions: On this window, revisions included.
    """

    answers: tuple[Answer, ...]
    decisions: tuple[Decision, ...]


class Found(msgspec.Struct, frozen=True, eq=False):
    """A window on a tape, answered again.

    Attributes:
        trace: Of it; where late samples have changed it, as it was answered last.
        spec: Of the base that answered.
        base: Digest of that base.
        layers: Kinds and digests of its layers.
        backend: What ran it, for people.
        signal: Raw samples up to the window's last.
        clock: How far the sensor's times may be trusted.
        moments: The windows before, oldest first; it is the last.
        said: What was said of it, again.
        compared: The part of that beside which the device's own answers are on the tape.
        recorded: What the device had said.
        is_same_bundle: Whether the bundle is that of the tape.
    """

    trace: Trace
    spec: ModelSpec
    base: str
    layers: list[str]
    backend: str
    signal: Signal
    clock: str
    moments: list[Moment]
    said: Said
    compared: Said
    recorded: Said
    is_same_bundle: bool
