"""GRU, LSTM and RNN operators of one step, written as the products and gates they compute.

Runtimes have no integer kernels for the operators themselves; for the products they
have. What is between the products stays float, the state included: an integer state
would be rounded at every step of a stream. Several steps would need a copy of the
products for each, which is larger than what it replaces, so these stay operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["RECURRENT", "WEIGHTS", "is_one_step", "unfold"]

RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
WEIGHTS = (1, 2)
"""Which inputs of such an operator are weights: for what comes in, and for the state."""

_BIAS, _LENGTHS, _HIDDEN, _CELL, _PEEPHOLES = 3, 4, 5, 6, 7
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_USUAL = {
    "activations": (["Tanh"], ["Sigmoid", "Tanh"], ["Sigmoid", "Tanh", "Tanh"]),
    "direction": ("forward",),
    "layout": (0,),
    "input_forget": (0,),
}
_FREE = frozenset({"hidden_size", "linear_before_reset"})


def is_one_step(node: Any, shape: Sequence[int], constants: Mapping[str, np.ndarray]) -> bool:
    """Return whether an operator reads one step, forward, and computes the usual gates.

    Args:
        node: Of `RECURRENT`.
        shape: Of its input, (steps, batch, channels).
        constants: Of its graph, by name.
    """
    told = {one.name: _plain(helper.get_attribute_value(one)) for one in node.attribute}
    is_usual = all(name in _FREE or told[name] in _USUAL.get(name, ()) for name in told)
    states = (_HIDDEN, _CELL) if node.op_type == "LSTM" else (_HIDDEN,)
    return (
        is_usual
        and tuple(shape[:1]) == (1,)
        and all(_name(node, place) for place in states)
        and not _name(node, _LENGTHS)
        and not _name(node, _PEEPHOLES)
        and all(_name(node, place) in ("", *constants) for place in (*WEIGHTS, _BIAS))
    )


def unfold(model: onnx.ModelProto, name: str) -> tuple[set[str], set[str]]:
    """Replace an operator of one step by what it computes; the answers stay.

    Source: ONNX operators GRU, LSTM and RNN.

    Args:
        model: Is changed.
        name: Of a node that `is_one_step`.

    Returns:
        The names of its products, and those of the nodes between them, which no integers
        are for.
    """
    place, node = next((k, one) for k, one in enumerate(model.graph.node) if one.name == name)
    unfolded = _Unfolded(model, node)
    unfolded.compute()
    del model.graph.node[place]
    for one in reversed(unfolded.nodes):
        model.graph.node.insert(place, one)
    products = {one.name for one in unfolded.nodes if one.op_type == "Gemm"}
    return products, {one.name for one in unfolded.nodes} - products


class _Unfolded:
    """The nodes of one operator; its tensors are named after it."""

    def __init__(self, model: onnx.ModelProto, node: Any) -> None:
        self.nodes: list[Any] = []
        self._node, self._graph = node, model.graph
        constants = {one.name: one for one in model.graph.initializer}
        w, r, *b = (
            numpy_helper.to_array(constants[node.input[one]])[0]
            for one in (*WEIGHTS, _BIAS)
            if _name(node, one)
        )
        self._of_input, self._of_state = w, r
        zeros = np.zeros(2 * len(w), w.dtype)
        self._bias_input, self._bias_state = np.split(b[0] if b else zeros, 2)
        self._size = r.shape[1]
        # Its integers are for the product alone: what goes on to the next step is not rounded.
        self._multiplied = self._put("Squeeze", "h", node.input[_HIDDEN], self._axes(0))

    def compute(self) -> None:
        """Write the step, and the state where it was given out."""
        step = self._put("Squeeze", "x", self._node.input[0], self._axes(0))
        sums = self._gemm("xw", step, self._of_input, self._bias_input)
        match self._node.op_type:
            case "GRU":
                states = [self._gru(sums)]
            case "LSTM":
                states = self._lstm(sums)
            case _:
                total = self._put(
                    "Add", "sum", sums, self._product("hr", self._multiplied, slice(None))
                )
                states = [self._put("Tanh", "new", total)]
        self._give(0, states[0], (0, 1))
        for number, state in enumerate(states):
            self._give(1 + number, state, (0,))

    def _gru(self, sums: str) -> str:
        size, put = self._size, self._put
        hidden = put("Squeeze", "h_float", self._node.input[_HIDDEN], self._axes(0))
        told = {one.name: one.i for one in self._node.attribute}
        xz, xr, xn = self._split("xw", sums, 3)
        if told.get("linear_before_reset", 0):
            hz, hr, hn = self._split("hr", self._product("hr", self._multiplied, slice(None)), 3)
        else:
            of_gates = self._product("hr", self._multiplied, slice(2 * size))
            hz, hr = self._split("hr", of_gates, 2)
        update = put("Sigmoid", "z", put("Add", "z_sum", xz, hz))
        reset = put("Sigmoid", "r", put("Add", "r_sum", xr, hr))
        if told.get("linear_before_reset", 0):
            past = put("Mul", "past", reset, hn)
        else:
            past = self._product("past", put("Mul", "kept", reset, hidden), slice(2 * size, None))
        new = put("Tanh", "n", put("Add", "n_sum", xn, past))
        change = put("Mul", "change", update, put("Sub", "gap", hidden, new))
        return put("Add", "new", new, change)

    def _lstm(self, sums: str) -> list[str]:
        put = self._put
        cell = put("Squeeze", "c", self._node.input[_CELL], self._axes(0))
        total = put("Add", "sum", sums, self._product("hr", self._multiplied, slice(None)))
        i, o, f, c = self._split("sum", total, 4)
        kept = put("Mul", "kept", put("Sigmoid", "f", f), cell)
        taken = put("Mul", "taken", put("Sigmoid", "i", i), put("Tanh", "n", c))
        after = put("Add", "new_c", kept, taken)
        return [put("Mul", "new", put("Sigmoid", "o", o), put("Tanh", "c_tanh", after)), after]

    def _product(self, name: str, left: str, rows: slice) -> str:
        """Multiply by weights of the state, and add their bias."""
        return self._gemm(name, left, self._of_state[rows], self._bias_state[rows])

    def _gemm(self, name: str, left: str, weights: np.ndarray, bias: np.ndarray) -> str:
        constants = self._constant(f"{name}_w", weights), self._constant(f"{name}_b", bias)
        return self._put("Gemm", name, left, *constants, transB=1)

    def _split(self, name: str, values: str, parts: int) -> list[str]:
        sizes = self._constant(f"{name}_sizes", np.full(parts, self._size, np.int64))
        named = [self._named(f"{name}_{number}") for number in range(parts)]
        node = helper.make_node("Split", [values, sizes], named, self._named(f"{name}_split"))
        node.attribute.append(helper.make_attribute("axis", 1))
        self.nodes.append(node)
        return named

    def _give(self, number: int, value: str, axes: tuple[int, ...]) -> None:
        """Write an output of the operator, if somebody reads it."""
        if len(self._node.output) > number and self._node.output[number]:
            self._put("Unsqueeze", f"out_{number}", value, self._axes(*axes))
            self.nodes[-1].output[0] = self._node.output[number]

    def _axes(self, *axes: int) -> str:
        return self._constant(f"axes_{len(axes)}", np.array(axes, np.int64))

    def _put(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        named = self._named(name)
        self.nodes.append(helper.make_node(kind, list(inputs), [named], named, **attributes))
        return named

    def _constant(self, name: str, values: np.ndarray) -> str:
        named = self._named(name)
        if named not in {one.name for one in self._graph.initializer}:
            values = np.ascontiguousarray(values)
            self._graph.initializer.append(numpy_helper.from_array(values, named))
        return named

    def _named(self, name: str) -> str:
        return f"{self._node.name}.{name}"


def _name(node: Any, place: int) -> str:
    return str(node.input[place]) if len(node.input) > place else ""


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.decode() if isinstance(value, bytes) else value
