import numpy as np
import pytest

from edge_simulator.demo.evaluate import (
    Answers,
    errors_by_month,
    errors_by_year,
    ratios_by_year,
)
from edge_simulator.demo.judge import RowCounts
from edge_simulator.demo.outcome import Marks, Moment, Outcome, Replay, Update


@pytest.fixture(scope="session")
def answers() -> Answers:
    """Answers to 80 days of two years, with the hybrid best and the network worst."""
    random = np.random.default_rng(11)
    rows = 80 * 24
    truth = 60 + 10 * np.sin(np.arange(rows) / 30)
    spread = {"edge_only": 9.0, "cloud_only": 6.0, "ridge_only": 4.0, "hybrid": 3.0}
    return Answers(
        row=np.arange(15_039, 15_039 + rows),
        year=np.repeat([2013, 2014], rows // 2),
        truth=truth,
        variants={name: truth + random.normal(0, sd, rows) for name, sd in spread.items()},
        effective_id=np.full(rows, "ab" * 8),
    )


@pytest.fixture
def outcome(answers: Answers) -> Outcome:
    """A run in which everything held."""
    errors = errors_by_year(answers)
    rows = len(answers.row)
    replay = Replay("24", {"2013": 3.0, "2014": 3.0}, {"2013": 4.0, "2014": 4.0})
    return Outcome(
        source_rows=rows,
        rows_made=rows,
        rows_stored=rows,
        rows_lost=0,
        rows_duplicated=0,
        updates_committed=80,
        updates_refused=2,
        windows_lost_at_swap=0,
        mae={name: {year: i.value for year, i in by.items()} for name, by in errors.items()},
        bytes_up=2_000_000,
        bytes_down=1_800_000,
        seconds=61.0,
        days=80,
        broker="iotcore",
        mae_interval=errors,
        hybrid_over_ridge=ratios_by_year(answers, "hybrid", "ridge_only"),
        months=errors_by_month(answers),
        ablation=[replay, replay],
        label_delay=[replay],
        updates=[
            Update("base turbine-nox@2.0.0", "the release key", 40, "committed", "", 0.7),
            Update("a wild layer", "a <thief>", 50, "refused", "clamp: residual", 0.1),
        ],
        reasons=["clamp: residual"],
        decisions=414,
        activation_ms={"median": 0.3, "p99": 1.5, "largest": 13.0},
        backlog_rows_largest=336,
        rescored_rows=rows,
        rescored_comparable=rows,
        rescored_equal=rows,
        fan=RowCounts(72, 72, 0, 0, 0),
        rows=RowCounts(rows, rows, 0, 0, 0),
        marks=Marks(16_000, 16_100, 16_436, 16_500),
        moments=[
            Moment(f"Moment {number}", f"Evidence {number}.", holds=number != 5)
            for number in range(1, 6)
        ],
    )
