"""Options are checked when they are read, and the documented example is one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edge_runtime import registry
from edge_runtime.config import parse_yaml
from edge_runtime.errors import ConfigError
from edge_runtime.sources.mqtt import ChannelConfig, MqttConfig, MqttSource
from edge_runtime.spec import ChannelSpec, StreamSpec

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "sources" / "mqtt.md"


@pytest.mark.parametrize(
    "example", re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL), ids=lambda _: ""
)
def test_examples_load(example: str) -> None:
    """Every example on the page can be copied."""
    source = parse_yaml(example, dict[str, Any], "mqtt.md")["source"]

    assert source.pop("kind") == "mqtt"
    assert isinstance(registry.create("sources", "mqtt", source), MqttSource)


def test_every_option_and_every_count_is_documented() -> None:
    """A new key or reason needs a line on the page."""
    text, code = PAGE.read_text(), Path(str(MqttSource.__module__.replace(".", "/"))).parent
    modules = (PAGE.parents[3] / code).glob("*.py")
    reasons = {
        reason
        for module in modules
        for call in re.findall(r"(?:fault|note|_count)\(([^)]*)", module.read_text())
        for reason in re.findall(r'"(\w+)"', call)
    }

    assert len(reasons) > 8
    assert [key for key in MqttConfig.__struct_fields__ if f"`{key}`" not in text] == []
    assert [reason for reason in reasons if f"`{reason}`" not in text] == []


@pytest.mark.parametrize(
    "topic", ["a/#/b", "a+", "a/b#", "#/a", "+a/b", "\0", "a" * 65536, "$share/g/a"]
)
def test_what_is_no_topic_filter_is_refused(topic: str) -> None:
    """A broker would cut the connection, or never send anything."""
    with pytest.raises(ConfigError, match="topic is") as caught:
        ChannelConfig(topic)

    assert caught.value.expected and caught.value.remedy


@given(st.lists(st.sampled_from(["a", "bc", "", "+"]), min_size=1), st.booleans())
def test_filters_that_are_accepted_match_something(levels: list[str], is_open: bool) -> None:
    """Wildcards stand for whole levels."""
    wanted = "/".join([*levels, "#"] if is_open else levels)
    if not wanted:
        return

    ChannelConfig(wanted)

    assert topic_matches_sub(wanted, wanted.replace("+", "x").replace("#", "y/z"))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"channels": {}}, "length >= 1"),
        ({"channels": {"t": {"topic": "x", "path": "a[*]"}}}, "is no path"),
        ({"password_file": "x"}, "no username"),
        (
            {"channels": {"a": {"topic": "x"}, "b": {"topic": "y"}}, "timing": "arrival"},
            "come from x, y",
        ),
        ({"qos": 3}, "enum"),
        ({"readings": ".."}, "is no path"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], what: str) -> None:
    """The error comes with the configuration, not in the middle of the night."""
    with pytest.raises(ConfigError, match=what):
        registry.create("sources", "mqtt", {"channels": {"t": {"topic": "x"}}} | options)


def test_a_channel_that_nobody_publishes_is_named(bench: Callable[..., Any]) -> None:
    """A model that needs another channel gets told which one is missing."""
    source = MqttSource(MqttConfig(channels={"temp": ChannelConfig("x")}))

    with pytest.raises(ConfigError, match="leaves out temperature") as caught:
        source.open("s", StreamSpec((ChannelSpec("temperature"),), 1.0), 0)

    assert "'temp'" in caught.value.remedy
    assert source.read(0.0) is None
