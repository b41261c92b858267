"""What ``tune`` found is told with what runs; what nobody measured is not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_runtime.machine import Machine
from edge_runtime.modes.board_times import board_times
from edge_runtime.ports import Choice
from edge_runtime.profiles import Measured, Profile, write_profile

BASE = "a" * 64
SHA = "b" * 64


@pytest.fixture
def profile() -> Profile:
    """One way on one thread, one on two, one on an accelerator."""
    choices = (
        Choice("litert", "model.tflite", 1),
        Choice("litert", "model.tflite", 2),
        Choice("litert", "model.tflite", 1, "edgetpu"),
    )
    ranked = tuple(Measured(one, "int8", 12.0, 12.0, 8.0, SHA) for one in choices)
    return Profile(BASE, "pump@1", Machine.here(), "latency", ranked, 5, "raspberry-pi-4")


def test_one_thread_of_the_processor_is_told(profile: Profile, tmp_path: Path) -> None:
    """Other boards of the kind can be compared by it alone."""
    write_profile(profile, tmp_path)

    told = board_times(BASE, tmp_path)

    assert told is not None
    assert (told.base, told.board, told.made_ns) == (BASE, "raspberry-pi-4", 5)
    assert told.machine == Machine.here().key
    (file,) = told.files
    assert (file.sha256, file.backend, file.engine_us) == (SHA, "litert", 8.0)


def test_a_base_that_was_never_measured_has_no_times(profile: Profile, tmp_path: Path) -> None:
    """Nor has one whose profile is of other runtimes, or of before times were kept."""
    assert board_times(BASE, tmp_path) is None
    elsewhere = msgspec.structs.replace(profile.machine, cores=99)
    write_profile(msgspec.structs.replace(profile, machine=elsewhere), tmp_path)
    assert board_times(BASE, tmp_path) is None
    write_profile(msgspec.structs.replace(profile, board=""), tmp_path)
    assert board_times(BASE, tmp_path) is None
    untimed = tuple(
        msgspec.structs.replace(one, engine_us=0.0, sha256="") for one in profile.ranked
    )
    write_profile(msgspec.structs.replace(profile, ranked=untimed), tmp_path)
    assert board_times(BASE, tmp_path) is None
