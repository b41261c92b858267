"""Each known way to die has its own remedy."""

from __future__ import annotations

import pytest

from edge_converters.workers.hints import hint_of


@pytest.mark.parametrize(
    ("log", "remedy"),
    [
        ("Lowering tensor list ops is failed. Please consider using Select TF ops", "fixed batch"),
        ("it was killed by SIGSEGV", "tool and your files are unharmed"),
        ("MemoryError: the limit on memory was reached", "--limit-mb"),
        ("it took more than 3 s of wall time", "--limit-s"),
        ("Could not locate class 'Odd'", "a class of your own"),
        ("MissingShapeCalculator: no shape calculator for LOF", "no ONNX converter"),
        ("something nobody has seen", "convert paths"),
    ],
)
def test_a_log_leads_to_its_remedy(log: str, remedy: str) -> None:
    """The most telling line decides."""
    assert remedy in hint_of(log)
