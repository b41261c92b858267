"""The test data are the files their README names, byte for byte."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "data"
ENTRY = re.compile(r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|$", re.MULTILINE)


def test_every_file_is_listed_with_its_digest() -> None:
    """No file is without origin and licence, and none has changed."""
    listed = dict(ENTRY.findall((FOLDER / "README.md").read_text()))

    files = {
        path.relative_to(FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.name != "README.md"
    }

    assert files == listed
