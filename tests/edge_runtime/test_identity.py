"""What a result is called can be read back, whatever its label."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.identity import ResultId, decision_id
from edge_runtime.types import Decision

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True)
NUMBERS = st.integers(0, 2**63 - 1)
# What JSON and a command line can carry: no half of a surrogate pair.
LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(NAMES, NUMBERS, NAMES, NUMBERS)
def test_a_window_is_read_back(device: str, epoch: int, stream: str, index: int) -> None:
    """Four parts name a window."""
    result = ResultId(device, epoch, stream, index)

    assert ResultId.parse(str(result)) == result


@given(NAMES, NUMBERS, NAMES, NUMBERS, NAMES, LABELS, st.sampled_from(["start", "end"]))
def test_a_decision_is_read_back(
    device: str, epoch: int, stream: str, index: int, model: str, label: str, edge: str
) -> None:
    """Seven parts name a decision, also where its label holds slashes, blanks and signs."""
    decision = Decision(stream, index, 0, model, label, edge, 1.0, "id")  # type: ignore[arg-type]

    result = decision_id(device, epoch, decision)

    assert ResultId.parse(str(result)) == result
    assert str(result).count("/") == 6
    assert result.names(decision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "pump/1/main",
        "pump/1/main/7/m",
        "pump/x/main/7",
        "pump/1/main/-7",
        "pump/1/main/7/m/l/begin",
        "pump/1/main/٧",
        "../1/main/7",
        "pump/1/main/7/m/l/start/",
        f"pump/1/main/{2**63}",
    ],
)
def test_what_is_no_result_is_refused(text: str) -> None:
    """A name that no sink shows is an error that says what one looks like."""
    with pytest.raises(ConfigError):
        ResultId.parse(text)
