"""Run the linters, the type checkers and the floor contracts; stop at none, report all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("edge_runtime", "edge_converters", "edge_simulator", "edge_cloud")
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy", *(part for package in PACKAGES for part in ("-p", package))],
    "pyright": ["pyright"],
    "import-linter": ["lint-imports", "--no-cache"],
}


def main() -> int:
    """Run every check and return 1 if one failed."""
    environment = {
        **os.environ,
        "MYPYPATH": ":".join(str(ROOT / part) for part in ("converters", "simulator", "cloud")),
    }
    failed = []
    for name, command in CHECKS.items():
        print(f"--- {name}", flush=True)
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(name)
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
