"""Hold a demo's result against what it must reach: judge_demo.py RESULT.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HYBRID_BARS = {"2013": 4.1, "2014": 3.5, "2015": 3.2}
RIDGE_SHARE = 0.90
SECONDS = 120
COUNTS = {"rows_lost": 0, "rows_duplicated": 0, "windows_lost_at_swap": 0, "updates_refused": 2}


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Return each demand as a sentence with the figure in it, and whether it holds."""
    found = {
        f"{name} is {result[name]}, must be {bar}": result[name] == bar
        for name, bar in COUNTS.items()
    }
    hybrid, ridge = result["mae"]["hybrid"], result["mae"]["ridge_only"]
    for year, bar in HYBRID_BARS.items():
        share = hybrid[year] / ridge[year]
        found[f"hybrid MAE {year} is {hybrid[year]:.2f}, must be at most {bar}"] = (
            hybrid[year] <= bar
        )
        found[f"hybrid over ridge {year} is {share:.2f}, must be at most {RIDGE_SHARE}"] = (
            share <= RIDGE_SHARE
        )
    found[f"the run took {result['seconds']:.0f} s, must take at most {SECONDS}"] = (
        result["seconds"] <= SECONDS
    )
    stored = result["source_rows"] == result["rows_made"] == result["rows_stored"]
    found["every source row was made and stored"] = stored
    return found


def main(path: str) -> int:
    """Print every verdict; return 1 if one does not hold."""
    found = verdicts(json.loads(Path(path).read_text()))
    for sentence, holds in found.items():
        print(f"{'ok  ' if holds else 'FAIL'} {sentence}")
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
