"""A target names the runtimes that must run a file."""

from __future__ import annotations

import pytest

from edge_converters.targets import LEGACY, target_of
from edge_runtime.boards import BOARDS
from edge_runtime.errors import ConfigError


@pytest.mark.parametrize("name", sorted(BOARDS))
def test_every_board_is_a_target(name: str) -> None:
    """With a runtime for both formats."""
    target = target_of(name)

    assert target.runtimes_of("tflite")
    assert target.runtimes_of("onnx")


def test_the_old_runtime_is_asked_where_it_runs() -> None:
    """On 32-bit boards, and where somebody names it."""
    with_legacy = {name for name in (*BOARDS, "tflite-runtime-2.14") if target_of(name).has_legacy}

    assert with_legacy == {"raspberry-pi-32bit", "tflite-runtime-2.14"}
    assert LEGACY.worker == "verify-legacy"


def test_an_unknown_target_gets_the_nearest_name() -> None:
    """Exit code 2, and a suggestion."""
    with pytest.raises(ConfigError, match="raspberry-pi-4") as raised:
        target_of("raspbery-pi-4")

    assert raised.value.exit_code == 2
