"""The reference pages show configurations that work, and leave no key out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from edge_runtime import registry
from edge_runtime.config import (
    DeviceConfig,
    ModelConfig,
    OutboxConfig,
    ProxyConfig,
    StreamConfig,
    StreamOutboxConfig,
    SyncConfig,
    TrustConfig,
    load_device,
    parse_yaml,
)
from edge_runtime.sources import TimeConfig
from edge_runtime.spec import FeatureSpec, FilterSpec, ModelSpec, Normalise, Statistic

PAGES = Path(__file__).parents[3] / "docs" / "reference"
PLUGINS = [
    registry.find(group, name).Config
    for group in ("sources", "sinks")
    for name in registry.names(group)  # type: ignore[arg-type]
]


def _example(page: str) -> str:
    match = re.search(r"```yaml\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    assert match
    return match.group(1)


@pytest.mark.parametrize("page", ["configuration.md", "../howto/outbox.md"])
def test_device_example_loads(tmp_path: Path, page: str) -> None:
    """The first example can be copied."""
    (tmp_path / "device.yaml").write_text(_example(page))

    assert load_device(tmp_path / "device.yaml").device == "pump-1"


def test_bundle_example_is_a_model_spec() -> None:
    """The manifest that is shown is one."""
    assert parse_yaml(_example("bundle.md"), ModelSpec, "bundle.md").name == "pump-bearing"


@pytest.mark.parametrize(
    "config",
    [
        DeviceConfig,
        StreamConfig,
        ModelConfig,
        SyncConfig,
        ProxyConfig,
        OutboxConfig,
        StreamOutboxConfig,
        TrustConfig,
        TimeConfig,
        *PLUGINS,
    ],
    ids=lambda config: config.__name__,
)
def test_every_key_is_documented(config: type[msgspec.Struct]) -> None:
    """A new key needs a line in the reference."""
    pages = [PAGES / "configuration.md", *PAGES.glob("sources/*.md"), *PAGES.glob("sinks/*.md")]
    text = "".join(page.read_text() for page in pages)
    keys = [field.encode_name for field in msgspec.structs.fields(config)]

    missing = [key for key in keys if key != "origin" and not re.search(rf"\b{key}\b", text)]

    assert missing == []


def test_every_key_of_a_bundle_is_documented() -> None:
    """A new key of bundle.yaml needs a line in the reference."""
    text = (PAGES / "bundle.md").read_text()

    missing = [field for field in ModelSpec.__struct_fields__ if f"`{field}`" not in text]

    assert missing == []


@pytest.mark.parametrize(
    "part",
    [*get_args(FeatureSpec), *get_args(FilterSpec), Normalise],
    ids=lambda part: part.__name__,
)
def test_every_feature_filter_and_normaliser_is_documented(part: type[msgspec.Struct]) -> None:
    """A new kind or key needs its place on the page."""
    text = (PAGES / "features.md").read_text()
    names = {part.__struct_config__.tag, *part.__struct_fields__} - {None, "kind"}

    missing = [name for name in names if f"`{name}`" not in text]

    assert missing == []


def test_every_statistic_is_documented() -> None:
    """A new statistic needs a word that says what it is."""
    text = (PAGES / "features.md").read_text()

    assert [name for name in get_args(Statistic) if f"`{name}`" not in text] == []
