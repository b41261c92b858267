"""The number of a machine."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.sync.identity.serials import machine_serial


def test_the_boards_number_comes_first(tmp_path: Path) -> None:
    """The device tree ends texts with a NUL, and goes before the installation's number."""
    board, installation = tmp_path / "serial-number", tmp_path / "machine-id"
    board.write_bytes(b"10000000a1b2c3d4\0")
    installation.write_text("0123456789abcdef\n")

    assert machine_serial((board, installation)) == "10000000a1b2c3d4"


def test_an_installation_stands_in_and_nothing_is_nothing(tmp_path: Path) -> None:
    """Without a board's number the installation's is taken; an empty file is none."""
    empty, installation = tmp_path / "empty", tmp_path / "machine-id"
    empty.write_text("\n")
    installation.write_text("0123456789abcdef\n")

    assert machine_serial((empty, installation)) == "0123456789abcdef"
    assert machine_serial((empty, tmp_path / "missing")) is None
