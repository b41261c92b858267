"""Every bundle that comes with a package keeps the contract of its door."""

from __future__ import annotations

import pytest

from edge_runtime import registry
from edge_runtime.bundle import load_bundle


@pytest.mark.parametrize("name", registry.names("bundles"))
def test_a_bundle_loads_under_the_name_of_its_model(name: str) -> None:
    """What is asked for is what comes."""
    bundle = load_bundle(registry.create("bundles", name, {}).path)

    assert bundle.spec.name == name
