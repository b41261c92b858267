"""A result on real sensor rows is explained, drawn, or refused with what to do."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

from edge_runtime.config import RecordConfig, load_device
from edge_runtime.errors import BundleError, EdgeError, SourceError
from edge_runtime.identity import ResultId
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.explain import Explanation, explain, page_of, picture_of
from edge_runtime.modes.explain.panels import Chart, sections
from edge_runtime.modes.replay import Bundles

ROOT = Path(__file__).parents[4]
EXAMPLE = ROOT / "examples/gas_turbine"
FIRST, LAST = 15039, 18039


class Recorded(NamedTuple):
    """What a gas turbine of 3,000 hours left behind."""

    folder: Path
    bundle: Path
    decisions: list[dict[str, object]]

    def explain(self, result: str, other: Path | None = None) -> Explanation:
        return explain(ResultId.parse(result), self.folder, Bundles(other))[0]


@pytest.fixture(scope="module")
def turbine(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Run the device of the documentation, recorded, on a bundle of its own."""
    folder = tmp_path_factory.mktemp("turbine")
    shutil.copytree(EXAMPLE / "bundles/turbine-nox-1.0.0", folder / "bundle")
    (folder / "device.yaml").write_text(
        "device: turbine-1\nstate: state\nrecord: {}\n"
        "sinks: [{kind: jsonl, path: out.jsonl, estimates: false}]\n"
        "streams:\n  turbine:\n"
        f"    source: {{kind: csv, path: {EXAMPLE / 'gas_turbine_2011_2015.csv'},\n"
        f"             first_row: {FIRST}, last_row: {LAST},\n"
        "             time: {start: 2013-01-01T00:00:00Z, step_s: 3600}}\n"
        "    model: {bundle: bundle}\n"
    )
    config = load_device(folder / "device.yaml")
    EdgeDevice(config).run(drain_s=0.0)
    lines = (folder / "out.jsonl").read_text().splitlines()
    decisions = [msgspec.json.decode(line) for line in lines]
    return Recorded(config.recording, folder / "bundle", decisions)


def test_a_decision_is_explained_from_its_samples_on(turbine: Recorded) -> None:
    """What the sink showed is made again to the byte, and the smoothed value crosses the limit."""
    shown = turbine.decisions[0]

    told = turbine.explain(str(shown["result"]))

    (decision,) = told.decisions
    assert told.is_equal is True
    assert decision.value == shown["value"]
    assert decision.value >= told.limits[0].on
    assert told.started == ()
    assert [stage.name for stage in told.stages] == [
        "samples",
        "features",
        "normalise",
        "model",
        "score",
        "value",
        "smooth",
        "decide",
    ]
    smoothing = [moment.value[0] for moment in told.history[-3:]]
    assert decision.value == pytest.approx(sum(smoothing) / 3)


def test_an_end_says_that_its_label_had_started(turbine: Recorded) -> None:
    """Hysteresis is told as it stood before this window, not before the block it came in."""
    end = next(one for one in turbine.decisions if one["edge"] == "end")

    told = turbine.explain(str(end["result"]))

    assert told.started == ("nox-high",)
    assert told.is_equal is True


def test_a_window_without_a_decision_is_explained_too(turbine: Recorded) -> None:
    """Its name has four parts."""
    told = turbine.explain(f"turbine-1/1/turbine/{FIRST + 7}")

    assert told.is_equal is True
    assert told.decisions == told.recorded
    assert len(told.history) == 8


def test_the_page_needs_nothing_from_outside(turbine: Recorded) -> None:
    """One file: no script, no link, no address but that of the picture format."""
    result = ResultId.parse(str(turbine.decisions[3]["result"]))

    page = page_of(*explain(result, turbine.folder, Bundles()))

    assert not re.search(r"<script|<link|https?://|url\(", page)
    assert page.count("<svg") == 1 + 9 + 2
    assert str(result) in page
    assert "Byte-equal" in page


def test_limits_are_lines_also_where_there_is_a_single_window(turbine: Recorded) -> None:
    result = ResultId.parse(f"turbine-1/1/turbine/{FIRST}")

    told, found = explain(result, turbine.folder, Bundles())
    _, panels = next(sections(told, found))
    chart = next(panels)

    assert len(told.history) == 1
    assert isinstance(chart, Chart)
    limits = [line for line in chart.lines if line.is_dashed]
    assert len(limits) == 2
    assert all(line.x[0] < told.history[0].index < line.x[-1] for line in limits)


def test_the_picture_shows_what_the_page_shows(turbine: Recorded) -> None:
    """As many drawings below each other, each of them with something on it."""
    image = pytest.importorskip("matplotlib.image")
    result = ResultId.parse(str(turbine.decisions[3]["result"]))

    drawn = picture_of(*explain(result, turbine.folder, Bundles()))

    pixels = image.imread(io.BytesIO(drawn))[:, :, :3]
    # The left axis of each drawing is a black line, parted from the next by its title.
    is_axis = (pixels[:, 60] < 0.2).all(axis=1)
    heights = np.diff(np.flatnonzero(np.diff(is_axis, prepend=False, append=False)))[::2]
    drawings = heights[heights > 60]
    assert len(drawings) == 1 + 9 + 2
    assert pixels.shape[1] == 900
    assert picture_of(*explain(result, turbine.folder, Bundles())) == drawn


def test_another_bundle_says_what_it_would_have_said(turbine: Recorded) -> None:
    """The answer differs, the device's own is told, and it is not called a failure."""
    other = EXAMPLE / "bundles/turbine-nox-2.0.0"

    told = turbine.explain(f"turbine-1/1/turbine/{FIRST + 100}", other)

    assert told.model == "turbine-nox@2.0.0"
    assert told.is_equal is False
    assert told.verdict.startswith("Another bundle answered; the device had value")


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (f"turbine-1/1/turbine/{LAST}", "ends with sample 18038"),
        (f"turbine-1/1/turbine/{FIRST - 1}", f"near it some end with {FIRST}"),
        ("turbine-1/2/turbine/15100", "the tape ends with epoch 1"),
        ("turbine-1/0/turbine/15100", "not on the tape any more"),
        ("turbine-9/1/turbine/15100", "of device 'turbine-1'"),
        ("turbine-1/1/compressor/15100", "no stream 'compressor'"),
        ("turbine-1/1/turbine/15100/turbine-nox/nox-high/start", "no such decision"),
    ],
)
def test_a_result_that_is_not_there_is_told_why(turbine: Recorded, result: str, match: str) -> None:
    """Unknown, expired, of another device, of another stream: each is said with what to do."""
    with pytest.raises(SourceError, match=match) as caught:
        turbine.explain(result)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_a_bundle_that_is_gone_is_named(turbine: Recorded, tmp_path: Path) -> None:
    """Without its bundle a window cannot be answered; a copy from elsewhere will do."""
    away = tmp_path / "elsewhere"
    turbine.bundle.rename(away)
    result = f"turbine-1/1/turbine/{FIRST + 50}"

    try:
        with pytest.raises(BundleError, match=r"turbine-nox@1\.0\.0 .* not there any more"):
            turbine.explain(result)
        told = turbine.explain(result, away)
    finally:
        away.rename(turbine.bundle)

    assert told.is_equal is True


def test_a_tape_that_was_cut_off_explains_what_is_whole(turbine: Recorded, tmp_path: Path) -> None:
    """Behind the cut nothing is known; before it everything is."""
    (path,) = (turbine.folder / "turbine").glob("*.tape")
    (tmp_path / "turbine").mkdir()
    content = path.read_bytes()
    (tmp_path / "turbine" / path.name).write_bytes(content[: len(content) // 2])
    recorded = turbine._replace(folder=tmp_path)

    told = recorded.explain(f"turbine-1/1/turbine/{FIRST + 300}")

    assert told.is_equal is True
    with pytest.raises(EdgeError, match="a crash may have cut it off"):
        recorded.explain(f"turbine-1/1/turbine/{LAST - 1}")


def test_what_the_ring_has_dropped_is_expired(turbine: Recorded, tmp_path: Path) -> None:
    """A ring that is too small for all of it says from which sample on it reaches back."""
    config = load_device(turbine.bundle.parent / "device.yaml")
    config = msgspec.structs.replace(
        config,
        state=tmp_path / "state",
        sinks=(),
        record=RecordConfig(quota_mb=1, folder=tmp_path / "rec"),
    )
    source = {**config.streams["turbine"].source, "first_row": 0, "last_row": 36733}
    streams = {"turbine": msgspec.structs.replace(config.streams["turbine"], source=source)}
    EdgeDevice(msgspec.structs.replace(config, streams=streams)).run(drain_s=0.0)

    recorded = turbine._replace(folder=tmp_path / "rec")

    assert recorded.explain("turbine-1/1/turbine/36000").is_equal is True
    with pytest.raises(SourceError, match=r"epoch 1 begins on it with sample \d+"):
        recorded.explain("turbine-1/1/turbine/100")
