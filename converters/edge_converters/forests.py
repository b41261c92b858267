"""An isolation forest as four ONNX nodes instead of thousands.

A leaf at depth d that holds n training rows stands for a path of length ``d + c(n)``;
the anomaly score is ``2^(-mean path / c(sample))``. Source: Liu, Ting and Zhou,
"Isolation Forest" (2008), equations 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle import read_arrays

__all__ = ["average_path", "isolation_forest"]

_OPSET, _ML_OPSET, _IR = 17, 3, 8


def average_path(rows: np.ndarray) -> np.ndarray:
    """Return the average path of an unsuccessful search in a binary tree of so many rows."""
    n = np.maximum(np.asarray(rows, np.float64), 2.0)
    path = 2.0 * (np.log(n - 1.0) + np.euler_gamma) - 2.0 * (n - 1.0) / n
    return np.where(rows <= 1, 0.0, np.where(rows == 2, 1.0, path))


def isolation_forest(file: Path, features: int) -> bytes:
    """Write a forest as an ONNX model: (n, features) float32 to (n, 1) float32.

    Args:
        file: ``.npz`` with the trees one after the other: ``left`` and ``right`` (-1 at
            leaves), ``feature``, ``threshold``, ``samples``, ``tree``, and ``sample``, the
            rows that each tree was grown from.
        features: How many a row has.

    Returns:
        The model. Its answer lies above 0 and up to 1; larger is more anomalous.
    """
    from onnx import TensorProto, helper, numpy_helper

    trees = read_arrays(file.read_bytes(), str(file))
    attributes, count = _ensemble(trees)
    exponent = -1.0 / (count * float(average_path(trees["sample"])))
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor", ["features"], ["paths"], domain="ai.onnx.ml", **attributes
        ),
        helper.make_node("Mul", ["paths", "exponent"], ["power"]),
        helper.make_node("Pow", ["two", "power"], ["anomaly"]),
    ]
    graph = helper.make_graph(
        nodes,
        "isolation_forest",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info("anomaly", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(np.array([exponent], np.float32), "exponent"),
            numpy_helper.from_array(np.array([2.0], np.float32), "two"),
        ],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    return bytes(model.SerializeToString(deterministic=True))


def _ensemble(trees: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], int]:
    """Return the attributes of a TreeEnsembleRegressor, and how many trees there are."""
    numbers = trees["tree"]
    first = np.searchsorted(numbers, numbers)
    node = np.arange(len(numbers)) - first
    is_leaf = trees["left"] < 0
    weights = _depths(trees["left"], trees["right"], first) + average_path(trees["samples"])
    attributes = {
        "nodes_treeids": numbers,
        "nodes_nodeids": node,
        "nodes_featureids": np.where(is_leaf, 0, trees["feature"]),
        "nodes_values": _rounded_down(np.where(is_leaf, 0.0, trees["threshold"])),
        "nodes_truenodeids": np.where(is_leaf, 0, trees["left"]),
        "nodes_falsenodeids": np.where(is_leaf, 0, trees["right"]),
        "target_treeids": numbers[is_leaf],
        "target_nodeids": node[is_leaf],
        "target_ids": np.zeros(int(is_leaf.sum()), np.int64),
        "target_weights": weights[is_leaf].astype(np.float32),
    }
    listed: dict[str, Any] = {name: values.tolist() for name, values in attributes.items()}
    listed["nodes_modes"] = ["LEAF" if leaf else "BRANCH_LEQ" for leaf in is_leaf.tolist()]
    return listed | {"n_targets": 1, "aggregate_function": "SUM"}, int(numbers[-1]) + 1


def _depths(left: np.ndarray, right: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return how deep each node lies; a parent stands before its children."""
    depth = np.zeros(len(left), np.int64)
    for parent in np.flatnonzero(left >= 0):
        depth[first[parent] + left[parent]] = depth[parent] + 1
        depth[first[parent] + right[parent]] = depth[parent] + 1
    return depth


def _rounded_down(thresholds: np.ndarray) -> np.ndarray:
    """Return the largest float32 at most a threshold: ``x <= t`` stays the same for all float32."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)
