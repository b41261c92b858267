"""Opens a pickled scikit-learn model, writes it as ONNX and says what it answers.

Runs in the worker ``sklearn``. An IsolationForest is handed over as plain arrays
instead: the parent writes a far smaller graph of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge_converters.workers.refusal import Refusal

__all__ = ["convert"]

_OPSETS = {"": 17, "ai.onnx.ml": 3}
_IR = 8
_ROWS = 2048
_NO_INTEGERS = (np.integer, np.bool_, bool)


def convert(model: str, folder: str, is_trusted: bool, inputs: str | None) -> dict[str, object]:
    """Convert a model, and answer rows with the original.

    Args:
        model: A pickle or joblib file.
        folder: Where ``model.onnx`` or ``trees.npz``, ``inputs.npy`` and ``outputs.npy`` go.
        is_trusted: Whether the pickle may be opened: it can run any code.
        inputs: ``.npy`` of rows to be asked, shape (n, features); None draws them around
            the thresholds of the model's trees.

    Returns:
        ``file`` and its ``emitter``, ``kind``, ``labels``, ``channels`` and ``version``; of an
        IsolationForest also ``threshold``.

    Raises:
        Refusal: It is not trusted, or nothing that can be converted.
    """
    if not is_trusted:
        raise Refusal(
            "a pickle is a program: opening it runs whatever it says",
            "a file whose origin you trust",
            "If you made it yourself, say so: --trust.",
            exit_code=3,
        )
    warnings.simplefilter("ignore", FutureWarning)
    estimator = _open(model)
    features = _features_of(estimator)
    rows = np.load(inputs).reshape(-1, features) if inputs else _drawn(estimator, features)
    rows = rows.astype(np.float32)
    place = Path(folder)
    np.save(place / "inputs.npy", rows)
    np.save(place / "outputs.npy", _answers(estimator, rows))
    return _written(estimator, features, place) | _described(estimator)


def _open(model: str) -> Any:
    import joblib

    try:
        estimator = joblib.load(model)
    except Exception as error:
        raise Refusal(
            f"the pickle does not open: {type(error).__name__}: {error}"[:400],
            f"a pickle of scikit-learn {version('scikit-learn')}, whole, of its own classes alone",
            "Fit and save the model with that version, and with transformers of scikit-learn.",
        ) from error
    if not hasattr(estimator, "predict") or not hasattr(estimator, "get_params"):
        raise Refusal(
            f"the pickle holds {type(estimator).__module__}.{type(estimator).__qualname__}",
            "one fitted scikit-learn model or pipeline",
            "Save the model alone: joblib.dump(model, 'model.joblib').",
        )
    if type(_last(estimator)).__module__.split(".")[0] in ("xgboost", "lightgbm", "catboost"):
        raise Refusal(
            f"the model is of {type(_last(estimator)).__module__.split('.')[0]}",
            "a model of scikit-learn",
            "Boosters of other packages come later; fit HistGradientBoosting instead.",
        )
    return estimator


def _last(estimator: Any) -> Any:
    return estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator


def _features_of(estimator: Any) -> int:
    features = getattr(estimator, "n_features_in_", None)
    if features is None:
        raise Refusal("the model is not fitted", "a fitted model", "Call fit before it is saved.")
    return int(features)


# --- what it is ---------------------------------------------------------------------


def _is(estimator: Any, name: str) -> bool:
    return type(_last(estimator)).__name__ == name


def _described(estimator: Any) -> dict[str, object]:
    import sklearn
    from sklearn.base import is_classifier, is_regressor

    names = getattr(estimator, "feature_names_in_", None)
    told: dict[str, object] = {
        "version": f"scikit-learn {sklearn.__version__}",
        "channels": [str(one) for one in names]
        if names is not None
        else [f"c{index}" for index in range(estimator.n_features_in_)],
    }
    if is_classifier(estimator):
        return told | {"kind": "classifier", "labels": [str(one) for one in estimator.classes_]}
    if is_regressor(estimator):
        return told | {"kind": "regressor", "labels": []}
    if _is(estimator, "IsolationForest"):
        return told | {
            "kind": "scorer",
            "labels": ["anomaly"],
            "threshold": float(-_last(estimator).offset_),
        }
    return told | {"kind": "scorer", "labels": []}


def _answers(estimator: Any, rows: np.ndarray) -> np.ndarray:
    """Return what the original answers, shape (n, k), float64."""
    from sklearn.base import is_classifier, is_regressor

    # Cast as the trees themselves do, so that thresholds are met alike.
    if is_classifier(estimator):
        answers = estimator.predict_proba(rows)
    elif is_regressor(estimator):
        answers = estimator.predict(rows)
    elif _is(estimator, "IsolationForest"):
        answers = -estimator.score_samples(rows)
    elif hasattr(estimator, "decision_function"):
        answers = estimator.decision_function(rows)
    else:
        answers = estimator.transform(rows)
    return np.asarray(answers, np.float64).reshape(len(rows), -1)


# --- rows that meet every threshold -------------------------------------------------


def _drawn(estimator: Any, features: int) -> np.ndarray:
    """Draw rows whose values lie on thresholds and right beside them."""
    dice = np.random.default_rng(0)
    rows = dice.normal(size=(_ROWS, features)).astype(np.float32)
    thresholds = _thresholds(_last(estimator), features)
    for feature, values in thresholds.items():
        chosen = dice.choice(values, _ROWS).astype(np.float32)
        step = dice.integers(-1, 2, _ROWS)
        above = np.nextafter(chosen, np.float32(np.inf))
        below = np.nextafter(chosen, np.float32(-np.inf))
        rows[:, feature] = np.select([step > 0, step < 0], [above, below], chosen)
    return rows


def _thresholds(model: Any, features: int) -> dict[int, np.ndarray]:
    found: dict[int, list[float]] = {}
    for feature, threshold in _splits(model):
        if 0 <= feature < features and np.isfinite(threshold):
            found.setdefault(feature, []).append(threshold)
    return {feature: np.asarray(values) for feature, values in found.items()}


def _splits(model: Any) -> Iterator[tuple[int, float]]:
    for tree, columns in _trees(model):
        inner = tree.children_left >= 0
        features = tree.feature[inner]
        names = features if columns is None else np.asarray(columns)[features]
        yield from zip(names.tolist(), tree.threshold[inner].tolist(), strict=True)
    for stage in getattr(model, "_predictors", []):
        for predictor in stage:
            nodes = predictor.nodes[predictor.nodes["is_leaf"] == 0]
            yield from zip(
                nodes["feature_idx"].tolist(), nodes["num_threshold"].tolist(), strict=True
            )


def _trees(model: Any) -> list[tuple[Any, Any]]:
    if hasattr(model, "tree_"):
        return [(model.tree_, None)]
    estimators = np.ravel(np.asarray(getattr(model, "estimators_", []), dtype=object))
    columns = getattr(model, "estimators_features_", [None] * len(estimators))
    return [
        (one.tree_, of)
        for one, of in zip(estimators, columns, strict=False)
        if hasattr(one, "tree_")
    ]


# --- writing ------------------------------------------------------------------------


def _written(estimator: Any, features: int, folder: Path) -> dict[str, object]:
    if type(estimator).__name__ == "IsolationForest":
        return _isolation_forest(estimator, folder)
    return _by_skl2onnx(estimator, features, folder)


def _isolation_forest(forest: Any, folder: Path) -> dict[str, object]:
    """Write the trees as arrays, one after the other."""
    parts: dict[str, list[np.ndarray]] = {
        name: [] for name in ("left", "right", "feature", "threshold", "samples", "tree")
    }
    for number, (tree, columns) in enumerate(_trees(forest)):
        inner = np.maximum(tree.feature, 0)
        parts["left"].append(tree.children_left)
        parts["right"].append(tree.children_right)
        parts["feature"].append(np.asarray(columns)[inner])
        parts["threshold"].append(tree.threshold)
        parts["samples"].append(tree.n_node_samples)
        parts["tree"].append(np.full(tree.node_count, number))
    arrays = {name: np.concatenate(values) for name, values in parts.items()}
    file = folder / "trees.npz"
    arrays["sample"] = np.asarray(forest._max_samples)  # noqa: SLF001 - fitted
    np.savez(file, allow_pickle=False, **arrays)
    return {"file": str(file), "emitter": "isolation-forest"}


def _by_skl2onnx(estimator: Any, features: int, folder: Path) -> dict[str, object]:
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    _cast_numpy_integers()
    _round_thresholds(_last(estimator))
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    try:
        proto = convert_sklearn(
            estimator,
            initial_types=[("features", FloatTensorType([None, features]))],
            target_opset=_OPSETS,
            options=options,
        )
    except Exception as error:
        raise _unconverted(estimator, error) from error
    proto.ir_version = _IR
    _keep_last_output(proto.graph)
    file = folder / "model.onnx"
    file.write_bytes(proto.SerializeToString(deterministic=True))
    return {"file": str(file), "emitter": ""}


def _unconverted(estimator: Any, error: Exception) -> Refusal:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    steps = [type(one).__name__ for _, one in getattr(estimator, "steps", [])]
    name = " → ".join(steps) or type(estimator).__name__
    return Refusal(
        f"{name} has no ONNX form: {type(error).__name__}: {text[:300]}",
        "steps that skl2onnx knows",
        "Replace the step it names, or do it in the features of the bundle.",
    )


def _cast_numpy_integers() -> None:
    """Let HistGradientBoosting through: onnx refuses NumPy's integers and flags as numbers."""
    from onnx import helper

    if getattr(helper.make_attribute, "casts_integers", False):
        return
    original = helper.make_attribute

    def make_attribute(key: str, value: Any, *more: Any, **named: Any) -> Any:
        if isinstance(value, (list, tuple)):
            value = [int(one) if isinstance(one, _NO_INTEGERS) else one for one in value]
        return original(key, value, *more, **named)

    make_attribute.casts_integers = True  # type: ignore[attr-defined]
    helper.make_attribute = make_attribute


def _round_thresholds(model: Any) -> None:
    """Make thresholds of HistGradientBoosting float32, downwards: no float32 row notices."""
    for stage in getattr(model, "_predictors", []):
        for predictor in stage:
            exact = predictor.nodes["num_threshold"]
            with np.errstate(over="ignore"):
                near = exact.astype(np.float32)
            below = np.nextafter(near, np.float32(-np.inf))
            predictor.nodes["num_threshold"] = np.where(near > exact, below, near)


def _keep_last_output(graph: Any) -> None:
    """Drop every output but the last, which has the numbers, and what only they need."""
    last = graph.output[-1]
    del graph.output[:]
    graph.output.append(last)
    needed, kept = {last.name}, []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
