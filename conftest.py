"""Documentation examples as tests, and a machine without a past for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
).pytest()


@pytest.fixture(autouse=True, scope="session")
def _no_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the developer has tuned on this machine must not decide a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_RUNTIME_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        yield
