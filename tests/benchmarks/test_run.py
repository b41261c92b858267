"""One suite that fails takes no other with it, and children answer round by round."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Load = Callable[[str], ModuleType]


def test_what_goes_wrong_becomes_a_note(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that cannot be measured here is named with the reason; an error with its message."""
    run, results = load("run"), load("results")
    notes: dict[str, str] = {}

    def absent(*, rounds: int) -> list[object]:
        raise results.Skipped(f"not in {rounds} rounds")

    def broken(*, rounds: int) -> list[object]:
        raise ValueError(f"{rounds}\nsecond line")

    found = run._measured("a", absent, 3, notes) + run._measured("b", broken, 4, notes)

    assert found == []
    assert notes == {"a": "not in 3 rounds", "b": "ValueError: 4"}
    assert "b: 0 rows" in capsys.readouterr().err


def test_only_chosen_parts_run(load: Load) -> None:
    """Ids, their beginnings, and beginnings that a part declares."""
    run = load("run")

    names = [name for name, _ in run._parts(("swap_lost", "scaling_hop_1", "rss"), {})]

    assert names == ["scaling_hop", "rss_litert_mb", "rss_ort_mb", "swap_lost swap_cpu_ms"]


def _child(tmp_path: Path, body: str) -> list[str]:
    script = tmp_path / "child.py"
    folder = Path(__file__).parents[2] / "benchmarks"
    script.write_text(f"import sys\nsys.path.append({str(folder)!r})\n{body}")
    return [sys.executable, str(script)]


def test_children_measure_in_turn(load: Load, tmp_path: Path) -> None:
    """The first round warms up and is not kept; what a child prints by the way does no harm."""
    rounds = load("rounds")
    body = (
        "from rounds import serve\n"
        "count = []\n"
        "def measure():\n"
        "    count.append(1)\n"
        "    print('noise')\n"
        "    return {'n': len(count)}\n"
        "serve(measure, version='1.2')\n"
    )
    with rounds.Worker(_child(tmp_path, body)) as worker:
        answers = rounds.interleave({"one": worker}, 3)
        hello = worker.hello

    assert hello == {"version": "1.2"}
    assert answers == {"one": [{"n": 2}, {"n": 3}, {"n": 4}]}


def test_a_child_that_ends_says_why(load: Load, tmp_path: Path) -> None:
    """Its last words are in the error."""
    rounds = load("rounds")

    with pytest.raises(RuntimeError, match="no such engine"):
        rounds.Worker(_child(tmp_path, "sys.exit('no such engine')"))
