"""Boards are known by what the kernel calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.boards import BOARDS, board_here


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("Raspberry Pi Zero 2 W Rev 1.0", "raspberry-pi-zero-2w"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "raspberry-pi-3"),
        ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi-4"),
        ("Raspberry Pi 400 Rev 1.0", "raspberry-pi-4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "raspberry-pi-5"),
        ("NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin"),
        ("Some other board", "desktop"),
    ],
)
def test_a_board_is_known_by_its_device_tree(tmp_path: Path, told: str, name: str) -> None:
    """The kernel ends the name with a zero byte."""
    model = tmp_path / "model"
    model.write_text(told + "\0")

    assert board_here(model).name == name


def test_a_machine_without_a_device_tree_is_a_desktop(tmp_path: Path) -> None:
    """Most x86 machines have none."""
    assert board_here(tmp_path / "none").name == "desktop"


def test_a_board_has_the_name_it_is_listed_under() -> None:
    """Nobody can ask for one board and get another."""
    assert all(board.name == name for name, board in BOARDS.items())
