"""Every device the cloud has heard of, in one row each."""

from __future__ import annotations

import msgspec

from edge_cloud.jobs import Jobs
from edge_cloud.store import Store

__all__ = ["DeviceRow", "device_rows"]


class DeviceRow(msgspec.Struct):
    """One device.

    Attributes:
        device: Its id.
        is_online: What it last said; False before its first word.
        runtime: Version of its software.
        rows: Rows that ever came.
        lost_rows: Rows it reported as lost.
        quota_delays: Times its acks began to wait because it was over its quota.
    """

    device: str
    is_online: bool = False
    runtime: str = ""
    rows: int = 0
    lost_rows: int = 0
    quota_delays: int = 0


def device_rows(store: Store) -> list[DeviceRow]:
    """Return all devices, by name."""
    found: dict[str, DeviceRow] = {}

    def of(device: str) -> DeviceRow:
        return found.setdefault(device, DeviceRow(device))

    for life in Jobs(store).lives():
        of(life.device).is_online, of(life.device).runtime = life.is_online, life.runtime
    for extent in store.extents():
        of(extent.device).rows += extent.rows
    for gap in store.gaps():
        of(gap.device).lost_rows += gap.n
    for device, times in store.counters().get("quota_delays_total", {}).items():
        of(device).quota_delays = times
    return [found[device] for device in sorted(found)]
