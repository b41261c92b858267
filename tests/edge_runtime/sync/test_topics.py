"""Topics are built and taken apart by one grammar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, WireError
from edge_runtime.sync.topics import Address, Topics

NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,62}\Z")


@given(device=NAMES, stream=NAMES, root=NAMES)
def test_what_is_built_can_be_taken_apart(device: str, stream: str, root: str) -> None:
    """Every telemetry topic tells its device and stream."""
    topics = Topics(root)

    topic = topics.tel(device, stream)

    assert topics.parse(topic) == Address(way="up", leaf="tel", device=device, name=stream)
    assert topic.count("/") <= 7


def test_the_other_topics_can_be_taken_apart() -> None:
    """Downlink and presence topics are read back as well."""
    topics = Topics()

    assert topics.parse(topics.dn("pump", "ack")) == Address("dn", "ack", "pump")
    assert topics.parse(topics.all_cloud) == Address("all", "cloud")
    assert topics.every_up("tel/+") == "er/1/d/+/up/tel/+"


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_an_error(topic: str) -> None:
    """A topic from outside never fails in any other way."""
    try:
        Topics().parse(topic)
    except WireError as error:
        assert "expected" in str(error)  # noqa: PT017 - both outcomes are fine


@pytest.mark.parametrize(
    "topic",
    [
        "er/1/d/../up/tel/x",
        "er/1/d/PUMP/up/life",
        "er/1/d/pump/up/tel/a/b",
        "er/2/d/pump/up/life",
        "other/1/d/pump/up/life",
        "er/1/d/pump/sideways/life",
        "er/1/d/pump/up/tel/" + "a" * 600,
        "er/1/d/+/up/#",
        "",
    ],
)
def test_foreign_topics_are_refused(topic: str) -> None:
    """Wildcards, paths, other versions and over-long names are no addresses."""
    with pytest.raises(WireError):
        Topics().parse(topic)


@pytest.mark.parametrize(
    "name", ["", "../etc", "Pump", "a/b", "+", "#", "a" * 64, "\x00", "pump\n"]
)
def test_bad_names_never_become_topics(name: str) -> None:
    """A name that breaks the grammar cannot be put into a topic."""
    with pytest.raises(ConfigError):
        Topics().up(name, "life")
