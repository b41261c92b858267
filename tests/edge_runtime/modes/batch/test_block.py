"""Blocks grow only where they were seen to answer like single windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.backends import open_session
from edge_runtime.backends.reference import ReferenceSession
from edge_runtime.bundle import load_bundle
from edge_runtime.modes.batch import block
from edge_runtime.modes.batch.block import with_proven_block
from edge_runtime.ports import Choice
from edge_runtime.testing import FakeClock

# The two scores are a softmax: it sees differences between them alone.
SIDES = np.array([1, -1], np.float32)


class SlowClock(FakeClock):
    """A clock by which every model is slow."""

    def monotonic_ns(self) -> int:
        self.advance(0.001)
        return super().monotonic_ns()


def test_a_small_model_gets_a_large_block(make_bundle: Any) -> None:
    """A network of a few microseconds is mostly overhead, window by window."""
    assert with_proven_block(make_bundle(), Choice(), FakeClock()).block == 1024


def test_long_windows_get_smaller_blocks(make_bundle: Any) -> None:
    """A block holds about 64 Ki values."""
    assert with_proven_block(make_bundle(256, 256), Choice(), FakeClock()).block == 64


def test_a_slow_model_keeps_its_block(make_bundle: Any) -> None:
    """Where the model takes its time there is nothing to gain, and a proof would be long."""
    assert with_proven_block(make_bundle(), Choice(block=8), SlowClock()).block == 8


@pytest.fixture
def differ(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Make blocks answer so far from their windows alone."""
    honest = ReferenceSession.run

    def set_difference(difference: float) -> None:
        def run(self: ReferenceSession, batch: np.ndarray) -> np.ndarray:
            return honest(self, batch) + np.float32(difference if len(batch) > 1 else 0) * SIDES

        monkeypatch.setattr(ReferenceSession, "run", run)

    return set_difference


def test_a_block_that_answers_otherwise_is_refused(
    make_bundle: Any, differ: Callable[[float], None]
) -> None:
    """A little between a block and its windows alone, and the block stays as it was."""
    differ(1e-5)

    assert with_proven_block(make_bundle(), Choice(), FakeClock()).block == 32


@pytest.mark.parametrize(("difference", "expected"), [(1e-5, 1024), (0.1, 32), (np.nan, 32)])
def test_an_accelerator_may_answer_a_few_bits_apart(
    make_bundle: Any,
    differ: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
    difference: float,
    expected: int,
) -> None:
    """Within the bundle's tolerance, and however long a call takes to start."""
    monkeypatch.setattr(block, "open_session", lambda bundle, _: open_session(bundle, Choice()))
    differ(difference)

    found = with_proven_block(make_bundle(), Choice(accelerator="cuda"), SlowClock())

    assert found.block == expected


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_real_bundles_are_proven(version: str) -> None:
    """The gas turbine's int8 networks answer 1024 rows at once as they answer one."""
    bundle = load_bundle(f"examples/gas_turbine/bundles/turbine-nox-{version}")

    assert with_proven_block(bundle, Choice(), FakeClock()).block == 1024
