"""The pages of the sources show configurations that load, and leave no option out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_runtime import registry
from edge_runtime.config.device import split_kind

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs/reference/sources").glob("*.md"))
NAMES = [page.stem for page in PAGES]


def _sources(example: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sources of an example, which is a device, a stream or a source."""
    if "streams" in example:
        return [stream["source"] for stream in example["streams"].values()]
    return [example.get("source", example)]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_examples_load(page: Path) -> None:
    """Every source in a YAML block is one of this kind, with options that fit."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.S | re.M)
    sources = [source for block in blocks for source in _sources(yaml.safe_load(block))]

    assert sources
    for source in sources:
        kind, options = split_kind(source)
        assert kind == page.stem
        registry.configure("sources", kind, options)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_option_is_explained(page: Path) -> None:
    """A page names what its `Config` takes."""
    config = registry.find("sources", page.stem).Config
    named = set(re.findall(r"`(\w+)`", page.read_text()))

    assert set(config.__struct_fields__) <= named
