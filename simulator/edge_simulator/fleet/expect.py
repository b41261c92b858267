"""Whether a run was what its file expects."""

from __future__ import annotations

import msgspec

from edge_simulator.fleet.config import ExpectConfig
from edge_simulator.fleet.load import Expectation
from edge_simulator.fleet.result import Result
from edge_simulator.fleet.spans import span_text

__all__ = ["Verdict", "judge"]


class Verdict(msgspec.Struct, frozen=True):
    """One expectation and what came of it.

    Attributes:
        what: In words.
        expected: In words.
        found: In words.
        holds: Whether the one is the other.
        where: Place in the file.
    """

    what: str
    expected: str
    found: str
    holds: bool
    where: str


def judge(result: Result) -> list[Verdict]:
    """Return a verdict on every expectation of the fleet, in the order of the file."""
    return [
        _judge_decision(result, number, expectation)
        if expectation.config.what == "decision"
        else _judge_number(result, number, expectation)
        for number, expectation in enumerate(result.fleet.expect)
    ]


def _judge_number(result: Result, number: int, expectation: Expectation) -> Verdict:
    config = expectation.config
    if expectation.at_ns is not None:
        found = result.probes.get(number, 0)
    elif config.what == "decisions":
        found = _decisions(result, expectation)
    else:
        found = result.total(config.what, expectation.members)
    return Verdict(
        what=_what(expectation),
        expected=_bounds(config),
        found=str(found),
        holds=_is_within(config, found),
        where=result.fleet.document.where("expect", number),
    )


def _judge_decision(result: Result, number: int, expectation: Expectation) -> Verdict:
    """Each of the devices must have made the decision in time."""
    late = [name for name in expectation.members if _first(result, expectation, name) is None]
    firsts = [_first(result, expectation, name) for name in expectation.members]
    came = [at_ns for at_ns in firsts if at_ns is not None]
    found = f"after {span_text(max(came) // 10**9 * 10**9)}" if came and not late else ""
    return Verdict(
        what=_what(expectation),
        expected=_time(expectation),
        found=found or f"none by {', '.join(late[:3])}{' …' if len(late) > 3 else ''}",
        holds=not late,
        where=result.fleet.document.where("expect", number),
    )


def _first(result: Result, expectation: Expectation, device: str) -> int | None:
    """Return when a device first made the decision in time, from the start of the simulation."""
    config = expectation.config
    end_ns = result.fleet.duration_ns
    if expectation.within_ns is not None:
        end_ns = expectation.after_ns + expectation.within_ns
    for seen in result.sightings:
        is_it = (seen.device, seen.decision.label, seen.decision.edge) == (
            device,
            config.label,
            config.edge,
        )
        if is_it and expectation.after_ns <= seen.at_ns <= end_ns:
            return seen.at_ns
    return None


def _decisions(result: Result, expectation: Expectation) -> int:
    label = expectation.config.label
    return sum(
        seen.device in expectation.members and label in (None, seen.decision.label)
        for seen in result.sightings
    )


def _is_within(config: ExpectConfig, found: int) -> bool:
    return (
        (config.equals is None or found == config.equals)
        and (config.at_least is None or found >= config.at_least)
        and (config.at_most is None or found <= config.at_most)
    )


def _what(expectation: Expectation) -> str:
    config = expectation.config
    words = [config.what.replace("_", " ")]
    words += [f"{config.label} {config.edge}s" if config.what == "decision" else config.label or ""]
    words += ["" if expectation.at_ns is None else f"at {span_text(expectation.at_ns)}"]
    words += ["" if config.devices == ("*",) else f"of {', '.join(config.devices)}"]
    return " ".join(word for word in words if word)


def _bounds(config: ExpectConfig) -> str:
    bounds = (("", config.equals), ("at least ", config.at_least), ("at most ", config.at_most))
    return ", ".join(f"{word}{bound}" for word, bound in bounds if bound is not None)


def _time(expectation: Expectation) -> str:
    after = span_text(expectation.after_ns)
    if expectation.within_ns is None:
        return f"after {after}"
    return f"within {span_text(expectation.within_ns)} of {after}"
