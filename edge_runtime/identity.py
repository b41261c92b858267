"""What a result is called, wherever it is shown: ``device/epoch/stream/index``.

That names the window which ends with this sample, and so its estimate. A decision
made on it has three parts more: ``…/model/label/edge``.
"""

from __future__ import annotations

from typing import Literal, cast
from urllib.parse import quote, unquote

import msgspec

from edge_runtime.errors import ConfigError
from edge_runtime.types import Decision, check_name

__all__ = ["ResultId", "decision_id"]

_WINDOW_PARTS, _DECISION_PARTS = 4, 7
_EDGES = ("start", "end")
_LARGEST = 1 << 63


class ResultId(msgspec.Struct, frozen=True):
    """A window, or a decision made on it.

    Attributes:
        device: Device id.
        epoch: Which start of the device's process.
        stream: Name of the stream.
        index: Stream index of the window's last sample.
        model: Model line of a decision; None for the window itself.
        label: Its label.
        edge: Whether the label starts or ends.
    """

    device: str
    epoch: int
    stream: str
    index: int
    model: str | None = None
    label: str | None = None
    edge: Literal["start", "end"] | None = None

    def __str__(self) -> str:
        window = f"{self.device}/{self.epoch}/{self.stream}/{self.index}"
        if self.model is None:
            return window
        # A label may be any text; a slash or a blank in it must not part the id.
        return f"{window}/{self.model}/{quote(self.label or '', safe='')}/{self.edge}"

    def names(self, decision: Decision) -> bool:
        """Whether it is this decision's, device and epoch aside."""
        mine = (self.stream, self.index, self.model, self.label, self.edge)
        its = (decision.stream, decision.index, decision.model, decision.label, decision.edge)
        return mine == its

    @classmethod
    def parse(cls, text: str) -> ResultId:
        """Read what a result is called.

        Raises:
            ConfigError: It is no such name.
        """
        parts = text.split("/")
        if len(parts) not in (_WINDOW_PARTS, _DECISION_PARTS):
            raise _unreadable(text, f"it has {len(parts)} parts")
        device, epoch, stream, index, *decision = parts
        check_name(device, "device id")
        check_name(stream, "stream name")
        window = cls(device, _number(epoch, text), stream, _number(index, text))
        return _of_decision(window, decision, text) if decision else window


def decision_id(device: str, epoch: int, decision: Decision) -> ResultId:
    """Return what a decision of this device and epoch is called."""
    return ResultId(
        device,
        epoch,
        decision.stream,
        decision.index,
        decision.model,
        decision.label,
        decision.edge,
    )


def _of_decision(window: ResultId, parts: list[str], text: str) -> ResultId:
    model, label, edge = parts
    check_name(model, "model name")
    if edge not in _EDGES:
        raise _unreadable(text, f"its last part is {edge!r}, not start or end")
    known = cast(Literal["start", "end"], edge)
    return msgspec.structs.replace(window, model=model, label=unquote(label), edge=known)


def _number(part: str, text: str) -> int:
    if not (part.isascii() and part.isdigit() and int(part) < _LARGEST):
        raise _unreadable(text, f"{part!r} is no whole number")
    return int(part)


def _unreadable(text: str, what: str) -> ConfigError:
    return ConfigError(
        what,
        where=f"result id {text[:200]!r}",
        expected="DEVICE/EPOCH/STREAM/INDEX, or that and /MODEL/LABEL/EDGE",
        remedy="Copy it from where the result is shown, such as the key 'result' of a JSON line.",
    )
