import io
import re
from pathlib import Path

from rich.console import Console

from edge_simulator.demo.evaluate import Answers
from edge_simulator.demo.outcome import Outcome
from edge_simulator.demo.plots import draw_all
from edge_simulator.demo.report import error_table, moments_text, write_report


def test_the_page_needs_nothing_from_outside(
    tmp_path: Path, answers: Answers, outcome: Outcome
) -> None:
    """Every picture is inside the one file; nothing is fetched from anywhere."""
    pictures = draw_all(tmp_path, answers, outcome, [(16_100, 0), (16_436, 336), (16_440, 0)])

    write_report(tmp_path / "report.html", outcome, pictures)

    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(pictures) == 6
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert "<script" not in page


def test_the_page_tells_the_five_moments_with_their_evidence(
    tmp_path: Path, outcome: Outcome
) -> None:
    """Each moment stands there with its figures, and one that failed is marked as failed."""
    write_report(tmp_path / "report.html", outcome, [])

    page = (tmp_path / "report.html").read_text()
    for moment in outcome.moments:
        assert moment.title in page
        assert moment.evidence in page
    assert page.count('<li class="holds">') == 4
    assert page.count('<li class="fails">') == 1


def test_text_from_outside_is_escaped(tmp_path: Path, outcome: Outcome) -> None:
    """A name with angle brackets is text on the page, never a tag."""
    write_report(tmp_path / "report.html", outcome, [])

    page = (tmp_path / "report.html").read_text()
    assert "a &lt;thief&gt;" in page
    assert "<thief>" not in page


def test_pictures_without_numbers_are_left_out(
    tmp_path: Path, answers: Answers, outcome: Outcome
) -> None:
    """A run without replays or cut draws no empty picture of them."""
    outcome.ablation, outcome.label_delay = [], []
    outcome.marks.cut_first_row = outcome.marks.cut_last_row = None

    pictures = draw_all(tmp_path, answers, outcome, [])

    names = [name for name, _, _ in pictures]
    assert names == ["error_by_month.png", "error_by_year.png", "week.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(names)


def test_the_terminal_gets_the_same_figures(outcome: Outcome) -> None:
    """Table and moments fit an ordinary terminal and carry the hybrid's figures."""
    console = Console(width=80, record=True, file=io.StringIO())

    console.print(error_table(outcome))
    console.print(moments_text(outcome))

    text = console.export_text()
    assert f"{outcome.mae['hybrid']['2014']:.2f} [" in text
    assert text.count("✓") == 4
    assert text.count("✗") == 1
