"""The gate before the keyword model stops noise and no word, as its page says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.ports import Choice
from edge_runtime.update.admission import admit
from examples.keyword_gate.measure import (
    accuracy,
    bundle_of,
    gate_level,
    listen,
    load,
    main,
    quiet_of,
    room,
)

pytest.importorskip("ai_edge_litert")


def test_no_answer_to_a_word_is_lost(tmp_path: Path) -> None:
    """The threshold of one half of the clips leaves the accuracy on the other what it is."""
    tuning, judged = load()

    found = accuracy(
        bundle_of(tmp_path / "plain", None),
        bundle_of(tmp_path / "gated", gate_level(tuning)),
        judged,
    )

    assert found["right_with"] == found["right_without"] == 230
    assert found["words_stopped"] == 0
    assert 0 < found["noise_stopped"] < found["noise"]


def test_a_quiet_room_asks_the_model_little(tmp_path: Path) -> None:
    """The same words start, and the model hears about every seventh window."""
    tuning, judged = load()
    level = gate_level(tuning)
    audio = room(judged, quiet_of(judged, level), 6)

    alone = listen(bundle_of(tmp_path / "plain", None), audio)
    behind = listen(bundle_of(tmp_path / "gated", level), audio)

    assert behind.starts == alone.starts
    assert len(behind.starts) >= 4
    assert behind.answered["model"] < 0.15 * sum(behind.answered.values())
    assert alone.answered == {}


def test_the_bundle_is_admitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its golden windows take both ways through the cascade."""
    code = main(["--save", str(tmp_path / "gated")])

    verdict = admit(tmp_path / "gated", Choice())
    assert code == 0
    assert "keywords-gated@1" in capsys.readouterr().out
    assert verdict.reason == ""


def test_the_page_shows_what_was_measured() -> None:
    """The figures of the page are those kept beside the script."""
    page = Path(__file__).parents[2] / "docs" / "howto" / "cascade.md"
    kept = json.loads((page.parents[2] / "examples/keyword_gate/result.json").read_text())

    text = page.read_text()

    quiet, noisy = kept["quiet_room"], kept["any_noise"]
    for row in (quiet, noisy):
        assert f"{row['us_without']} µs | {row['us_with']} µs" in text
        assert row["with"] == row["without"]
    assert np.isclose(kept["level"], gate_level(load()[0]))
