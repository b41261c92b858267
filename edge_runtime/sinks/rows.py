"""Results as rows of builtins, for every sink that writes JSON."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import msgspec

from edge_runtime.identity import decision_id
from edge_runtime.quality import names_of_mask
from edge_runtime.types import Decision, Estimates, Output, SideRows

__all__ = ["id_device", "rows_of"]

# Columns of estimates that only some streams have.
_FURTHER = ("revision", "uncertain", "stage")


def rows_of(
    device: str, epoch: int, output: Output, *, estimates: bool, aside: bool = False
) -> Iterator[dict[str, object]]:
    """Yield one row for every decision, and for what else is wanted.

    ``result`` is what an estimate or a decision is called, see `ResultId`. A row has
    ``quality``, the names of what is suspect about its window or its sample, only where
    something is.

    Args:
        device: Goes into every row, where the results do not say which device they are of.
        epoch: Which start of the device it is.
        output: The results.
        estimates: Whether estimates are wanted, those that are taken back included.
        aside: Whether samples that gave no result are.
    """
    head = {"device": output.device or device, "stream": output.stream}
    device = id_device(device, output)
    window = f"{device}/{epoch}/{output.stream}"
    if estimates:
        for row in _estimates(output.estimates):
            yield {"kind": "estimate", "result": f"{window}/{row['index']}", **head, **row}
        for row in () if output.retracted is None else _estimates(output.retracted):
            result = f"{window}/{row['index']}"
            yield {"kind": "estimate", "result": result, **head, **row, "is_retracted": True}
    for decision in output.decisions:
        result = str(decision_id(device, epoch, decision))
        yield {"kind": "decision", "result": result, **head, **_decision(decision)}
    for side in output.aside if aside else ():
        for row in _samples(side):
            yield {"kind": "sample", **head, **row}


def id_device(device: str, output: Output) -> str:
    """Return the device in what a result is called.

    The key of one of many devices may be any text; a slash in it must not part the id.
    """
    return device if output.device is None else quote(output.device, safe="")


def _decision(decision: Decision) -> dict[str, object]:
    row = msgspec.structs.asdict(decision)
    if not decision.is_retracted:
        del row["is_retracted"]
    return row | _quality(row.pop("quality"))


def _samples(side: SideRows) -> Iterator[dict[str, object]]:
    masks = [0] * len(side) if side.quality is None else side.quality.tolist()
    rows = zip(side.time_ns.tolist(), side.samples.tolist(), masks, strict=True)
    for time_ns, values, mask in rows:
        yield {"reason": side.reason, "time_ns": time_ns, "values": values, **_quality(mask)}


def _estimates(estimates: Estimates) -> Iterator[dict[str, object]]:
    columns = (
        estimates.index.tolist(),
        estimates.start_ns.tolist(),
        estimates.end_ns.tolist(),
        estimates.score.tolist(),
        estimates.value.tolist(),
        [0] * len(estimates) if estimates.quality is None else estimates.quality.tolist(),
    )
    further = {
        name: column.tolist()
        for name in _FURTHER
        if (column := getattr(estimates, name)) is not None
    }
    for number, row in enumerate(zip(*columns, strict=True)):
        index, start_ns, end_ns, score, value, mask = row
        yield {
            "index": index,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "score": score,
            "value": value,
            "effective_id": estimates.effective_id,
            **{name: column[number] for name, column in further.items()},
            **_quality(mask),
        }


def _quality(mask: int) -> dict[str, object]:
    return {"quality": names_of_mask(mask)} if mask else {}
