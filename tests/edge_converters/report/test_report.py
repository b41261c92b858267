"""Tests of reports: the same facts as JSON, Markdown and one page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_converters.latency import TargetLatency
from edge_converters.lint import check_data
from edge_converters.operations import Operation
from edge_converters.quantise.answers import latency_s
from edge_converters.quantise.contracts import Budget, Samples
from edge_converters.quantise.search import search
from edge_converters.report import (
    CandidateRow,
    CoverageRow,
    MemoryRow,
    ModelCard,
    OperatorRow,
    ParityRow,
    Report,
    coverage_rows,
    decode_report,
    encode_report,
    markdown_of,
    operator_rows,
    page_of,
    pareto_front,
)
from edge_converters.report.plots import sparkline
from edge_converters.verdict import Verdict, judge
from edge_runtime.errors import BundleError

_ODD = 'a | b <script src="https://evil.example/x.js"></script>'
_LONELY = {"meta"}


class _Page(HTMLParser):
    """Reads a page, and remembers what is open, shown and fetched."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.kinds: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.kinds.append(tag)
        self.fetched += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in _LONELY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.kinds.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def _verdict(**more: Any) -> Verdict:
    facts = {"outcome": "pass", "metric": "auc", "float_value": 0.91, "value": 0.909}
    facts |= {"loss": 0.001, "low": -0.001, "high": 0.003, "max_drop": 0.005, "windows": 900}
    return Verdict(**(facts | more))


CANDIDATES = (
    CandidateRow(
        name="model.tflite",
        format="tflite",
        precision="float32",
        size_bytes=1000,
        p50_us=10.0,
        p95_us=14.0,
        value=0.91,
    ),
    CandidateRow(
        name="model_int8.tflite",
        format="tflite",
        precision="int8",
        size_bytes=300,
        p50_us=6.0,
        p95_us=7.0,
        target=TargetLatency(
            board="raspberry-pi-4",
            how="estimate",
            p50_us=40.0,
            low_us=12.0,
            high_us=80.0,
            source="a README",
        ),
        value=0.909,
        verdict=_verdict(),
        snr_db=31.2,
        is_chosen=True,
    ),
    CandidateRow(
        name="model_int8.onnx",
        format="onnx",
        precision="int8",
        size_bytes=400,
        p50_us=16.0,
        value=0.9,
        verdict=_verdict(outcome="inconclusive", needed=123),
        snr_db=22.0,
        note=_ODD,
    ),
)
PARITY = (
    ParityRow(
        candidate="model_int8.tflite",
        runtime="litert 2.3.0",
        is_sound=True,
        snr_db=31.2,
        largest=0.02,
        top1=0.997,
        saturated=0.0001,
        windows=300,
    ),
    ParityRow(
        candidate="model_int8.tflite",
        runtime="tflite-runtime 2.14.0",
        is_sound=False,
        reason="FULLY_CONNECTED version 12 is not known",
    ),
)
OPERATORS = (
    OperatorRow(
        name="dense",
        kind="FULLY_CONNECTED",
        shape=(1, 8),
        weights=80,
        macs=80,
        alone_db=33.1,
        minimum=-1.5,
        maximum=2.0,
        histogram=(1, 4, 9, 4, 0, 1),
    ),
    OperatorRow(name="head", kind="SOFTMAX", shape=(0, 3), state="float"),
)
COVERAGE = (
    CoverageRow(
        kind="FULLY_CONNECTED",
        version=12,
        precision="int8 weights",
        count=9,
        macs=80,
        lacking=("tflite-runtime 2.14.0",),
        delegated=8,
        alone_db=33.1,
        minimum=-1.5,
        maximum=2.0,
    ),
)


def _report(**more: Any) -> Report:
    facts: dict[str, Any] = {
        "title": "pump@3",
        "outcome": "proven",
        "sentence": "int8 passed and has 30% of float's size",
        "metric": "auc",
        "candidates": CANDIDATES,
        "parity": PARITY,
        "operators": OPERATORS,
        "coverage": COVERAGE,
        "runtimes": ("litert 2.3.0", "tflite-runtime 2.14.0"),
        "memory": (MemoryRow("arena", 13_500, "estimated"),),
        "provenance": {"model": "sha256:00", "litert-quantizer": "0.11.0"},
        "card": ModelCard(description="Hears worn bearings."),
        "notes": ("the rate was assumed",),
    }
    return Report(**(facts | more))


def test_a_report_is_what_was_written() -> None:
    """JSON holds everything: what is read back is equal, and equal reports give equal bytes."""
    report = _report()

    content = encode_report(report)

    assert decode_report(content) == report
    assert encode_report(decode_report(content)) == content
    assert msgspec.json.schema(Report)["$ref"] == "#/$defs/Report"


def test_a_newer_report_is_read_without_what_is_new() -> None:
    """Keys that this version does not know are left out."""
    content = encode_report(_report()).replace(b'"title"', b'"colour": "red", "title"', 1)

    assert decode_report(content) == _report()


@pytest.mark.parametrize("content", [b"{}", b"nothing", b'{"title": 3}', b"\xff"])
def test_other_bytes_are_no_report(content: bytes) -> None:
    """What is no report ends in an error that says which key is wrong."""
    with pytest.raises(BundleError, match="this is no report"):
        decode_report(content)


def test_the_page_needs_nothing_from_outside() -> None:
    """The page fetches nothing, runs no script, closes all it opens, and shows odd text as text."""
    page = _Page(page_of(_report(title=_ODD, sentence=_ODD)))

    assert page.fetched == []
    assert "script" not in page.kinds
    assert page.open == []
    assert _ODD in page.text


def test_the_page_shows_every_part() -> None:
    """Each part has its heading, the verdict comes first, and the chosen file stands out."""
    content = page_of(_report())
    page = _Page(content)

    wanted = ["Files", "Latency on raspberry-pi-4: an estimate", "Parity", "Operators"]
    wanted += ["Operator coverage", "Memory", "Provenance", "Model card", "Notes"]
    assert [one for one in page.text if one in wanted] == wanted
    assert content.index("PROVEN") < content.index("<table>")
    assert content.count('<tr class="chosen"><td>model_int8.tflite</td>') == 1
    assert page.kinds.count("svg") == 4
    assert "estimated time of one window on raspberry-pi-4" in content


def test_the_plot_has_a_dot_and_an_interval_for_each_file() -> None:
    """Three files over size, three over time here, one over time there; a line an interval."""
    content = page_of(_report())

    assert content.count("<circle") == 7
    drawn = re.findall(r'points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', content)
    assert sum(x == other and y != end for x, y, other, end in drawn) == 5
    assert sum(y == end and x != other for x, y, other, end in drawn) == 1


def test_markdown_tables_are_whole() -> None:
    """Every row has as many cells as its head, whatever the text in them."""
    lines = markdown_of(_report()).splitlines()

    tables = [line for line in lines if line.startswith("|")]
    heads = [place for place, line in enumerate(lines) if set(line) <= set("| -") and "---" in line]
    widths = [len(re.findall(r"(?<!\\)\|", lines[place])) for place in heads]
    assert len(heads) == 7
    assert all(len(re.findall(r"(?<!\\)\|", line)) in widths for line in tables)
    assert lines[2].startswith("**PROVEN**: int8 passed")
    assert "inconclusive, need 123 more" in "\n".join(tables)


def test_operators_are_counted_by_kind_version_and_precision() -> None:
    """Two products and one that stayed float are two rows, the dearer first."""
    product = Operation("FULLY_CONNECTED", 4, "int8", 80, is_delegated=True)
    operations = (
        Operation("FULLY_CONNECTED", 1, "float32", 8, ("old 1",), is_delegated=False),
        product,
        product,
    )
    found = (
        OperatorRow(name="a", kind="FULLY_CONNECTED", alone_db=30.0, minimum=-1.0, maximum=2.0),
        OperatorRow(name="b", kind="FULLY_CONNECTED", alone_db=25.0, minimum=-3.0, maximum=1.0),
        OperatorRow(name="c", kind="FULLY_CONNECTED", state="float", alone_db=3.0),
    )

    integer, floating = coverage_rows(operations, found)

    assert (integer.count, integer.macs, integer.delegated) == (2, 160, 2)
    assert (integer.alone_db, integer.minimum, integer.maximum) == (25.0, -3.0, 2.0)
    assert (floating.count, floating.lacking, floating.delegated) == (1, ("old 1",), 0)
    assert floating.alone_db == 3.0


def test_an_empty_report_is_short() -> None:
    """Without data there are no empty tables, only the verdict and the card."""
    report = Report(title="pump@1", outcome="uncalibrated", sentence="nobody gave data")

    text = markdown_of(report)

    assert text.startswith("# pump@1\n\n**NOT CALIBRATED**: nobody gave data\n")
    assert "## Files" not in text
    assert _Page(page_of(report)).open == []


@pytest.mark.parametrize(("metric", "interval"), [("auc", (0.907, 0.911)), ("mae", (0.909, 0.913))])
def test_the_interval_is_that_of_the_metric(metric: str, interval: tuple[float, float]) -> None:
    """A loss of -0.001 to 0.003 puts an AUC between 0.907 and 0.911, and an error the other way."""
    row = CandidateRow(
        name="x", format="onnx", precision="int8", size_bytes=1, verdict=_verdict(metric=metric)
    )

    assert row.interval == pytest.approx(interval)


@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.none() | st.integers(1, 5), st.integers(0, 4)),
        min_size=1,
        max_size=8,
    )
)
def test_no_file_beats_one_on_the_front(costs: list[tuple[int, int | None, int]]) -> None:
    """What is on the front is beaten by none, and what is not is beaten by one on it."""
    rows = [
        CandidateRow(
            name=str(number),
            format="onnx",
            precision="int8",
            size_bytes=size,
            p50_us=time,
            verdict=_verdict(loss=loss / 1000),
        )
        for number, (size, time, loss) in enumerate(costs)
    ]

    front = pareto_front(rows)

    def beats(one: int, other: int) -> bool:
        left, right = ([size, time or 1e9, loss] for size, time, loss in (costs[one], costs[other]))
        return left != right and all(a <= b for a, b in zip(left, right, strict=True))

    for number in range(len(costs)):
        beaten_by = [one for one in range(len(costs)) if beats(one, number)]
        assert (str(number) in front) == (not beaten_by)
        assert not beaten_by or any(str(one) in front for one in beaten_by)


def test_a_sparkline_shows_rare_values() -> None:
    """One value among ten thousand is still seen; empty bins are not drawn."""
    drawn = sparkline([10_000, 0, 1])

    assert drawn.count("<rect") == 2
    assert sparkline([]) == ""


def test_a_search_becomes_a_report(outliers: Any, quantiser_of: Any) -> None:
    """What quantising, searching and judging found goes into one report, and comes out again."""
    quantiser, budget = quantiser_of(outliers), Budget("accuracy", 0.005)
    calibration = quantiser.calibrate(outliers.calibration)
    samples, untouched = Samples(*outliers.search), Samples(*outliers.confirm)
    found = search(quantiser, calibration, samples, budget)
    reference = quantiser.run(quantiser.model, untouched.windows)
    outputs = quantiser.run(found.chosen.model, untouched.windows)
    verdict = judge(budget, untouched, reference, outputs)
    row = CandidateRow(
        name="model_mixed",
        format=quantiser.format,
        precision="mixed",
        size_bytes=len(found.chosen.model),
        p50_us=1e6 * latency_s(quantiser.format, found.chosen.model, untouched.windows, calls=5),
        value=verdict.value,
        verdict=verdict,
        snr_db=found.chosen.snr_db,
        is_chosen=True,
    )

    report = Report(
        title="fan@1",
        outcome="proven",
        sentence=str(verdict),
        metric="accuracy",
        candidates=(row,),
        operators=operator_rows(
            quantiser.operators, calibration, found.ranking, found.chosen.recipe.cures
        ),
        findings=check_data(outliers.calibration, untouched),
    )

    assert decode_report(encode_report(report)) == report
    kept = {one.name: one.state for one in report.operators if one.state != "int8"}
    assert kept == found.chosen.recipe.cures
    assert all(one.histogram for one in report.operators)
    assert _Page(page_of(report)).kinds.count("svg") == 2 + len(report.operators)
