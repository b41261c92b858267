"""An isolation forest of four nodes answers as the trees it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_converters.forests import average_path, isolation_forest
from edge_runtime.backends import load_session

FEATURES = 4


def grown(dice: np.random.Generator, rows: np.ndarray, limit: int) -> dict[str, list[float]]:
    """Grow one tree on rows, as plain lists, a parent before its children."""
    tree: dict[str, list[float]] = {
        name: [] for name in ("left", "right", "feature", "threshold", "samples")
    }

    def grow(part: np.ndarray, depth: int) -> int:
        node = len(tree["left"])
        for values in tree.values():
            values.append(-1)
        tree["samples"][node] = len(part)
        feature = int(dice.integers(FEATURES))
        if depth < limit and len(part) > 1 and np.ptp(part[:, feature]) > 0:
            threshold = dice.uniform(part[:, feature].min(), part[:, feature].max())
            is_left = part[:, feature] <= threshold
            tree["feature"][node], tree["threshold"][node] = feature, threshold
            tree["left"][node] = grow(part[is_left], depth + 1)
            tree["right"][node] = grow(part[~is_left], depth + 1)
        return node

    grow(rows, 0)
    return tree


def score(trees: list[dict[str, list[float]]], row: np.ndarray, sample: int) -> float:
    """Walk every tree by hand, comparing in float64."""
    total = 0.0
    for tree in trees:
        node, depth = 0, 0
        while tree["left"][node] >= 0:
            is_left = float(row[int(tree["feature"][node])]) <= tree["threshold"][node]
            node, depth = int(tree["left" if is_left else "right"][node]), depth + 1
        total += depth + float(average_path(np.array(tree["samples"][node])))
    return float(2.0 ** (-total / (len(trees) * float(average_path(np.array(sample))))))


def saved(path: Path, trees: list[dict[str, list[float]]], sample: int) -> Path:
    types = {"threshold": np.float64}
    arrays = {
        name: np.concatenate([np.asarray(tree[name], types.get(name, np.int64)) for tree in trees])
        for name in trees[0]
    }
    arrays["tree"] = np.repeat(np.arange(len(trees)), [len(tree["left"]) for tree in trees])
    arrays["sample"] = np.asarray(sample)
    np.savez(path, allow_pickle=False, **arrays)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(3, 60))
def test_a_forest_answers_as_its_trees(tmp_path: Path, seed: int, count: int, sample: int) -> None:
    """Also for rows that lie on a threshold, or right beside one."""
    dice = np.random.default_rng(seed)
    data = dice.normal(size=(sample, FEATURES)) * [1, 100, 1e-3, 1e6]
    trees = [grown(dice, data, 8) for _ in range(count)]
    rows = data[dice.integers(0, sample, 16)].astype(np.float32)
    for row in rows[:8]:
        tree = trees[int(dice.integers(count))]
        if tree["left"][0] >= 0:
            row[int(tree["feature"][0])] = np.float32(tree["threshold"][0])

    model = isolation_forest(saved(tmp_path / "trees.npz", trees, sample), FEATURES)

    session = load_session(None, "onnx", model)
    answers = np.concatenate([session.run(row[None]) for row in rows])[:, 0]
    expected = [score(trees, row, sample) for row in rows]
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_the_average_path_is_the_paper_s() -> None:
    """c(1) = 0, c(2) = 1, c(n) = 2 H(n-1) - 2 (n-1)/n with H by its logarithm."""
    paths = average_path(np.array([0, 1, 2, 256]))

    np.testing.assert_allclose(paths, [0, 0, 1, 2 * (np.log(255) + np.euler_gamma) - 510 / 256])
