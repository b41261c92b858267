"""Lines that say what goes wrong on a link and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError
from edge_simulator.link import Chances
from edge_simulator.link.script import LinkFault, Player, fault_of, load_script


class Line:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.delay_s = self.jitter_s = 0.0
        self.bytes_per_s: float | None = None
        self.chances = Chances()
        self.told: list[str] = []

    def cut(self) -> None:
        self.told.append("cut")

    def half_open(self) -> None:
        self.told.append("half_open")

    def mend(self) -> None:
        self.told.append("mend")

    def reset(self) -> None:
        self.told.append("reset")


def played(lines: list[str], until_s: float, seed: int = 7) -> list[tuple[float, str]]:
    """Return what a line was told, and when."""
    line = Line()
    player = Player(line, [fault_of(each) for each in lines], seed)
    told: list[tuple[float, str]] = []
    while player.next_s is not None and player.next_s <= until_s:
        now_s = player.next_s
        player.advance(now_s)
        told += [(now_s, what) for what in line.told]
        line.told.clear()
    return told


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("at 10s cut for 5s", LinkFault(kind="cut", when="at", at_s=10, lasts_s=5)),
        ("at 5 half_open for 10", LinkFault(kind="half_open", when="at", at_s=5, lasts_s=10)),
        ("every 1min cut for 200ms", LinkFault(kind="cut", when="every", at_s=60, lasts_s=0.2)),
        ("by chance 4 a minute reset", LinkFault(kind="reset", when="chance", at_s=15)),
        ("delay 200ms", LinkFault(kind="delay", value=0.2)),
        ("throttle 10kB/s", LinkFault(kind="throttle", value=10_000)),
        ("throttle 1.5MB", LinkFault(kind="throttle", value=1.5e6)),
        ("at 1s corrupt 0.001", LinkFault(kind="corrupt", value=0.001, when="at", at_s=1)),
    ],
)
def test_a_line_is_read(line: str, fault: LinkFault) -> None:
    """When, what, how much and how long."""
    assert fault_of(line) == fault


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("explode", "one of cut"),
        ("at noon cut for 5s", "a span"),
        ("at 5s cut for ever", "a span"),
        ("cut for 5s", "at, every or by chance"),
        ("every 5s cut", "for how long"),
        ("every 5s cut for 5s", "ends before it comes again"),
        ("every 0s reset", "an interval above 0"),
        ("by chance 0 a minute reset", "a number above 0"),
        ("by chance 2 a fortnight reset", "a second, minute or hour"),
        ("reset", "a reset at a time"),
        ("at 5s reset for 2s", "a reset at a time"),
        ("drop 2", "a share from 0 to 1"),
        ("throttle", "a value behind throttle"),
        ("throttle fast", "a bandwidth"),
        ("at 5s cut 3", "no value behind cut"),
    ],
)
def test_a_line_that_says_nothing_is_refused(line: str, expected: str) -> None:
    """The message shows the line and what was expected in its place."""
    with pytest.raises(ConfigError, match=expected) as caught:
        fault_of(line, "faults.yaml: faults.0")

    assert line in str(caught.value) and "faults.yaml" in str(caught.value)


def test_faults_happen_when_they_should() -> None:
    """At a time, again and again, and over when their time is."""
    told = played(["at 2s cut for 3s", "every 4s reset"], 10.0)

    assert told == [(2.0, "cut"), (4.0, "reset"), (5.0, "mend"), (8.0, "reset")]


def test_chance_follows_from_the_seed() -> None:
    """The same seed gives the same instants, another one others, at the rate that was asked for."""
    lines = ["by chance 30 a minute reset"]

    first, again, other = (played(lines, 600.0, seed) for seed in (7, 7, 8))

    assert first == again != other
    assert 240 < len(first) < 360


def test_the_worst_of_several_counts_and_the_line_is_mended_last() -> None:
    """A link is cut as long as any cut lasts; the longest delay and least bandwidth count."""
    line = Line()
    lines = [
        "at 1s cut for 4s",
        "at 2s cut for 1s",
        "delay 100ms",
        "at 1s delay 2s for 1s",
        "throttle 10kB",
        "at 1s throttle 1kB",
        "at 1s drop 0.5",
    ]
    player = Player(line, [fault_of(each) for each in lines])

    player.advance(1.5)
    at_first = (line.delay_s, line.bytes_per_s, line.chances.drop, tuple(line.told))
    player.advance(4.0)
    later = (line.delay_s, tuple(line.told))
    player.end()

    assert at_first == (2.0, 1000.0, 0.5, ("cut",))
    assert later == (0.1, ("cut",))
    assert line.told == ["cut", "mend"]
    assert (line.delay_s, line.bytes_per_s, line.chances) == (0.0, None, Chances())


def test_a_file_has_lines_and_a_unit(tmp_path: Path) -> None:
    """YAML with one fault a line; a wrong one is named by its place."""
    path = tmp_path / "faults.yaml"
    path.write_text("schema: 1\nunit: packets\nfaults:\n  - at 10s cut for 5s\n  - drop 0.1\n")

    faults, unit = load_script(path)

    assert (len(faults), unit) == (2, "packets")
    path.write_text("faults: [delay 1s, at once cut]\n")
    with pytest.raises(ConfigError, match=r"faults\.1"):
        load_script(path)
