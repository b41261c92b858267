"""Cuts a recurrent network over a sequence into a cell of a few steps with explicit state.

The axis of time is followed from the input through every node. What treats each step
alike, or takes the last one, stays as it is; LSTM, GRU and RNN get their state as
inputs and outputs; whatever looks at several steps otherwise is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_converters.workers.refusal import Refusal

__all__ = ["cut"]

_RECURRENT = ("GRU", "LSTM", "RNN")
# Each step, and each value of it, alone.
_ALIKE = frozenset(
    {"Abs", "Cast", "Celu", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid"}
    | {"HardSwish", "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Selu"}
    | {"Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu"}
)
_BROADCAST = frozenset({"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum"})
_REDUCING = frozenset(
    {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}
)
_INPUT_H, _INPUT_C = 5, 6
# A stream is samples of channels: time is behind the batch.
_TIME = 1
_TO_THE_END = np.iinfo(np.int64).max


def cut(model: str, file: str, hop: int, shape: list[int] | None) -> dict[str, object]:
    """Write a cell that answers ``hop`` steps a call.

    Args:
        model: A float ``.onnx`` file with one input, shape (batch, steps, …).
        file: Where the cell goes; its batch is 1.
        hop: Steps of one call.
        shape: Of one sequence, for free axes.

    Returns:
        ``steps`` of a sequence, ``is_sequence`` (whether every step is answered, or the
        last alone), and ``notes``.

    Raises:
        Refusal: It is not recurrent, or looks at several steps at once.
    """
    proto = onnx.load(model)
    others = [one.name for one in proto.graph.output[1:]]
    left_out = [f"outputs {', '.join(others)} were left out: a cell answers once"] if others else []
    proto = _fixed(proto, shape)
    if not any(node.op_type in _RECURRENT for node in proto.graph.node):
        raise _not_recurrent()
    if len(_shape_of(proto.graph.input[0])) < _TIME + 1:
        raise Refusal(
            "the model's input has no axis of time",
            "an input of shape (batch, steps, channels)",
            "Convert it without --stream: it is asked window by window.",
        )
    cutter = _Cutter(proto, hop)
    cell = cutter.cell()
    onnx.checker.check_model(cell, full_check=True)
    Path(file).write_bytes(cell.SerializeToString(deterministic=True))
    kinds = ", ".join(cutter.kinds)
    return {
        "steps": cutter.length,
        "is_sequence": cutter.answer_axis is not None,
        "notes": [f"{kinds} over {cutter.length} steps became a cell of {cutter.hop}", *left_out],
    }


# --- before the cut -----------------------------------------------------------------


def _fixed(proto: Any, shape: list[int] | None) -> Any:
    """Give the graph a batch of one and known shapes, and fold what follows from them."""
    import onnxslim

    constants = {one.name for one in proto.graph.initializer}
    entries = [one for one in proto.graph.input if one.name not in constants]
    if len(entries) != 1:
        raise Refusal(
            f"the model has {len(entries)} inputs: {', '.join(one.name for one in entries)}",
            "a network over a sequence, with one input",
            "One with its state as inputs is a cell already: convert it without --stream.",
        )
    dims = entries[0].type.tensor_type.shape.dim
    sizes = [1, *(shape or [dim.dim_value for dim in dims][1:])]
    if len(sizes) != len(dims) or not all(sizes):
        told = [dim.dim_value or dim.dim_param or "?" for dim in dims]
        raise Refusal(
            f"input {entries[0].name!r} has the free axes {told}",
            "a sequence of known length, which the cell is compared on",
            "Say how long it is: --shape STEPS,CHANNELS.",
        )
    for dim, size in zip(dims, sizes, strict=True):
        dim.dim_value = size
    del proto.graph.value_info[:]
    for answer in proto.graph.output:
        answer.type.tensor_type.ClearField("shape")
    del proto.graph.output[1:]
    return onnx.shape_inference.infer_shapes(onnxslim.slim(proto), data_prop=True)


def _shape_of(value: Any) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


# --- the cut ------------------------------------------------------------------------


class _Cutter:
    """Follows the axis behind the batch as time, and rewrites what depends on its length.

    Args:
        proto: From `_fixed`; it is not changed.
        hop: Steps of one call.

    Attributes:
        length: Steps of the sequence.
        hop: As given.
        kinds: Recurrent operators that were met.
        answer_axis: Where time is in the answer; None where it is of the last step.
    """

    def __init__(self, proto: Any, hop: int) -> None:
        self._proto = onnx.ModelProto.FromString(proto.SerializeToString())
        self._graph = self._proto.graph
        self.hop = hop
        self.kinds: list[str] = []
        entry = self._graph.input[0]
        self.length = _shape_of(entry)[_TIME]
        self._constants = {one.name: numpy_helper.to_array(one) for one in self._graph.initializer}
        known = (*self._graph.value_info, *self._graph.input, *self._graph.output)
        self._shapes = {one.name: _shape_of(one) for one in known}
        self._time: dict[str, int | None] = {entry.name: _TIME}
        self._check_hop()
        for node in self._graph.node:
            self._follow(node)
        entry.type.tensor_type.shape.dim[_TIME].dim_value = hop
        self.answer_axis = self._time.get(self._graph.output[0].name)
        self._check_found()

    def cell(self) -> Any:
        """Return the cell, with shapes that fit its hop."""
        del self._graph.value_info[:]
        self._graph.output[0].type.tensor_type.ClearField("shape")
        return onnx.shape_inference.infer_shapes(self._proto, strict_mode=True, data_prop=True)

    def _check_hop(self) -> None:
        if self.hop > self.length or self.length % self.hop:
            raise Refusal(
                f"a sequence has {self.length} steps, and the hop is {self.hop}",
                "a hop that divides the sequence",
                "Choose --stream 1, or another divisor of its length.",
            )

    def _check_found(self) -> None:
        if not self.kinds:
            raise _not_recurrent()
        if self.answer_axis not in (None, _TIME):
            raise Refusal(
                f"time is axis {self.answer_axis} of the answer",
                "an answer of shape (batch, steps, …), or of the last step",
                "Transpose it inside the network.",
            )

    # --- following ----------------------------------------------------------------

    def _follow(self, node: Any) -> None:
        """Say where time is in the outputs of a node; rewrite it where its length counts."""
        timed = [name for name in node.input if self._time.get(name) is not None]
        if not timed:
            self._time.update(dict.fromkeys(node.output))
            return
        axis = self._time[timed[0]]
        assert axis is not None  # noqa: S101 - by the choice of names above
        if node.op_type in _RECURRENT:
            self._cut(node, axis, len(self.kinds))
            return
        rule = _RULES.get(node.op_type)
        if rule is None and node.op_type not in _ALIKE:
            raise _mixing(node, "is computed from several steps at once")
        found = axis if rule is None else rule(self, node, axis)
        self._time.update(dict.fromkeys(node.output, found))

    def constant(self, node: Any, number: int, otherwise: object = None) -> np.ndarray:
        """Return a constant input of a node, or ``otherwise`` where there is none."""
        name = node.input[number] if len(node.input) > number else ""
        if not name:
            return np.asarray(otherwise)
        if name not in self._constants:
            raise _mixing(node, "depends on sizes that are computed")
        return np.asarray(self._constants[name])

    def replace(self, node: Any, number: int, value: np.ndarray) -> None:
        """Give a node a constant of its own."""
        name = f"{node.output[0]}_{number}_of_cell"
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        self._constants[name] = value
        node.input[number] = name

    def rank(self, name: str) -> int:
        """Return how many axes a tensor has."""
        return len(self.shape(name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor, for the whole sequence."""
        constant = self._constants.get(name)
        return self._shapes.get(name, ()) if constant is None else constant.shape

    def time_of(self, name: str) -> int | None:
        """Return where time is in a tensor."""
        return self._time.get(name)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is the same for every sequence."""
        return name in self._constants

    def reshaped(self, node: Any, axis: int) -> int:
        """Follow time through a reshape that leaves it an axis of its own."""
        before, after = self.shape(node.input[0]), self.shape(node.output[0])
        ahead = int(np.prod(before[:axis]))
        for place, size in enumerate(after):
            if size == self.length and int(np.prod(after[:place])) == ahead:
                target = self.constant(node, 1).copy()
                if target[place] > 0:
                    target[place] = self.hop
                self.replace(node, 1, target)
                return place
        raise _mixing(node, f"joins steps with other axes: {before} becomes {after}")

    # --- recurrent nodes ----------------------------------------------------------

    def _cut(self, node: Any, axis: int, number: int) -> None:
        """Give a recurrent node its state as inputs and outputs."""
        self._check_recurrent(node, axis)
        hidden = next(one.i for one in node.attribute if one.name == "hidden_size")
        letters = "hc" if node.op_type == "LSTM" else "h"
        while len(node.input) <= _INPUT_H + len(letters) - 1:
            node.input.append("")
        while len(node.output) <= len(letters):
            node.output.append("")
        node.input[4] = ""
        for place, letter in enumerate(letters):
            name = f"state_{number}_{letter}"
            node.input[_INPUT_H + place] = f"{name}_in"
            self._rename(node, 1 + place, f"{name}_out")
            for ports, side in ((self._graph.input, "in"), (self._graph.output, "out")):
                ports.append(
                    helper.make_tensor_value_info(
                        f"{name}_{side}", onnx.TensorProto.FLOAT, [1, 1, hidden]
                    )
                )
        self.kinds.append(node.op_type)
        self._time[node.output[0]] = 0
        self._time.update(dict.fromkeys(node.output[1:]))

    def _rename(self, node: Any, place: int, name: str) -> None:
        """Call an output of a node otherwise, wherever it is read."""
        old, node.output[place] = node.output[place], name
        if not old:
            return
        for other in self._graph.node:
            other.input[:] = [name if one == old else one for one in other.input]
        if self._graph.output[0].name == old:
            self._graph.node.append(helper.make_node("Identity", [name], [old]))

    def _check_recurrent(self, node: Any, axis: int) -> None:
        told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        direction = told.get("direction", b"forward").decode()
        if direction != "forward":
            raise Refusal(
                f"{node.op_type} {node.name!r} is {direction}: it reads the sequence from its end, "
                "which a stream does not have",
                "recurrent layers that read forward",
                "Train it with bidirectional=False; or convert without --stream, window by window.",
            )
        if axis != 0 or told.get("layout", 0):
            raise _mixing(node, f"takes axis {axis} for something else than time")
        for place in (_INPUT_H, _INPUT_C):
            if np.any(self.constant(node, place, 0.0)):
                raise Refusal(
                    f"{node.op_type} {node.name!r} begins with a state that is not zero",
                    "a state of zeros, which a device begins with",
                    "Train it without an initial state of its own.",
                )
        lengths = self.constant(node, 4, self.length)
        if np.any(lengths != self.length):
            raise _mixing(node, f"reads {lengths.tolist()} of {self.length} steps")


def _not_recurrent() -> Refusal:
    return Refusal(
        "the model has no LSTM, GRU or RNN operator over its steps",
        "a recurrent network",
        "Convert it without --stream. PyTorch writes nn.RNN as single products: use nn.GRU or "
        "nn.LSTM.",
    )


_Rule = Callable[[_Cutter, Any, int], int | None]


def _mixing(node: Any, why: str) -> Refusal:
    return Refusal(
        f"{node.op_type} {node.name or node.output[0]!r} {why}",
        "layers that take each step alone, LSTM, GRU or RNN, and the last step or every step out",
        "Convert it without --stream: it is asked window by window.",
    )


# --- what other operators do to the axis of time ------------------------------------


def _attribute(node: Any, name: str, otherwise: Any) -> Any:
    found = [one for one in node.attribute if one.name == name]
    return helper.get_attribute_value(found[0]) if found else otherwise


def _broadcast(cutter: _Cutter, node: Any, axis: int) -> int:
    rank = max(cutter.rank(name) for name in node.input)
    place = axis + rank - cutter.rank(next(n for n in node.input if cutter.time_of(n) is not None))
    for name in node.input:
        other = cutter.time_of(name)
        at = place - (rank - cutter.rank(name))
        if other is not None:
            if other != at:
                raise _mixing(node, "meets the sequence along another axis")
        elif not cutter.is_constant(name):
            raise _mixing(node, "joins the last step with all of them")
        elif at >= 0 and cutter.shape(name)[at] != 1:
            raise _mixing(node, "has a constant that differs from step to step")
    return place


def _product(cutter: _Cutter, node: Any, axis: int) -> int:
    left, right = node.input[:2]
    is_plain = cutter.is_constant(right) and cutter.rank(right) == 2
    if not is_plain or axis == cutter.rank(left) - 1:
        raise _mixing(node, "is computed from several steps at once")
    return axis


def _gemm(_: _Cutter, node: Any, axis: int) -> int:
    if axis != 0 or _attribute(node, "transA", 0):
        raise _mixing(node, "is computed from several steps at once")
    return axis


def _transpose(cutter: _Cutter, node: Any, axis: int) -> int:
    reverse = list(reversed(range(cutter.rank(node.input[0]))))
    return int(list(_attribute(node, "perm", reverse)).index(axis))


def _squeeze(cutter: _Cutter, node: Any, axis: int) -> int:
    rank = cutter.rank(node.input[0])
    ones = [place for place, size in enumerate(cutter.shape(node.input[0])) if size == 1]
    axes = {int(one) % rank for one in np.ravel(cutter.constant(node, 1, ones))}
    if axis in axes:
        raise _mixing(node, "drops the axis of time")
    return axis - sum(one < axis for one in axes)


def _unsqueeze(cutter: _Cutter, node: Any, axis: int) -> int:
    rank = cutter.rank(node.output[0])
    axes = {int(one) % rank for one in np.ravel(cutter.constant(node, 1))}
    return [place for place in range(rank) if place not in axes][axis]


def _along(cutter: _Cutter, node: Any, axis: int) -> int:
    """Follow time through what works along one axis, which must be another."""
    rank = cutter.rank(node.input[0])
    if int(_attribute(node, "axis", -1)) % rank == axis:
        raise _mixing(node, "is computed along the axis of time")
    return axis


def _normalised(cutter: _Cutter, node: Any, axis: int) -> int:
    if axis >= int(_attribute(node, "axis", -1)) % cutter.rank(node.input[0]):
        raise _mixing(node, "is computed along the axis of time")
    return axis


def _concat(cutter: _Cutter, node: Any, axis: int) -> int:
    if any(cutter.time_of(name) != axis for name in node.input):
        raise _mixing(node, "joins the sequence with something else")
    return _along(cutter, node, axis)


def _split(cutter: _Cutter, node: Any, axis: int) -> int:
    if int(_attribute(node, "axis", 0)) % cutter.rank(node.input[0]) == axis:
        raise _mixing(node, "parts the sequence")
    return axis


def _reduce(cutter: _Cutter, node: Any, axis: int) -> int:
    rank = cutter.rank(node.input[0])
    told = cutter.constant(node, 1, _attribute(node, "axes", list(range(rank))))
    axes = {int(one) % rank for one in np.ravel(told)}
    if axis in axes:
        raise _mixing(node, "is computed over all steps, which a stream never has")
    return axis if _attribute(node, "keepdims", 1) else axis - sum(one < axis for one in axes)


def _slice(cutter: _Cutter, node: Any, axis: int) -> int | None:
    rank = cutter.rank(node.input[0])
    starts, ends = cutter.constant(node, 1), cutter.constant(node, 2)
    axes = [int(one) % rank for one in cutter.constant(node, 3, list(range(len(starts))))]
    steps = cutter.constant(node, 4, [1] * len(starts))
    if axis not in axes:
        return axis
    place = axes.index(axis)
    start, end = int(starts[place]), int(ends[place])
    whole = start in (0, -cutter.length) and end >= cutter.length
    last = start in (-1, cutter.length - 1) and (end >= cutter.length)
    if steps[place] != 1 or not (whole or last):
        raise _mixing(node, f"takes steps {start} to {end} of {cutter.length}")
    starts, ends = starts.copy(), ends.copy()
    starts[place], ends[place] = -1 if last else 0, _TO_THE_END
    cutter.replace(node, 1, starts.astype(np.int64))
    cutter.replace(node, 2, ends.astype(np.int64))
    for number in (3, 4):
        if len(node.input) > number and node.input[number]:
            cutter.replace(node, number, cutter.constant(node, number).astype(np.int64))
    return None if last else axis


def _gather(cutter: _Cutter, node: Any, axis: int) -> int | None:
    along = int(_attribute(node, "axis", 0)) % cutter.rank(node.input[0])
    taken = cutter.constant(node, 1)
    if along != axis:
        return axis if along > axis else axis + taken.ndim - 1
    if taken.size != 1 or int(taken.reshape(())) not in (-1, cutter.length - 1):
        raise _mixing(node, f"takes the steps {np.ravel(taken).tolist()} of {cutter.length}")
    cutter.replace(node, 1, np.full(taken.shape, -1, np.int64))
    return None


def _flatten(_: _Cutter, node: Any, axis: int) -> int:
    if axis != 0 or int(_attribute(node, "axis", 1)) != 1:
        raise _mixing(node, "joins steps with other axes")
    return 0


def _reshape(cutter: _Cutter, node: Any, axis: int) -> int:
    return cutter.reshaped(node, axis)


def _convolution(_: _Cutter, node: Any, axis: int) -> int:
    """Follow time through a convolution that sees one step: its kernel there is one long."""
    place = axis - 2
    sizes = list(_attribute(node, "kernel_shape", ()))
    is_alone = (
        0 <= place < len(sizes)
        and sizes[place] == 1
        and list(_attribute(node, "strides", [1] * len(sizes)))[place] == 1
        and not any(_attribute(node, "pads", [0] * 2 * len(sizes))[place :: len(sizes)])
    )
    if not is_alone:
        raise _mixing(node, "is a convolution over several steps")
    return axis


def _by_channel(_: _Cutter, node: Any, axis: int) -> int:
    if axis == 1:
        raise _mixing(node, "has a constant that differs from step to step")
    return axis


_RULES: Mapping[str, _Rule] = {
    "BatchNormalization": _by_channel,
    "Concat": _concat,
    "Conv": _convolution,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "LayerNormalization": _normalised,
    "LogSoftmax": _along,
    "MatMul": _product,
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _along,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(_BROADCAST, _broadcast),
    **dict.fromkeys(_REDUCING, _reduce),
}
