"""JSON lines keep every bit, and a failed write leaves no half line behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import Rejected, Transient
from edge_runtime.quality import MASK, Quality
from edge_runtime.sinks.jsonl import JsonLinesConfig, JsonLinesSink
from edge_runtime.types import Estimates, Output, SideRows


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _write(path: Path, *outputs: Output, estimates: bool = True) -> None:
    sink = JsonLinesSink(JsonLinesConfig(path, estimates))
    sink.open("pump-1")
    for output in outputs:
        sink.write(output)
    sink.close()


def test_every_estimate_and_decision_is_a_line(tmp_path: Path, output: Output) -> None:
    """Lines say what they are, whose they are, and carry every field."""
    _write(tmp_path / "x.jsonl", output)

    first, _, decision = _lines(tmp_path / "x.jsonl")
    assert first == {
        "kind": "estimate",
        "result": "pump-1/0/pump/3",
        "device": "pump-1",
        "stream": "pump",
        "index": 3,
        "start_ns": 0,
        "end_ns": 3_000_000_000,
        "score": [0.15000000000000002, 0.35],
        "value": [0.30000000000000004, 0.7],
        "effective_id": "0123456789abcdef",
    }
    assert decision == {
        "kind": "decision",
        "result": "pump-1/0/pump/7/bearing/worn/start",
        "device": "pump-1",
        "stream": "pump",
        "index": 7,
        "time_ns": 7_000_000_000,
        "model": "bearing",
        "label": "worn",
        "edge": "start",
        "value": 0.912345,
        "effective_id": "0123456789abcdef",
        "tier": "edge",
        "revision": 0,
    }


def test_revisions_retractions_and_samples_set_aside_are_lines(
    tmp_path: Path, output: Output
) -> None:
    """A line says which revision it is, whether it takes something back, and what was left out."""
    told = msgspec.structs.replace(output.estimates, revision=np.array([1, 2]))
    void = msgspec.structs.replace(output.decisions[0], revision=1, is_retracted=True)
    side = SideRows("late", np.array([5]), np.array([[1.5, 2.5]]))
    late = Output("pump", told, (void,), retracted=told, aside=(side,))
    sink = JsonLinesSink(JsonLinesConfig(tmp_path / "x.jsonl", aside=True))

    sink.open("pump-1")
    sink.write(late)
    sink.close()

    lines = _lines(tmp_path / "x.jsonl")
    assert [line.get("revision") for line in lines] == [1, 2, 1, 2, 1, None]
    assert [line.get("is_retracted", False) for line in lines] == [False] * 2 + [True] * 3 + [False]
    assert lines[-1] == {
        "kind": "sample",
        "device": "pump-1",
        "stream": "pump",
        "reason": "late",
        "time_ns": 5,
        "values": [1.5, 2.5],
    }


def test_results_of_one_of_many_devices_say_which(tmp_path: Path, output: Output) -> None:
    """Its name may be any text; it parts no id."""
    _write(tmp_path / "x.jsonl", msgspec.structs.replace(output, device="hall 3/press"))

    lines = _lines(tmp_path / "x.jsonl")
    assert {line["device"] for line in lines} == {"hall 3/press"}
    assert {line["result"].split("/")[0] for line in lines} == {"hall%203%2Fpress"}


def test_a_suspect_sample_says_why(tmp_path: Path, output: Output) -> None:
    """Also where it was set aside."""
    side = SideRows("late", np.array([5, 6]), np.zeros((2, 1)), np.array([0, 1], MASK))
    sink = JsonLinesSink(JsonLinesConfig(tmp_path / "x.jsonl", aside=True))

    sink.open("pump-1")
    sink.write(msgspec.structs.replace(output, aside=(side,)))
    sink.close()

    *_, well, row = _lines(tmp_path / "x.jsonl")
    assert "quality" not in well
    assert row["quality"] == ["saturated"]


def test_a_suspect_row_says_why(tmp_path: Path, output: Output) -> None:
    """Each of its flaws has a name; rows about which nothing is known have no such key."""
    estimates = msgspec.structs.replace(output.estimates, quality=np.array([0, 3], MASK))
    decision = msgspec.structs.replace(output.decisions[0], quality=int(Quality.FROZEN))
    suspect = msgspec.structs.replace(output, estimates=estimates, decisions=(decision,))

    _write(tmp_path / "x.jsonl", suspect)

    well, row, start = _lines(tmp_path / "x.jsonl")
    assert "quality" not in well
    assert row["quality"] == ["saturated", "frozen"]
    assert start["quality"] == ["frozen"]


def test_missing_value_is_null(tmp_path: Path, output: Output) -> None:
    """NaN is no JSON; absence is null."""
    _write(tmp_path / "x.jsonl", output)

    assert _lines(tmp_path / "x.jsonl")[1]["value"] == [None, 1 / 3]


def test_decisions_alone_can_be_written(tmp_path: Path, output: Output) -> None:
    """Estimates can be left out."""
    _write(tmp_path / "x.jsonl", output, estimates=False)

    assert [line["kind"] for line in _lines(tmp_path / "x.jsonl")] == ["decision"]


def test_file_is_appended_to_and_its_folder_made(tmp_path: Path, output: Output) -> None:
    """A restart continues the file."""
    for _ in range(2):
        _write(tmp_path / "new" / "x.jsonl", output)

    assert len(_lines(tmp_path / "new" / "x.jsonl")) == 6


def test_torn_line_of_a_power_cut_stays_alone(tmp_path: Path, output: Output) -> None:
    """What was written after a torn line is readable."""
    (tmp_path / "x.jsonl").write_text('{"kind": "esti')

    _write(tmp_path / "x.jsonl", output)

    torn, *lines = (tmp_path / "x.jsonl").read_text().splitlines()
    assert torn == '{"kind": "esti'
    assert [json.loads(line)["kind"] for line in lines] == ["estimate", "estimate", "decision"]


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_survive_to_the_last_bit(tmp_path: Path, value: float) -> None:
    """Reading a line gives the float64 that was written."""
    path = tmp_path / "x.jsonl"
    path.unlink(missing_ok=True)
    one = np.array([1])
    column = np.array([[value]])

    _write(path, Output("s", Estimates(one, one, one, column, column, None, "id"), ()))

    (line,) = _lines(path)
    assert np.array(line["value"], np.float64).tobytes() == np.array([value]).tobytes()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_device_is_transient(output: Output) -> None:
    """A full disk may have space again later."""
    sink = JsonLinesSink(JsonLinesConfig(Path("/dev/full")))
    sink.open("pump-1")

    with pytest.raises(Transient, match="No space left") as caught:
        sink.write(output)

    sink.close()
    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


LIMITED = """
import resource, signal, sys
from pathlib import Path
from edge_runtime.errors import Transient
from edge_runtime.sinks.jsonl import JsonLinesConfig, JsonLinesSink
from edge_runtime.types import Decision, Estimates, Output
import numpy as np

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
rows = np.arange(4)
value = np.zeros((4, 1))
output = Output("s", Estimates(rows, rows, rows, value, value, None, "id"), ())
sink = JsonLinesSink(JsonLinesConfig(path))
sink.open("pump-1")
sink.write(output)
whole = path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (whole + whole // 2, resource.RLIM_INFINITY))
try:
    sink.write(output)
except Transient:
    assert path.stat().st_size == whole, "a half block stayed"
else:
    raise SystemExit("the limit did not hold")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write(output)
sink.close()
assert path.stat().st_size == 2 * whole
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_block_that_does_not_fit_leaves_no_half_line(tmp_path: Path) -> None:
    """When space runs out within a block, the file is as before, and the retry is whole."""
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x.jsonl")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert len(_lines(tmp_path / "x.jsonl")) == 8


def test_path_that_cannot_be_written_is_rejected(tmp_path: Path) -> None:
    """A folder in place of the file, or a file in place of the folder, will never work."""
    (tmp_path / "file").write_text("")

    for path in (tmp_path, tmp_path / "file" / "x.jsonl"):
        with pytest.raises(Rejected) as caught:
            JsonLinesSink(JsonLinesConfig(path)).open("pump-1")
        assert all((caught.value.where, caught.value.expected, caught.value.remedy))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_missing_permission_is_rejected(tmp_path: Path) -> None:
    """Trying again does not give permission."""
    tmp_path.chmod(0o500)

    with pytest.raises(Rejected, match="Permission denied"):
        JsonLinesSink(JsonLinesConfig(tmp_path / "x.jsonl")).open("pump-1")


def _at(path: Path, *outputs: Output) -> bytes:
    """Write, leave the process as a crash does, and return the last mark."""
    sink = JsonLinesSink(JsonLinesConfig(path))
    sink.open("pump-1")
    for output in outputs:
        sink.write(output)
    return sink.mark(is_durable=True)


def _resumed(path: Path, mark: bytes) -> None:
    sink = JsonLinesSink(JsonLinesConfig(path))
    sink.open("pump-1")
    sink.resume(mark)
    sink.close()


def test_what_came_after_the_mark_is_taken_back(tmp_path: Path, output: Output) -> None:
    """Whole lines and a torn one: the file ends where the mark was made."""
    path = tmp_path / "x.jsonl"
    mark = _at(path, output)
    before = path.read_bytes()
    _at(path, output)
    with path.open("ab") as file:
        file.write(b'{"kind": "esti')

    _resumed(path, mark)

    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "of somebody else\n" * 1000])
def test_a_file_that_was_replaced_is_left_alone(tmp_path: Path, output: Output, text: str) -> None:
    """A mark is about one file, not about its name."""
    path = tmp_path / "x.jsonl"
    mark = _at(path, output)
    path.rename(tmp_path / "rotated.jsonl")
    path.write_text(text)

    _resumed(path, mark)

    assert path.read_text() == text


def test_a_file_that_was_cut_is_not_filled_up(tmp_path: Path, output: Output) -> None:
    """Somebody emptied the file: it goes on from its new end."""
    path = tmp_path / "x.jsonl"
    mark = _at(path, output)
    os.truncate(path, 0)

    _resumed(path, mark)

    assert path.read_bytes() == b""


@pytest.mark.parametrize("call", ["mark", "resume"])
def test_marks_are_of_an_open_file(tmp_path: Path, call: str) -> None:
    """A sink that is not open has no mark, and none to go back to."""
    sink = JsonLinesSink(JsonLinesConfig(tmp_path / "x.jsonl"))

    with pytest.raises(Rejected, match="is not open"):
        sink.mark(is_durable=False) if call == "mark" else sink.resume(b"")


def test_writing_before_open_is_rejected(tmp_path: Path, output: Output) -> None:
    """A sink that is not open takes nothing."""
    with pytest.raises(Rejected, match="is not open"):
        JsonLinesSink(JsonLinesConfig(tmp_path / "x.jsonl")).write(output)


def test_pipes_are_written_too(tmp_path: Path, output: Output) -> None:
    """A named pipe is as good as a file."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    _write(tmp_path / "pipe", output)

    assert os.read(reader, 1 << 16).count(b"\n") == 3
    assert _at(tmp_path / "pipe", output) == b""
    _resumed(tmp_path / "pipe", b"")
    os.close(reader)
