"""Run the device's part of the tests on the installed wheel: suite.py [pytest's arguments].

For use inside the emulated system, see enter.sh. The tests are copied away from the
checkout, so that nothing is imported from it.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

SOURCE, PLACE = Path("/src"), Path("/tmp/check")  # noqa: S108 - a file system of its own
NEEDED = ("tests", "examples", "device_configs", "docs", "pyproject.toml")


def main() -> None:
    """Copy what the tests need and become pytest."""
    PLACE.mkdir()
    for name in NEEDED:
        if (SOURCE / name).is_dir():
            shutil.copytree(SOURCE / name, PLACE / name)
        else:
            shutil.copy(SOURCE / name, PLACE)
    os.chdir(PLACE)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    os.execv(sys.executable, [*command, *sys.argv[1:]])  # noqa: S606 - our own interpreter


if __name__ == "__main__":
    main()
