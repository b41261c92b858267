"""What every test needs: a machine without a past."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _no_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the developer has tuned on this machine must not decide a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_RUNTIME_PROFILES", str(tmp_path_factory.mktemp("profiles")))
        yield
