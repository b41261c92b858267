import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.pipeline import Pipeline
from edge_runtime.types import Windows
from edge_simulator.demo.data import load_turbine
from edge_simulator.demo.replay import Case, Inputs, ridge_answers, run_case
from edge_simulator.demo.stage import demo_fleet
from edge_simulator.places import find_places

_KINDS = ("residual", "prior", "fusion", "normaliser")


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    """Two months of 2013, one base."""
    places = find_places()
    first = load_turbine(places.turbine_rows).first_row
    last = first + 60 * 24
    bundles = (places.turbine_first, places.turbine_second)
    return Inputs(places.turbine_rows, bundles, last, last, demo_fleet().refresh[0])


def test_late_labels_cost_accuracy(inputs: Inputs) -> None:
    """The same refresh with labels 0, 24 and 48 rows late gives errors in that order."""
    replays = [run_case(inputs, Case(str(d), _KINDS, d, has_ridge=True)) for d in (0, 24, 48)]

    hybrid = [replay.hybrid["2013"] for replay in replays]
    ridge = [replay.ridge["2013"] for replay in replays]
    assert hybrid == sorted(hybrid)
    assert ridge == sorted(ridge)


def test_no_kind_is_the_network_alone(inputs: Inputs) -> None:
    """Without layers a replay gives exactly the base's own answers."""
    turbine = load_turbine(inputs.rows_path)
    bundle = load_bundle(inputs.bundles[0])
    rows = slice(turbine.first_row, inputs.last_row)

    replay = run_case(inputs, Case("network alone", ()))

    scores = _scores(bundle, turbine.sensors[rows])
    assert replay.hybrid["2013"] == pytest.approx(np.abs(scores - turbine.nox[rows]).mean())


def test_a_ridge_never_sees_a_label_before_its_time() -> None:
    """Changing labels that are not known yet changes no answer before they are."""
    places = find_places()
    turbine, bundle = load_turbine(places.turbine_rows), load_bundle(places.turbine_first)
    rows = slice(turbine.first_row, turbine.first_row + 20 * 24)
    truth = turbine.nox[rows]
    changed = truth.copy()
    changed[10 * 24 :] += 50
    config = demo_fleet().refresh[0]

    before = ridge_answers(bundle, turbine.sensors[rows], truth, 68.0, config=config)
    after = ridge_answers(bundle, turbine.sensors[rows], changed, 68.0, config=config)

    first_change = np.flatnonzero(before != after)[0]
    assert first_change >= 10 * 24 + 24


def _scores(bundle: Bundle, sensors: np.ndarray) -> np.ndarray:
    artefact, model = bundle.artefact()
    session = load_session(None, artefact.backend, model)
    index = np.arange(len(sensors))
    windows = Windows(index, index, index, sensors[:, None, :])
    return Pipeline(bundle.spec, session, base=bundle.digest).score_windows(windows).score[:, 0]
