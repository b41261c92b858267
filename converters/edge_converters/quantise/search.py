"""Which operators may be int8: one search for every format.

The cheapest cure comes first: channels that differ much are equalised, which costs
nothing. Then rank operators by what each does alone, bisect how many of the worst must
stay float, and give back what was too much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edge_converters.metrics import GARBAGE_DB, is_within, snr_db, value_of
from edge_converters.quantise.contracts import (
    Budget,
    Calibration,
    Candidate,
    Cure,
    Precision,
    Progress,
    Quantiser,
    Ranking,
    Samples,
    SearchResult,
)

__all__ = ["rank", "search"]

_RANKING_WINDOWS = 300
_Cures = dict[str, Cure]
Measure = Callable[[bytes], float]


def search(
    quantiser: Quantiser,
    calibration: Calibration,
    samples: Samples,
    budget: Budget,
    *,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the file with the most int8 operators that keeps the budget on ``samples``.

    About n + log2 n files are made and run, for n operators, and two more for each
    operator that may not be int8. The budget is taken at the metric's word: a verdict
    on untouched windows comes after.

    Args:
        quantiser: The float model.
        calibration: Its statistics.
        samples: Windows to search on; not those of the verdict.
        budget: What may be lost.
        measure: Seconds a call with a file takes; None leaves islands where they are.
        progress: Told what is done; None tells nobody.

    Raises:
        ConfigError: The metric cannot be computed from these samples.
    """
    say = progress or _say_nothing
    trials = _Trials(quantiser, calibration, samples, budget)
    start = time.monotonic()
    trials.choose_scaling()
    ranking = _ranked(trials, say)
    say("bisect", 0.0)
    cures = _bisected(trials, [one.operator for one in ranking])
    say("relax", 0.0)
    cures = _relaxed(trials, cures)
    if measure is not None:
        cures = _without_islands(trials, cures, measure)
    return _result(trials, cures, ranking, time.monotonic() - start)


def rank(
    quantiser: Quantiser, calibration: Calibration, windows: np.ndarray
) -> tuple[Ranking, ...]:
    """Return every operator with what it does to the output when it alone is int8."""
    trials = _Trials(quantiser, calibration, Samples(windows), Budget("snr", 0.0))
    return _ranked(trials, _say_nothing)


def _say_nothing(stage: str, share: float) -> None:
    """Stand in for a listener."""


class _Trials:
    """Makes and runs files, each of them once."""

    def __init__(
        self, quantiser: Quantiser, calibration: Calibration, samples: Samples, budget: Budget
    ) -> None:
        self.quantiser = quantiser
        self.names = [one.name for one in quantiser.operators]
        self.weights = {one.name: one.weights for one in quantiser.operators}
        self.evaluations = 0
        self._calibration, self._samples, self._budget = calibration, samples, budget
        self._reference = quantiser.run_all(quantiser.model, samples.windows)
        self.float_value = self._value(self._reference[0])
        self._is_equalised = True
        self._made: dict[tuple[tuple[str, Cure], ...], Candidate] = {}

    def choose_scaling(self) -> None:
        """Leave channels as they are where equalising them loses too much, and more."""
        if not self._calibration.factors or self.is_within({}):
            return
        equalised = self._made.pop(())
        self._is_equalised = False
        if (self.of({}).snr_db or 0.0) <= (equalised.snr_db or 0.0):
            self._is_equalised = True
            self._made = {(): equalised}

    def of(self, cures: Mapping[str, Cure]) -> Candidate:
        """Return the file in which all but ``cures`` is int8, run on all samples."""
        key = tuple(sorted(cures.items()))
        if key not in self._made:
            self._made[key] = self._run(cures)
        return self._made[key]

    def is_within(self, cures: Mapping[str, Cure]) -> bool:
        """Return whether such a file keeps the budget, and its other outputs mean something."""
        found = self.of(cures)
        is_kept = found.value is not None and is_within(self._budget, self.float_value, found.value)
        return is_kept and found.others_db >= GARBAGE_DB

    def alone_db(self, name: str) -> float:
        """Return the lowest SNR of an output when ``name`` alone is int8, on some samples."""
        windows = self._samples.windows[:_RANKING_WINDOWS]
        cures: _Cures = {other: "float" for other in self.names if other != name}
        model = self._make(cures).model
        found = self.quantiser.run_all(model, windows)
        pairs = zip(self._reference, found, strict=True)
        return min(snr_db(wanted[: len(windows)], one) for wanted, one in pairs)

    def _run(self, cures: Mapping[str, Cure]) -> Candidate:
        made = self._make(cures)
        outputs = self.quantiser.run_all(made.model, self._samples.windows)
        first, *others = map(snr_db, self._reference, outputs)
        return Candidate(
            recipe=made.recipe,
            model=made.model,
            value=self._value(outputs[0]),
            snr_db=first,
            others_db=min(others, default=math.inf),
        )

    def _value(self, outputs: np.ndarray) -> float:
        return value_of(self._budget, self._samples, self._reference[0], outputs)

    def _make(self, cures: Mapping[str, Cure]) -> Candidate:
        self.evaluations += 1
        precision: Precision = "mixed" if cures else "int8"
        recipe = self.quantiser.recipe(
            precision, self._calibration, cures, is_equalised=self._is_equalised
        )
        return Candidate(recipe=recipe, model=self.quantiser.quantise(recipe))


def _ranked(trials: _Trials, progress: Progress) -> tuple[Ranking, ...]:
    found = []
    for number, name in enumerate(trials.names):
        progress("rank", number / len(trials.names))
        found.append(Ranking(name, trials.alone_db(name)))
    return tuple(sorted(found, key=lambda one: one.snr_db))


def _bisected(trials: _Trials, worst_first: Sequence[str]) -> _Cures:
    """Return the fewest of the worst operators that must stay float; all of them if need be."""

    def kept(count: int) -> _Cures:
        return dict.fromkeys(worst_first[:count], "float")

    low, high = 0, len(worst_first)
    while low < high:
        middle = (low + high) // 2
        if trials.is_within(kept(middle)):
            high = middle
        else:
            low = middle + 1
    return kept(low)


def _relaxed(trials: _Trials, cures: _Cures) -> _Cures:
    """Give each float operator, least harmful first, the cheapest cure that keeps the budget."""
    for name in reversed(list(cures)):
        for cheaper in _cheaper(trials, name):
            tried = _with(cures, name, cheaper)
            if trials.is_within(tried):
                cures = tried
                break
    return cures


def _cheaper(trials: _Trials, name: str) -> tuple[Cure | None, ...]:
    return (None, "weights") if trials.weights[name] else (None,)


def _with(cures: Mapping[str, Cure], name: str, cure: Cure | None) -> _Cures:
    others = {key: value for key, value in cures.items() if key != name}
    return others if cure is None else others | {name: cure}


def _without_islands(trials: _Trials, cures: _Cures, measure: Measure) -> _Cures:
    """Leave int8 operators between float ones float too where that makes a call quicker.

    What is quantised between float operators pays for two conversions.
    """
    quickest = measure(trials.of(cures).model)
    for name in _islands(trials.names, cures):
        tried = _with(cures, name, "float")
        if not trials.is_within(tried):
            continue
        time_s = measure(trials.of(tried).model)
        if time_s < quickest:
            cures, quickest = tried, time_s
    return cures


def _islands(names: Sequence[str], cures: Mapping[str, Cure]) -> list[str]:
    inner = zip(names, names[1:], names[2:], strict=False)
    return [one for before, one, after in inner if {before, after} <= cures.keys() - {one}]


def _result(
    trials: _Trials, cures: _Cures, ranking: tuple[Ranking, ...], elapsed_s: float
) -> SearchResult:
    is_quantised = any(cures.get(name) != "float" for name in trials.names)
    chosen = trials.of(cures)
    has_gain = is_quantised and trials.is_within(cures)
    if not has_gain:
        recipe = trials.quantiser.recipe("float32", None, {})
        chosen = Candidate(
            recipe=recipe,
            model=trials.quantiser.model,
            value=trials.float_value,
            snr_db=float("inf"),
        )
    return SearchResult(
        chosen=chosen,
        is_within_budget=has_gain,
        float_value=trials.float_value,
        ranking=ranking,
        evaluations=trials.evaluations,
        elapsed_s=elapsed_s,
    )
