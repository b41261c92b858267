"""What ``edge-runtime run`` says at its end."""

from __future__ import annotations

from edge_runtime.cli.run import summary_of
from edge_runtime.modes.status import DeviceStatus, StreamStatus
from edge_runtime.ports import SourceHealth


def test_what_was_wrong_with_a_sensor_is_said() -> None:
    """Garbage, losses and failures stand in the line of the stream, if there were any."""
    health = SourceHealth(lost_samples=1, faults={"unparsable": 7, "framing": 2, "checksum": 0})
    status = DeviceStatus(
        device="fan-1",
        streams={
            "well": StreamStatus(position=1, estimates=2, effective_id="e"),
            "ill": StreamStatus(effective_id="e", restarts=2, source=health),
        },
        backlog_rows=1,
        is_connected=False,
        counters={},
    )

    assert summary_of(status).splitlines() == [
        "well: 1 sample read, 2 windows, 0 decisions, effective e",
        "ill: 0 samples read, 0 windows, 0 decisions, effective e; of its sensor: 2 framing, "
        "7 unparsable, 1 sample lost, opened again 2 times",
        "1 row waits for the cloud; it is kept.",
    ]
