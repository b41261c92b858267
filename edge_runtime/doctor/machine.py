"""Everything about a machine but its model runtimes."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.config import DeviceConfig
from edge_runtime.doctor.board import look_at_board, look_at_heat, look_at_power, look_at_system
from edge_runtime.doctor.buses import look_at_buses
from edge_runtime.doctor.clock import look_at_clock
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.link import look_at_link
from edge_runtime.doctor.storage import look_at_storage
from edge_runtime.doctor.waiting import look_at_outbox
from edge_runtime.sync.identity.folder import IdentityFolder

__all__ = ["look_around"]


def look_around(config: DeviceConfig | None = None, root: Path = Path("/")) -> tuple[Finding, ...]:
    """Look at board, system, heat, power, storage, clock and buses; and at a device's link.

    Args:
        config: A device: its ``state`` folder and broker are looked at too.
        root: Where the machine's files are; another machine's may be copied below it.
    """
    folder = Path(config.state) if config is not None else Path.cwd()
    findings = [
        *look_at_board(root),
        *look_at_system(root),
        *look_at_heat(root),
        *look_at_power(root),
        *look_at_storage(folder),
        *look_at_outbox(folder),
        *look_at_clock(root),
        *look_at_buses(root),
    ]
    if config is not None and config.sync is not None:
        findings += look_at_link(IdentityFolder(config.identity).completed(config.sync))
    return tuple(findings)
