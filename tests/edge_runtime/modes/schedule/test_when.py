"""Planned instants depend on the words alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.modes.schedule import When

NS = 10**9
INSTANTS = st.integers(0, 4_000_000_000 * NS)


def ns(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp()) * NS


def texts(when: When, after: str, count: int) -> list[str]:
    return [
        datetime.fromtimestamp(at / NS, UTC).strftime("%Y-%m-%d %H:%M")
        for at in islice(when.after(ns(after)), count)
    ]


@given(INSTANTS, st.floats(1, 1e6), st.none() | st.datetimes(timezones=st.just(UTC)))
def test_every_has_one_grid_wherever_one_looks(
    after: int, every_s: float, start: datetime | None
) -> None:
    """Instants are ascending, later than asked, a step apart, and the same from any of them on."""
    when = When(every_s=every_s, start=start)

    first, second, third = islice(when.after(after), 3)

    assert after < first
    assert second - first == third - second == round(every_s * NS)
    assert next(when.after(first)) == second
    assert start is not None or first - after <= round(every_s * NS)
    assert (
        start is None
        or (first - (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000)
        % round(every_s * NS)
        == 0
    )


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("30 2 * * *", "UTC", "2026-01-01T02:30Z", ["2026-01-02 02:30", "2026-01-03 02:30"]),
        ("0 6 * * 1-5", "Europe/Berlin", "2026-07-03T12:00Z", ["2026-07-06 04:00"]),
        ("*/20 * * * *", "UTC", "2026-01-01T00:01Z", ["2026-01-01 00:20", "2026-01-01 00:40"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00Z", ["2028-02-29 00:00"]),
    ],
)
def test_cron_words_mean_what_crontab_says(
    cron: str, zone: str, after: str, expected: list[str]
) -> None:
    """On the wall clock of their time zone."""
    assert texts(When(cron=cron, timezone=zone), after, len(expected)) == expected


def test_a_day_without_half_past_two_and_one_with_two_are_planned_once() -> None:
    """When summer time begins and ends, a nightly job runs once a night."""
    when = When(cron="30 2 * * *", timezone="Europe/Berlin")

    days = [
        datetime.fromtimestamp(at / NS, UTC).astimezone(ZoneInfo("Europe/Berlin")).date()
        for at in when.between(ns("2026-01-01T00:00Z"), ns("2026-12-31T00:00Z"))
    ]

    assert len(days) == len(set(days)) == 364


def test_once_is_once() -> None:
    """The instant itself, and nothing behind it."""
    when = When(at=datetime(2026, 1, 1, tzinfo=UTC))

    assert list(when.after(ns("2025-01-01T00:00Z"))) == [ns("2026-01-01T00:00Z")]
    assert list(when.after(ns("2026-01-01T00:00Z"))) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "nothing"),
        ({"every_s": 60, "cron": "* * * * *"}, "every_s, cron"),
        ({"cron": "* * * * *", "start": datetime(2026, 1, 1, tzinfo=UTC)}, "cron and start"),
        ({"cron": "61 * * * *"}, "five words"),
        ({"cron": "* * *"}, "five words"),
        ({"cron": "* * * * *", "timezone": "Europe/Atlantis"}, "Europe/Atlantis"),
    ],
)
def test_words_that_plan_nothing_are_refused(words: dict[str, object], message: str) -> None:
    """Each with a sentence."""
    with pytest.raises(ConfigError, match=message):
        When(**words)  # type: ignore[arg-type]
