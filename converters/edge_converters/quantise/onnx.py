"""Quantised ONNX files: QDQ with scales by channel, dynamic, half precision, and mixed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_converters.quantise.answers import answer, answer_all, check_windows
from edge_converters.quantise.contracts import (
    Calibration,
    Cure,
    Format,
    Precision,
    Recipe,
    Scale,
    TensorStatistics,
)
from edge_converters.quantise.equalise import equalised, find_factors
from edge_converters.quantise.onnx_graph import (
    constants_of,
    drop_unused,
    fix_batch,
    inferred,
    operators_of,
    pairs_of,
    prepare,
    set_constants,
    units_of,
    weight_axis,
    weights_of,
)
from edge_converters.quantise.recipes import recipe_for
from edge_converters.quantise.recurrent import RECURRENT, unfold
from edge_converters.quantise.statistics import Gathered
from edge_runtime.backends.onnx_state import Carried
from edge_runtime.errors import EdgeError, ModelError
from edge_runtime.ports import SessionOptions

__all__ = ["OnnxQuantiser"]

_BLOCK_WINDOWS = 32
_LARGEST = 127
_MIDDLE = 128
_FLOAT = onnx.TensorProto.FLOAT


class OnnxQuantiser:
    """One float ONNX model, and the files that can be made of it; a `Quantiser`.

    Input, output and state stay float: the graph quantises what it is given.
    A recurrent operator of one step becomes integer products with float gates between
    them; one of several steps has integers for its weights alone.

    Args:
        model: A complete ``.onnx`` file.
        options: How it is fed; None for a model with one input. With state it is asked
            sequences, shape (n, steps, …), and begins each with none.

    Raises:
        ModelError: It is none, or its operator set is older than 13.
    """

    format: Format = "onnx"

    def __init__(self, model: bytes, options: SessionOptions | None = None) -> None:
        self.model = model
        self._options = options or SessionOptions()
        self._state = self._options.state
        self._graph = prepare(model)
        units = units_of(self._graph, _quantisable())
        self._units = {unit.name: unit for unit in units}
        self.operators = operators_of(self._graph, units)
        self._pairs = pairs_of(self._graph)

    def calibrate(self, windows: np.ndarray) -> Calibration:
        """Run the float model and keep the statistics of every float tensor.

        Args:
            windows: Shape (n, …), or (n, steps, …) for a model with state, which is
                carried from step to step; float32, n at least 1.

        Raises:
            ShapeError: ``windows`` does not fit the input.
            ModelError: A value is not finite, or the model has inputs that nobody fills.
        """
        self._check_inputs()
        self._check_shape(windows)
        factors = find_factors(constants_of(self._graph), self._pairs)
        return Calibration(
            windows=len(windows),
            tensors=self._statistics(windows, {}),
            factors=factors,
            equalised=self._statistics(windows, factors) if factors else {},
        )

    def _statistics(
        self, windows: np.ndarray, factors: Mapping[str, Sequence[float]]
    ) -> dict[str, TensorStatistics]:
        session, names = self._open_all(factors)
        gathered = {name: Gathered(name) for name in (self._entry.name, *names)}
        for sequence in windows if self._has_state else [windows]:
            for name, values in self._seen(session, names, sequence):
                gathered[name].add(values)
        return {name: one.statistics() for name, one in gathered.items()}

    def _seen(
        self, session: Any, names: Sequence[str], windows: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the values of tensors, from windows that follow each other from no state.

        Steps of a sequence come together: each is a few values, and counting them costs
        more than computing them.
        """
        entry, carried = self._entry.name, self._carried()
        steps = []
        for first in range(0, len(windows), self._block()):
            block = windows[first : first + self._block()]
            answers = session.run([*names, *carried.outputs], {entry: block, **carried.feed()})
            carried.take(answers[len(names) :])
            steps.append(answers[: len(names)])
            if not self._has_state:
                yield from zip(names, steps.pop(), strict=True)
        yield entry, windows
        if steps:
            yield from zip(names, map(np.stack, zip(*steps, strict=True)), strict=True)

    def _carried(self) -> Carried:
        return Carried(self.format, dict(map(_array_of, self._graph.graph.input)), self._state)

    @property
    def _has_state(self) -> bool:
        return bool(self._state.tensors)

    def recipe(
        self,
        precision: Precision,
        calibration: Calibration | None,
        cures: Mapping[str, Cure],
        *,
        is_equalised: bool = True,
    ) -> Recipe:
        """Write down what `quantise` needs; int8 and mixed need a calibration."""
        return recipe_for(
            self.format, self.model, precision, calibration, cures, is_equalised=is_equalised
        )

    def quantise(self, recipe: Recipe) -> bytes:
        """Return the file that ``recipe`` describes; the same bytes every time.

        Half precision and dynamic files answer one window a call, because windows of a
        batch would change each other's answers: half precision takes other kernels for
        a batch, and dynamic files one scale of activations for all of it.

        Raises:
            ModelError: ONNX Runtime's tools cannot make it.
        """
        if recipe.precision == "float32":
            return self.model
        try:
            with _quiet():
                return self._quantised(recipe)
        except EdgeError:
            raise
        except Exception as error:
            raise ModelError(
                f"the ONNX model cannot be made {recipe.precision}: {error}",
                remedy="Choose another precision, or keep the model float.",
            ) from error

    def run(self, model: bytes, windows: np.ndarray) -> np.ndarray:
        """Answer windows with ``model`` as a device would, shape (n, …), real values."""
        return answer(self.format, model, windows, self._options)

    def run_all(self, model: bytes, windows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Answer windows with every output of ``model``, the deciding one first."""
        return answer_all(self.format, model, windows, self._options)

    def scales(self, model: bytes) -> dict[str, Scale]:
        """Read the scales of all integer constants and activations of ``model``."""
        graph = onnx.load_from_string(model)
        constants = constants_of(graph)
        return {
            node.input[0].removesuffix("_quantized"): _scale(node, constants)
            for node in graph.graph.node
            if node.op_type in {"DequantizeLinear", "QuantizeLinear"}
        }

    def weights(self, factors: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        """Return the float constants of products and convolutions, by tensor."""
        model = self._copy(factors)
        self._unfold(model, set())
        constants = constants_of(model)
        names = [name for node in model.graph.node for name in weights_of(node)]
        return {name: constants[name] for name in names if name in constants}

    # --- files ----------------------------------------------------------------------

    def _quantised(self, recipe: Recipe) -> bytes:
        if recipe.precision == "float16":
            return self._float16()
        if not self.operators:
            raise ModelError(
                f"nothing in the ONNX model can be made {recipe.precision}",
                expected="products, convolutions or recurrent operators outside of branches "
                "and loops",
                remedy="Choose float16, or keep the model float.",
            )
        return self._dynamic(recipe) if recipe.precision == "dynamic" else self._static(recipe)

    def _float16(self) -> bytes:
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(self._copy(), keep_io_types=True)
        fix_batch(model)
        return bytes(model.SerializeToString())

    def _dynamic(self, recipe: Recipe) -> bytes:
        from onnxruntime.quantization import QuantizationMode, QuantType
        from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

        quantizer = ONNXQuantizer(
            self._copy(),
            recipe.per_channel,
            False,
            QuantizationMode.IntegerOps,
            False,
            _type_of(recipe),
            QuantType.QUInt8,
            None,
            [],
            sorted(self._excluded(recipe)),
            ["MatMul"],
            {"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
        quantizer.quantize_model()
        model = quantizer.model.model
        # Integer convolutions that find their scales at run time are slower than float
        # ones, and there are none of recurrent operators.
        stored = {
            name
            for name, unit in self._units.items()
            if unit.kind.startswith("Conv") or unit.is_recurrent
        }
        _quantise_weights(model, stored - recipe.cures.keys(), recipe)
        fix_batch(model)
        return bytes(model.SerializeToString())

    def _static(self, recipe: Recipe) -> bytes:
        excluded = self._excluded(recipe)
        model = self._copy(recipe.factors)
        products, gates = self._unfold(model, set(recipe.cures))
        excluded |= gates
        if len(excluded) < len(model.graph.node):
            model = _with_qdq(inferred(model), recipe, sorted(excluded))
            _leave_sums(model, products)
        kept = {name for name, cure in recipe.cures.items() if cure == "weights"}
        left = {one.name for one in model.graph.node if one.op_type in RECURRENT}
        _quantise_weights(model, kept | (left - recipe.cures.keys()), recipe)
        return bytes(model.SerializeToString())

    def _unfold(self, model: onnx.ModelProto, kept: set[str]) -> tuple[set[str], set[str]]:
        """Unfold recurrent operators of one step; return their products and their gates."""
        products, gates = set[str](), set[str]()
        for name, unit in self._units.items():
            if unit.is_one_step and name not in kept:
                found = unfold(model, name)
                products |= found[0]
                gates |= found[1]
        drop_unused(model)
        return products, gates

    def _excluded(self, recipe: Recipe) -> set[str]:
        """Return the nodes that stay float, activations behind them included."""
        return {node for name in recipe.cures for node in self._units[name].nodes}

    def _copy(self, factors: Mapping[str, Sequence[float]] | None = None) -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(self._graph)
        if factors:
            set_constants(copy, equalised(constants_of(copy), self._pairs, factors))
        return copy

    # --- calibration ----------------------------------------------------------------

    def _check_inputs(self) -> None:
        names = [port.name for port in self._entries()]
        if len(names) != 1:
            raise ModelError(
                f"nobody fills the inputs {', '.join(names[1:])}",
                where="calibration",
                expected="one window, and state or a constant for every other input",
                remedy="Name inputs and outputs of state alike, such as h_in and h_out; or "
                "give a constant.",
            )

    def _check_shape(self, windows: np.ndarray) -> None:
        sizes = [size.dim_value or None for size in self._entry.type.tensor_type.shape.dim]
        steps = windows.reshape(-1, *windows.shape[2:]) if self._has_state else windows
        check_windows(steps, self._entry.name, sizes[1:])

    def _entries(self) -> list[onnx.ValueInfoProto]:
        """Return the inputs that neither state nor a constant fills."""
        filled = {one.input for one in self._state.tensors} | self._state.constants.keys()
        return [port for port in self._graph.graph.input if port.name not in filled]

    @property
    def _entry(self) -> onnx.ValueInfoProto:
        return self._entries()[0]

    def _block(self) -> int:
        if self._has_state:
            return 1
        return self._entry.type.tensor_type.shape.dim[0].dim_value or _BLOCK_WINDOWS

    def _open_all(self, factors: Mapping[str, Sequence[float]]) -> tuple[Any, list[str]]:
        """Open the float model with all its float tensors as outputs."""
        import onnxruntime

        model = self._copy(factors)
        self._unfold(model, set())
        model = inferred(model)
        answers = {port.name for port in model.graph.output}
        inner = [
            value
            for value in model.graph.value_info
            if value.type.tensor_type.elem_type == _FLOAT and value.name not in answers
        ]
        model.graph.output.extend(inner)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        floats = [one.name for one in session.get_outputs() if one.type == "tensor(float)"]
        return session, floats


# --- nodes --------------------------------------------------------------------------


def _with_qdq(model: onnx.ModelProto, recipe: Recipe, excluded: list[str]) -> onnx.ModelProto:
    """Let ONNX Runtime's tools put QuantizeLinear and DequantizeLinear around the rest."""
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorData, TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    ranges = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in recipe.ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        recipe.per_channel,
        False,
        _type_of(recipe),
        _type_of(recipe),
        TensorsData(CalibrationMethod.MinMax, ranges),
        [],
        excluded,
        sorted(_quantisable()),
        {"TensorQuantOverrides": _overrides(model, recipe), "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _leave_sums(model: onnx.ModelProto, products: set[str]) -> None:
    """Take integers away from the sums of a cell's products, which its float gates read.

    Their largest values decide the scale, and the small ones of a state that has just
    begun would get few steps of it: 6 dB in the first steps.
    """
    nodes = {one.output[0]: one for one in model.graph.node}
    for name in products:
        undo = nodes[f"{name}_DequantizeLinear_Output"]
        do = nodes[undo.input[0]]
        for node in model.graph.node:
            node.input[:] = [do.input[0] if one == undo.output[0] else one for one in node.input]
        model.graph.node.remove(do)
        model.graph.node.remove(undo)
    drop_unused(model)


def _quantisable() -> frozenset[str]:
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    return frozenset({*QDQRegistry, *QLinearOpsRegistry})


def _type_of(recipe: Recipe) -> Any:
    from onnxruntime.quantization import QuantType

    return QuantType.QInt8 if recipe.integers == "int8" else QuantType.QUInt8


def _overrides(model: onnx.ModelProto, recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    dtype = np.int8 if recipe.integers == "int8" else np.uint8
    scales = dict(_weight_scales(model, recipe)) | recipe.scales
    return {name: list(_override(scale, dtype)) for name, scale in scales.items()}


def _weight_scales(model: onnx.ModelProto, recipe: Recipe) -> Iterator[tuple[str, Scale]]:
    """Yield the scales of weights: 127 steps to either side of the zero point, as in TFLite.

    ONNX Runtime's own for unsigned integers clip the largest weight by half a step.
    """
    constants = constants_of(model)
    zero_point = 0 if recipe.integers == "int8" else _MIDDLE
    for node in model.graph.node:
        axis = weight_axis(node)
        if axis is None or node.op_type in RECURRENT or node.input[1] not in constants:
            continue
        weights = constants[node.input[1]]
        if weights.ndim <= axis:
            continue
        axis = axis if recipe.per_channel else None
        scale = _weight_scale(weights, axis).astype(float)
        yield node.input[1], Scale(tuple(scale.tolist()), (zero_point,) * len(scale), axis)


def _override(given: Scale, dtype: type[np.integer[Any]]) -> Iterator[dict[str, Any]]:
    for scale, zero_point in zip(given.scale, given.zero_point, strict=True):
        one = {"scale": np.float32(scale), "zero_point": dtype(zero_point)}
        yield one if given.axis is None else one | {"axis": given.axis}


def _quantise_weights(model: onnx.ModelProto, names: set[str], recipe: Recipe) -> None:
    """Store the weights of some nodes as integers that the graph makes float again."""
    constants = constants_of(model)
    for node in list(model.graph.node):
        if node.name not in names:
            continue
        axis = weight_axis(node) if recipe.per_channel else None
        for name in weights_of(node):
            if name in constants:
                _store(model, node, name, constants[name], axis, recipe.scales.get(name))
    drop_unused(model)


def _store(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    name: str,
    weights: np.ndarray,
    axis: int | None,
    given: Scale | None,
) -> None:
    scale = _weight_scale(weights, axis) if given is None else np.array(given.scale, np.float32)
    shape = [-1 if place == axis else 1 for place in range(weights.ndim)]
    spread = scale if axis is None else scale.reshape(shape)
    integers = np.clip(np.rint(weights / spread), -_LARGEST, _LARGEST).astype(np.int8)
    stored = {
        f"{name}_quantized": integers,
        f"{name}_scale": scale if axis is not None else scale.reshape(()),
        f"{name}_zero_point": np.zeros(scale.shape if axis is not None else (), np.int8),
    }
    if f"{name}_quantized" not in {one.name for one in model.graph.initializer}:
        model.graph.initializer.extend(
            numpy_helper.from_array(values, key) for key, values in stored.items()
        )
    restored = f"{name}_of_{node.name}"
    attributes = {} if axis is None else {"axis": axis}
    undo = helper.make_node("DequantizeLinear", list(stored), [restored], restored, **attributes)
    model.graph.node.insert(0, undo)
    node.input[list(node.input).index(name)] = restored


def _weight_scale(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """Return the scales of symmetric integers, one for the tensor or for each channel."""
    others = tuple(place for place in range(weights.ndim) if place != axis)
    largest = np.abs(weights).max(others if axis is not None else None)
    scale = np.atleast_1d(largest / np.float32(_LARGEST)).astype(np.float32)
    scale[scale == 0] = 1.0
    return scale


def _array_of(port: onnx.ValueInfoProto) -> tuple[str, tuple[tuple[int, ...], str]]:
    """Return name, shape and dtype of an input; free axes are 1."""
    tensor = port.type.tensor_type
    shape = tuple(size.dim_value or 1 for size in tensor.shape.dim)
    return port.name, (shape, str(helper.tensor_dtype_to_np_dtype(tensor.elem_type)))


def _scale(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> Scale:
    scale = constants[node.input[1]]
    zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.int8)
    axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
    return Scale(
        scale=tuple(np.atleast_1d(scale).astype(float).tolist()),
        zero_point=tuple(np.atleast_1d(zero).astype(int).tolist()),
        axis=axis if scale.ndim else None,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tools' advice on preparing models, which is done here, out of the log."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
