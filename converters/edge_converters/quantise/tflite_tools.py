"""What is used of litert-quantizer, in one place."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edge_runtime.errors import MissingExtra, ModelError

__all__ = ["BITS", "Tools", "graph_of", "values_of"]

BITS = 8


class Tools:
    """The parts of litert-quantizer that are used here, imported once."""

    def __init__(self) -> None:
        qtyping = _imported("litert_quantizer.qtyping")
        algorithms = _imported("litert_quantizer.algorithm_manager")
        reading = _imported("litert_quantizer.utils.tfl_flatbuffer_utils")
        writing = _imported("ai_edge_litert.tools.flatbuffer_utils")
        self.quantizer: Any = _imported("litert_quantizer.quantizer")
        self.algorithms: Any = algorithms.AlgorithmName
        self.names: Any = qtyping.TFLOperationName
        self.read: Any = reading.read_model
        self.scope: Any = reading.get_op_scope
        schema = _imported("ai_edge_litert.schema_py_generated")
        self.float16: int = schema.TensorType.FLOAT16
        self.float32: int = schema.TensorType.FLOAT32
        self.dequantize: int = schema.BuiltinOperator.DEQUANTIZE
        self._layers = {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.FULLY_CONNECTED}
        activations = schema.ActivationFunctionType
        self._rectifiers = {activations.NONE, activations.RELU}
        self._write: Any = writing.convert_object_to_bytearray
        self._typing: Any = qtyping
        self._check: Any = algorithms.check_op_quantization_config
        self._kinds: Any = reading.TFL_OP_CODE_TO_NAME

    def modern(self, graph: Any) -> bytes:
        """Return a file that names its operators where new readers look for them.

        Files of old converters have the code in the deprecated field alone, and
        litert-quantizer takes every operator of such a file for an addition.
        """
        for code in graph.operatorCodes:
            code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
        _restore_halves(self, graph)
        # Which litert-quantizer takes for a list.
        graph.signatureDefs = graph.signatureDefs or []
        return bytes(self._write(graph))

    def exchanged(self, model: bytes, values: Mapping[str, np.ndarray]) -> bytes:
        """Return a file with other values in some constants, by tensor."""
        graph = self.read(model)
        for tensor in graph.subgraphs[0].tensors:
            name = tensor.name.decode() if isinstance(tensor.name, bytes) else tensor.name
            if name in values:
                raw = np.ascontiguousarray(values[name], np.float32).tobytes()
                graph.buffers[tensor.buffer].data = np.frombuffer(raw, np.uint8)
        return bytes(self._write(graph))

    def plain_kind(self, model: Any, operator: Any) -> int | None:
        """Return the code of a dense layer or convolution whose output is rectified at most."""
        code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if code not in self._layers:
            return None
        activation = operator.builtinOptions.fusedActivationFunction
        return code if activation in self._rectifiers else None

    def grain(self, per_channel: bool) -> Any:
        """Return how many scales weights have."""
        grains = self._typing.QuantGranularity
        return grains.CHANNELWISE if per_channel else grains.TENSORWISE

    def kind_of(self, model: Any, operator: Any) -> Any | None:
        """Return an operator's kind; None where int8 does not apply to it."""
        kind = self._kinds.get(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if kind is None or not self._applies(kind, self._int8()):
            return None
        return kind

    def can_have_integer_weights(self, kind: Any) -> bool:
        """Return whether the weights alone of such an operator can be int8."""
        config = self._typing.OpQuantizationConfig(
            weight_tensor_config=self._weights(),
            compute_precision=self._typing.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        )
        return self._applies(kind, config)

    def _int8(self) -> Any:
        return self._typing.OpQuantizationConfig(
            activation_tensor_config=self._typing.TensorQuantizationConfig(
                num_bits=BITS, symmetric=False
            ),
            weight_tensor_config=self._weights(),
            compute_precision=self._typing.ComputePrecision.INTEGER,
        )

    def _weights(self) -> Any:
        return self._typing.TensorQuantizationConfig(
            num_bits=BITS, symmetric=True, granularity=self._typing.QuantGranularity.CHANNELWISE
        )

    def _applies(self, kind: Any, config: Any) -> bool:
        try:
            self._check(self.algorithms.MIN_MAX_UNIFORM_QUANT, kind, config)
        except ValueError:
            return False
        return True


def _imported(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra.of("quantising TFLite", "litert-quantizer", "convert") from error


def values_of(model: Any, tensor: Any) -> np.ndarray:
    """Return the values of a float constant."""
    raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8).tobytes()
    return np.frombuffer(raw, np.float32).reshape(tensor.shape)


def _restore_halves(tools: Tools, model: Any) -> None:
    """Turn constants that are stored in half precision into float ones."""
    graph = model.subgraphs[0]
    halves = [one for one in graph.operators if _is_half(tools, model, one)]
    sources = [graph.tensors[one.inputs[0]] for one in halves]
    for place in {one.buffer for one in sources}:
        raw = np.asarray(model.buffers[place].data, np.uint8).tobytes()
        values = np.frombuffer(raw, np.float16).astype(np.float32)
        model.buffers[place].data = np.frombuffer(values.tobytes(), np.uint8)
    for one, source in zip(halves, sources, strict=True):
        graph.tensors[one.outputs[0]].buffer = source.buffer
    for source in sources:
        # Nobody reads it any more; the first buffer of a file is empty.
        source.buffer = 0
    graph.operators = [one for one in graph.operators if one not in halves]


def _is_half(tools: Tools, model: Any, operator: Any) -> bool:
    if model.operatorCodes[operator.opcodeIndex].builtinCode != tools.dequantize:
        return False
    source = model.subgraphs[0].tensors[operator.inputs[0]]
    return source.type == tools.float16 and model.buffers[source.buffer].data is not None


def graph_of(tools: Tools, model: bytes) -> Any:
    """Read a file.

    Raises:
        ModelError: It is none, or has loops or branches, whose graphs no tool quantises.
    """
    try:
        graph = tools.read(model)
        count, inputs = len(graph.subgraphs), len(graph.subgraphs[0].inputs)
    except Exception as error:
        raise ModelError(
            f"this is no TFLite model: {error}", remedy="Convert the model again."
        ) from error
    if count != 1 or inputs != 1:
        raise ModelError(
            f"the TFLite model has {count} graphs and {inputs} inputs",
            expected="one graph with one input",
            remedy="Cut a recurrent model into an ONNX cell with --stream N, or keep it float.",
        )
    return graph
