"""Which pins are on, in every order of things."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.sinks.gpio.config import GpioConfig, PinConfig
from edge_runtime.sinks.gpio.levels import Levels, Order

S_NS = 1_000_000_000
# Whole seconds until the next order, and whether the label lasts then.
SCRIPT = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=20)


def _order(*wanted: bool, pulsed: tuple[bool, ...] | None = None) -> Order:
    return Order(wanted, pulsed or (False,) * len(wanted))


def _played(levels: Levels, script: list[tuple[int, bool]], *, is_pulse: bool) -> list[bool]:
    """Return whether the pin is on in every second; orders come at the start of theirs."""
    seen: list[bool] = []
    for wait_s, is_wanted in script:
        now_ns = len(seen) * S_NS
        levels.obey(Order((is_wanted,), (is_wanted and is_pulse,)), now_ns)
        seen += [levels.at(now_ns + s * S_NS)[0] for s in range(wait_s)]
    return seen


@given(SCRIPT, st.integers(0, 8), st.integers(3, 9), st.booleans())
def test_a_pin_follows_its_label_with_a_minimum_time_unless_all_is_silent(
    script: list[tuple[int, bool]], min_on_s: int, limit_s: int, is_safe_on: bool
) -> None:
    """Silence wins over everything; else a pin is on with its label and for the time after."""
    pin = PinConfig(17, "worn", min_on_s=min_on_s, safe="on" if is_safe_on else "off")

    seen = _played(Levels([pin], limit_s), script, is_pulse=False)

    expected: list[bool] = []
    rose, was_wanted = -1000, False
    for wait_s, is_wanted in script:
        rose = len(expected) if is_wanted and not was_wanted else rose
        was_wanted = is_wanted
        for silent_s in range(wait_s):
            is_on = is_wanted or len(expected) < rose + min_on_s
            expected.append(is_safe_on if silent_s >= limit_s else is_on)
    assert seen == expected


@given(SCRIPT, st.integers(1, 8))
def test_a_pulse_lasts_its_time_after_the_last_start(
    script: list[tuple[int, bool]], pulse_s: int
) -> None:
    """The end of a label ends no pulse, and another start makes it last longer."""
    seen = _played(Levels([PinConfig(17, "worn", pulse_s=pulse_s)], 100), script, is_pulse=True)

    starts, second = [], 0
    for wait_s, is_start in script:
        starts += [second] if is_start else []
        second += wait_s
    assert seen == [any(s <= t < s + pulse_s for s in starts) for t in range(second)]


@given(SCRIPT, st.integers(0, 8), st.integers(1, 9))
def test_nothing_changes_before_it_is_said_to(
    script: list[tuple[int, bool]], min_on_s: int, limit_s: int
) -> None:
    """A guardian that sleeps until the next instant misses nothing."""
    levels = Levels([PinConfig(17, "worn", min_on_s=min_on_s)], limit_s)
    now_ns = 0
    for wait_s, is_wanted in script:
        levels.obey(_order(is_wanted), now_ns)
        next_ns = levels.next_ns(now_ns)
        assert next_ns is not None
        assert next_ns > now_ns
        assert levels.at(now_ns) == levels.at(next_ns - 1)
        now_ns += wait_s * S_NS


def test_before_the_first_order_pins_are_safe() -> None:
    """Nobody has said yet that a device works."""
    levels = Levels([PinConfig(17, "worn"), PinConfig(18, "worn", safe="on")], 10)

    assert levels.at(0) == (False, True)
    assert levels.next_ns(0) is None
    levels.obey(_order(True, False), 0)
    assert levels.at(1) == (True, False)


def test_whoever_is_heard_again_goes_on_where_it_was() -> None:
    """A label that still lasts after a silence switches on again."""
    levels = Levels([PinConfig(17, "worn", min_on_s=1)], 10)
    levels.obey(_order(True), 0)

    assert levels.at(10 * S_NS) == (False,)
    levels.obey(_order(True), 20 * S_NS)
    assert levels.at(20 * S_NS) == (True,)


@pytest.mark.parametrize(
    ("pins", "what"),
    [
        ([{"pin": 17, "label": "a"}, {"pin": 17, "label": "b"}], "stands twice"),
        ([{"pin": 17, "label": "a", "pulse_s": 1, "min_on_s": 1}], "pulse_s"),
    ],
)
def test_pins_that_contradict_themselves_are_refused(
    pins: list[dict[str, object]], what: str
) -> None:
    """One pin follows one label, in one way."""
    with pytest.raises(ConfigError, match=what) as caught:
        GpioConfig(tuple(PinConfig(**pin) for pin in pins))  # type: ignore[arg-type]

    assert caught.value.expected and caught.value.remedy
