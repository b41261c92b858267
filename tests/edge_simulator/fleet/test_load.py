"""A fleet's file is read strictly, and what does not fit is named by line and column."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.spec import WindowSpec
from edge_simulator.fleet.load import Feed, Fleet, check_fleet

MakeFleet = Callable[..., Fleet]


def test_a_source_reaches_the_device_as_it_stands(make_fleet: MakeFleet) -> None:
    """The options of a source are the file's own, but for what is spread over the group."""
    first, second = make_fleet().members

    kept = {key: first.config.streams["main"].source[key] for key in ("kind", "time", "block")}
    assert kept == {key: second.config.streams["main"].source[key] for key in kept}
    assert first.config.streams["main"].source["first_row"] == 0
    assert second.config.streams["main"].source["first_row"] == 10
    assert (first.name, second.name) == ("pump-1", "pump-2")


FAULT = "faults:\n  - "


@pytest.mark.parametrize(
    ("more", "where", "what"),
    [
        (FAULT + "{fault: cutt, at: 1min, for: 1s}", "15:13", "Did you mean 'cut'?"),
        (FAULT + "{fault: cut, at: 6min, for: 1s}", "15:22", "after the end"),
        (FAULT + "{fault: cut, at: soon, for: 1s}", "15:22", "a span such as 90s"),
        (FAULT + "{fault: cut, for: 1s}", "15:5", "one of the two"),
        (FAULT + "{fault: cut, at: 1s, per_day: 1, for: 1s}", "15:5", "one of the two"),
        (FAULT + "{fault: cut, at: 1min}", "15:5", "key 'faults[0].for' is missing"),
        (FAULT + "{fault: loss, at: 1min, for: 1s}", "15:5", "key 'faults[0].share' is missing"),
        (FAULT + "{fault: duplicate, at: 1min, for: 1s, share: 2}", "15:50", "share"),
        (FAULT + "{fault: drop, at: 1min, for: 1s}", "15:29", "unknown key"),
        (FAULT + "{fault: drop, at: 1min, devices: [pumpe-1]}", "15:39", "Did you mean 'pump-1'"),
        (FAULT + "{fault: update, at: 1s, stream: main, bundle: x}", "15:51", "x'"),
        (
            FAULT + "{fault: sensor, at: 1s, for: 1s, stream: mian, options: {block: 1}}",
            "15:46",
            "mian",
        ),
        (
            FAULT + "{fault: sensor, at: 1s, for: 1s, stream: main, options: {blok: 1}}",
            "15:62",
            "Did you mean 'block'?",
        ),
        ("expect:\n  - {what: rows_lots, equals: 0}", "15:12", "rows_lost"),
        ("expect:\n  - {what: rows_lost}", "15:5", "equals, at_least or at_most"),
        ("expect:\n  - {what: decision}", "15:5", "a label"),
        ("expect:\n  - {what: starts, equals: 1, at: 1s}", "15:35", "backlog alone"),
        ("mode: processes\nspeed: max", "15:8", "a number such as 60"),
        ("cloud: ingest", "14:8", "cloud: twin"),
        ("mode: processes\nrefresh: [{line: sum}]", "15:10", "cloud: ingest"),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(
    make_fleet: MakeFleet, more: str, where: str, what: str
) -> None:
    """File, line, column, what is there and what to do: for every part of the file."""
    with pytest.raises(ConfigError) as caught:
        make_fleet(more)

    assert caught.value.where.endswith(f"fleet.yaml:{where}")
    assert what in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("{bundle: sum-1}", "{bundle: sum-9}", "11:27", "does not exist"),
        ("kind: csv", "kind: csw", "10:26", "Did you mean 'csv'?"),
        ("step_s: 1}", "step_s: 2}", "10:19", "delivers 0.5 Hz"),
        ("upload: windows", "upload: window", "12:19", "Did you mean 'windows'?"),
        ("      streams:", "      state: x\n      streams:", "8:7", "given by the simulator"),
        (
            "      streams:",
            "      sync: {port: 1}\n      streams:",
            "8:14",
            "given by the simulator",
        ),
        ("first_row: 10", "kind: 10", "13:27", "a number to add to"),
        ("spread: {main:", "spread: {mian:", "13:20", "Did you mean 'main'?"),
        ("duration: 2min", "duration: 300", "3:11", "a span such as"),
        ("duration: 2min", "duration: 0s", "3:11", "some time"),
        ("duration: 2min", "duration: fast", "3:11", "a span such as"),
        ("count: 2", "count: 0", "6:12", ">= 1"),
    ],
)
def test_what_does_not_fit_in_a_group_is_named_by_its_place(
    make_fleet: MakeFleet, old: str, new: str, where: str, what: str
) -> None:
    """Also inside the part that is a device's own file."""
    with pytest.raises(ConfigError) as caught:
        make_fleet(edit=(old, new))

    assert caught.value.where.endswith(f"fleet.yaml:{where}")
    assert what in str(caught.value)


def test_a_mode_that_is_chosen_later_is_checked_again(make_fleet: MakeFleet) -> None:
    """What the file could do in its own mode may be impossible in the one asked for."""
    fleet = make_fleet("speed: max")

    with pytest.raises(ConfigError, match="mode processes"):
        check_fleet(msgspec.structs.replace(fleet, mode="processes"))


def test_a_disk_that_cannot_be_filled_is_said_before_anything_starts(
    make_fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where SQLite cannot be told of a full disk, real processes are not started for it."""
    monkeypatch.setattr("edge_simulator.fleet.load.can_fill", lambda: False)
    fault = FAULT + "{fault: disk_full, at: 1s, for: 1s}"

    with pytest.raises(ConfigError, match="cannot be told of a full disk"):
        make_fleet("mode: processes\n" + fault)

    assert make_fleet(fault).faults[0].kind == "disk_full"


@given(
    first=st.integers(0, 10**6),
    rate_hz=st.sampled_from([1 / 3600, 0.1, 1.0, 3.0, 50.0, 44_100.0]),
    k=st.integers(0, 10**7),
)
def test_a_sample_is_due_when_it_is_said_to_be(first: int, rate_hz: float, k: int) -> None:
    """At the time of sample k everything up to it has come, and nothing behind the next."""
    feed = Feed(first, rate_hz, WindowSpec(length=1, hop=1), is_whole=True)

    due = feed.due(feed.due_ns(first + k))

    assert first + k + 1 <= due <= first + k + 2
    assert feed.due_ns(first) == 0
