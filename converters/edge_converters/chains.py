"""Writes a chain of recurrent and dense layers as ONNX, with the runtime's own GRU and LSTM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.bundle import read_arrays

__all__ = ["chain"]

_OPSET, _IR = 17, 8
_TIME_FIRST = [1, 0, 2]


def chain(
    arrays: Path,
    parts: Sequence[Mapping[str, Any]],
    shape: Sequence[int],
    batch: int | None = None,
) -> bytes:
    """Return the ONNX file of a chain, from (batch, *shape) to what its last part answers.

    Source of the recurrent operators' layouts: ONNX operators GRU, LSTM and RNN.

    Args:
        arrays: ``.npz`` with the arrays of each part, ``NUMBER_NAME``: ``weights`` and
            ``bias`` of a product; ``gain`` and ``shift`` of a scale or a layer
            normalisation; ``w``, ``r`` and ``b`` of a recurrent layer, as ONNX has them.
        parts: ``op`` of each: ``product``, ``scale``, ``layer``, ``GRU``, ``LSTM``, ``RNN``,
            or an operator without constants; a recurrent one also says ``is_sequence`` and
            ``is_reset_after``, a layer normalisation ``epsilon``.
        shape: Of a window.
        batch: How many windows it takes at once; None for any number.
    """
    graph = _Graph(read_arrays(arrays.read_bytes(), str(arrays)))
    for number, part in enumerate(parts):
        graph.add(number, part)
    return graph.written(["batch" if batch is None else batch, *shape])


class _Graph:
    """Nodes one behind the other."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._nodes: list[Any] = []
        self._constants: dict[str, np.ndarray] = {}
        self._last = "window"

    def add(self, number: int, part: Mapping[str, Any]) -> None:
        """Add a part behind the last one."""
        operator = part["op"]

        def of(*names: str) -> list[str]:
            return [self._constant(f"{number}_{name}", self._arrays) for name in names]

        if operator in ("GRU", "LSTM", "RNN"):
            self._recur(part, of("w", "r", "b"))
        elif operator == "product":
            weights, bias = of("weights", "bias")
            self._node("MatMul", weights)
            self._node("Add", bias)
        elif operator == "scale":
            gain, shift = of("gain", "shift")
            self._node("Mul", gain)
            self._node("Add", shift)
        elif operator == "layer":
            self._node("LayerNormalization", *of("gain", "shift"), epsilon=part["epsilon"])
        else:
            self._node(operator)

    def written(self, shape: Sequence[int | str]) -> bytes:
        """Return the file; a name stands for a free axis."""
        import onnx
        from onnx import helper, numpy_helper

        entry = helper.make_tensor_value_info("window", onnx.TensorProto.FLOAT, shape)
        answer = helper.make_tensor_value_info(self._last, onnx.TensorProto.FLOAT, None)
        constants = [numpy_helper.from_array(one, name) for name, one in self._constants.items()]
        graph = helper.make_graph(self._nodes, "chain", [entry], [answer], constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
        return bytes(onnx.shape_inference.infer_shapes(model).SerializeToString(deterministic=True))

    def _recur(self, part: Mapping[str, Any], weights: list[str]) -> None:
        """Add a recurrent operator, which takes time first and answers (steps, 1, batch, n)."""
        told = {"linear_before_reset": int(part["is_reset_after"])} if part["op"] == "GRU" else {}
        hidden = self._constants[weights[1]].shape[2]
        self._node("Transpose", perm=_TIME_FIRST)
        answers = ["", f"state_{len(self._nodes)}"]
        if part["is_sequence"]:
            answers = [f"steps_{len(self._nodes)}"]
        self._node(part["op"], *weights, outputs=answers, hidden_size=hidden, **told)
        axis = np.array([1 if part["is_sequence"] else 0], np.int64)
        name = f"axis_{axis[0]}"
        self._node("Squeeze", self._constant(name, {name: axis}))
        if part["is_sequence"]:
            self._node("Transpose", perm=_TIME_FIRST)

    def _constant(self, name: str, values: Mapping[str, np.ndarray]) -> str:
        self._constants[name] = np.ascontiguousarray(values[name])
        return name

    def _node(
        self, operator: str, *more: str, outputs: Sequence[str] = (), **attributes: Any
    ) -> None:
        from onnx import helper

        names = list(outputs) or [f"{operator.lower()}_{len(self._nodes)}"]
        name = f"node_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(operator, [self._last, *more], names, name, **attributes)
        )
        self._last = names[-1]
