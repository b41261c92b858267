"""A float ONNX graph made ready for quantisation, and what stands in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import onnx
from onnx import numpy_helper

from edge_converters.quantise.contracts import Operator
from edge_converters.quantise.equalise import Pair
from edge_converters.quantise.recurrent import RECURRENT, WEIGHTS, is_one_step
from edge_runtime.errors import ModelError

__all__ = [
    "Unit",
    "constants_of",
    "drop_unused",
    "fix_batch",
    "inferred",
    "operators_of",
    "pairs_of",
    "prepare",
    "set_constants",
    "units_of",
    "weight_axis",
    "weights_of",
]

_LEAST_OPSET = 13
_ACTIVATIONS = frozenset({"Clip", "Relu"})
_MOVES = frozenset(
    {"Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}


class Unit(msgspec.Struct, frozen=True):
    """A node that can be quantised, and the activation behind it, which lives and dies with it.

    Attributes:
        name: Of the node.
        nodes: Names of both.
        kind: Operator type of the node.
        is_one_step: Whether it is a recurrent operator that can be unfolded; one that
            cannot has integers for its weights alone.
    """

    name: str
    nodes: tuple[str, ...]
    kind: str
    is_one_step: bool = False

    @property
    def is_recurrent(self) -> bool:
        """Whether it is a recurrent operator."""
        return self.kind in RECURRENT


def prepare(model: bytes) -> onnx.ModelProto:
    """Return the graph with names on all nodes, known shapes, weights unfolded and products joined.

    Raises:
        ModelError: The bytes are no ONNX model, or its operator set is too old for
            scales by channel.
    """
    try:
        graph = onnx.load_from_string(model)
        onnx.checker.check_model(graph)
        graph = inferred(graph)
    except Exception as error:
        raise ModelError(
            f"this is no ONNX model that can be quantised: {error}",
            remedy="Export it again, or check the file with the onnx package.",
        ) from error
    _check_opset(graph)
    _drop_constant_inputs(graph)
    _fold_weights(graph)
    _join_products(graph)
    _name_nodes(graph)
    return inferred(graph)


def constants_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the constants of a model by name."""
    return {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}


def units_of(model: onnx.ModelProto, kinds: frozenset[str]) -> tuple[Unit, ...]:
    """Return what can be quantised, in order of execution.

    Args:
        model: From `prepare`.
        kinds: Operators that can be.
    """
    return tuple(_units(model, (kinds - _MOVES) | RECURRENT))


def operators_of(model: onnx.ModelProto, units: Sequence[Unit]) -> tuple[Operator, ...]:
    """Describe units."""
    nodes = {node.name: node for node in model.graph.node}
    constants, shapes = constants_of(model), _shapes(model)
    return tuple(
        _operator(unit, nodes[unit.nodes[0]], nodes[unit.nodes[-1]], constants, shapes)
        for unit in units
    )


def pairs_of(model: onnx.ModelProto) -> tuple[Pair, ...]:
    """Return the layers whose channels can be equalised."""
    return tuple(_pairs(model))


def set_constants(model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Exchange the values of some constants."""
    for one in model.graph.initializer:
        if one.name in values:
            one.CopyFrom(numpy_helper.from_array(values[one.name], one.name))


def weight_axis(node: onnx.NodeProto) -> int | None:
    """Return the axis of output channels in a node's weights; None for one without weights."""
    if node.op_type in _OUTPUT_AXIS:
        return _OUTPUT_AXIS[node.op_type]
    if node.op_type in RECURRENT:
        return 1
    if node.op_type == "Gemm":
        return 0 if any(one.name == "transB" and one.i for one in node.attribute) else 1
    return 1 if node.op_type == "MatMul" else None


def weights_of(node: onnx.NodeProto) -> tuple[str, ...]:
    """Return the names of a node's weights, whether or not they are constants."""
    if weight_axis(node) is None:
        return ()
    places = WEIGHTS if node.op_type in RECURRENT else WEIGHTS[:1]
    return tuple(node.input[place] for place in places)


def fix_batch(model: onnx.ModelProto) -> None:
    """Let the model answer one window a call: free batch axes of its ports become 1.

    One with further inputs does already: they carry the state of one stream.
    """
    if len(model.graph.input) > 1:
        return
    for port in (*model.graph.input, *model.graph.output):
        sizes = port.type.tensor_type.shape.dim
        if sizes and not sizes[0].HasField("dim_value"):
            sizes[0].dim_value = 1
    del model.graph.value_info[:]


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the shapes that follow from its inputs."""
    del model.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model)


def drop_unused(model: onnx.ModelProto) -> None:
    """Drop the constants that no node reads."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [one for one in model.graph.initializer if one.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


# --- preparing ----------------------------------------------------------------------


def _check_opset(model: onnx.ModelProto) -> None:
    opset = next((one.version for one in model.opset_import if not one.domain), 0)
    if opset < _LEAST_OPSET:
        raise ModelError(
            f"the ONNX model uses operator set {opset}",
            expected=f"{_LEAST_OPSET} or newer, which have scales by channel",
            remedy="Export it again with opset 17.",
        )


def _drop_constant_inputs(model: onnx.ModelProto) -> None:
    """Let only what has to be fed be an input: old files list their constants there too."""
    constants = {one.name for one in model.graph.initializer}
    ports = [port for port in model.graph.input if port.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(ports)


def _fold_weights(model: onnx.ModelProto) -> None:
    """Turn constants that are dequantised in the graph into float constants."""
    constants = {one.name: one for one in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input):
            folded = numpy_helper.from_array(_dequantised(node, constants), node.output[0])
            model.graph.initializer.append(folded)
            model.graph.node.remove(node)
    drop_unused(model)


def _dequantised(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> np.ndarray:
    values, scale, *zero = (numpy_helper.to_array(constants[name]) for name in node.input)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    shape = [-1 if place == axis else 1 for place in range(values.ndim)] if scale.ndim else []
    shift = zero[0].astype(np.int32).reshape(shape) if zero else 0
    result: np.ndarray = (values.astype(np.int32) - shift) * scale.reshape(shape)
    return result.astype(np.float32)


def _join_products(model: onnx.ModelProto) -> None:
    """Make one Gemm of a matrix product and the bias added to it: one rounding instead of two."""
    constants = constants_of(model)
    ranks = {name: len(shape) for name, shape in _shapes(model).items()}
    uses = _uses(model)
    for product in list(model.graph.node):
        if product.op_type != "MatMul" or ranks.get(product.input[0]) != 2:
            continue
        added = _only_user(uses, product, model)
        if added is None or added.op_type != "Add":
            continue
        bias = next((name for name in added.input if name != product.output[0]), "")
        weights = constants.get(product.input[1])
        if weights is None or not _is_bias(constants.get(bias), weights.shape[-1]):
            continue
        _flatten(model, bias)
        product.op_type = "Gemm"
        product.input.append(bias)
        product.output[0] = added.output[0]
        model.graph.node.remove(added)


def _is_bias(values: np.ndarray | None, size: int) -> bool:
    return values is not None and values.size == size == values.shape[-1]


def _flatten(model: onnx.ModelProto, name: str) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).ravel(), name))


def _name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own that does not depend on the others."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)


# --- reading ------------------------------------------------------------------------


def _units(model: onnx.ModelProto, kinds: frozenset[str]) -> Iterator[Unit]:
    uses, seen = _uses(model), set[str]()
    constants, shapes = constants_of(model), _shapes(model)
    for node in model.graph.node:
        if node.name in seen or node.op_type not in kinds:
            continue
        if node.op_type in RECURRENT:
            if constants.keys() >= set(weights_of(node)):
                is_short = is_one_step(node, shapes.get(node.input[0], ()), constants)
                yield Unit(node.name, (node.name,), node.op_type, is_short)
            continue
        after = _only_user(uses, node, model)
        group = [node] + ([after] if after is not None and after.op_type in _ACTIVATIONS else [])
        seen |= {one.name for one in group}
        yield Unit(node.name, tuple(one.name for one in group), node.op_type)


def _pairs(model: onnx.ModelProto) -> Iterator[Pair]:
    uses, constants = _uses(model), constants_of(model)
    for node in model.graph.node:
        behind = _only_user(uses, node, model)
        if behind is not None and behind.op_type == "Relu":
            behind = _only_user(uses, behind, model)
        if behind is None or not (_is_plain(node, uses, constants) and behind.input[1:]):
            continue
        if not _is_plain(behind, uses, constants) or node.op_type != behind.op_type:
            continue
        bias = node.input[2] if len(node.input) > 2 else None
        if bias is None or (bias in constants and len(uses[bias]) == 1):
            axes = weight_axis(node) or 0, 1 - (weight_axis(behind) or 0)
            yield Pair(node.input[1], axes[0], bias, behind.input[1], axes[1])


def _is_plain(
    node: onnx.NodeProto,
    uses: dict[str, list[onnx.NodeProto]],
    constants: dict[str, np.ndarray],
) -> bool:
    """Return whether a layer has weights of its own, for all of its channels alike."""
    if node.op_type not in {"Conv", "Gemm"} or node.input[1] not in constants:
        return False
    is_grouped = any(one.name == "group" and one.i > 1 for one in node.attribute)
    return len(uses[node.input[1]]) == 1 and not is_grouped


def _operator(
    unit: Unit,
    node: onnx.NodeProto,
    last: onnx.NodeProto,
    constants: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
) -> Operator:
    # A recurrent operator need not give out every step.
    output = next(name for name in last.output if name)
    shape = shapes.get(output, ())
    weights = sum(constants[name].size for name in weights_of(node) if name in constants)
    return Operator(
        name=unit.name,
        kind=node.op_type,
        output=output,
        shape=shape,
        weights=weights,
        macs=_macs(node, weights, shape),
    )


def _macs(node: onnx.NodeProto, weights: int, shape: tuple[int, ...]) -> int | None:
    if node.op_type in {"Gemm", "MatMul"}:
        return weights or None
    if node.op_type != "Conv" or not all(shape[2:]):
        return None
    return weights * int(np.prod(shape[2:]))


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)
    }


def _uses(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    uses: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            uses.setdefault(name, []).append(node)
    return uses


def _only_user(
    uses: dict[str, list[onnx.NodeProto]], node: onnx.NodeProto, model: onnx.ModelProto
) -> onnx.NodeProto | None:
    users = uses.get(node.output[0], []) if node.output[0] else []
    is_answer = any(node.output[0] == port.name for port in model.graph.output)
    return users[0] if len(users) == 1 and not is_answer else None
