"""Quantised TFLite files, made by litert-quantizer with ranges of our own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from typing import Any

import numpy as np

from edge_converters.quantise.answers import answer, answer_all, check_windows
from edge_converters.quantise.contracts import (
    INPUT,
    OUTPUT,
    Calibration,
    Cure,
    Format,
    Operator,
    Precision,
    Recipe,
    Scale,
    TensorStatistics,
)
from edge_converters.quantise.equalise import Factors, Pair, equalised, find_factors
from edge_converters.quantise.recipes import recipe_for
from edge_converters.quantise.statistics import Gathered
from edge_converters.quantise.tflite_tools import BITS, Tools, graph_of, values_of
from edge_runtime.backends import backend_of
from edge_runtime.errors import EdgeError, ModelError

__all__ = ["TFLiteQuantiser"]

_LARGEST = 127
_WEIGHTS_INPUT = 1


class TFLiteQuantiser:
    """One float TFLite model, and the files that can be made of it; a `Quantiser`.

    Input and output are operators of their own: int8 where they keep the budget.

    Args:
        model: A complete ``.tflite`` file with one graph and one input.

    Raises:
        ModelError: It is none, or has loops or branches, whose graphs no tool quantises.
        MissingExtra: litert-quantizer is not installed.
    """

    format: Format = "tflite"

    def __init__(self, model: bytes) -> None:
        self.model = model
        # Proves the runtime once, and lets it say what it says about itself out of sight.
        backend_of(None, self.format).probe()
        self._tools = Tools()
        self._graph = graph_of(self._tools, model)
        self._modern = self._tools.modern(self._graph)
        self._kinds: dict[str, Any] = {}
        self.operators = tuple(self._read())
        self._pairs = tuple(self._find_pairs())
        self._equalised: tuple[Factors, bytes] = ({}, self._modern)

    def calibrate(self, windows: np.ndarray) -> Calibration:
        """Run the float model and keep the statistics of every float tensor.

        Args:
            windows: Shape (n, …), float32; n at least 1.

        Raises:
            ShapeError: ``windows`` does not fit the input.
            ModelError: A value is not finite.
        """
        shape = [int(size) for size in self._entry().shape[1:]]
        check_windows(windows, _text(self._entry().name), shape)
        factors = find_factors(self._constants(), self._pairs)
        return Calibration(
            windows=len(windows),
            tensors=self._statistics(windows, {}),
            factors=factors,
            equalised=self._statistics(windows, factors) if factors else {},
        )

    def _statistics(self, windows: np.ndarray, factors: Factors) -> dict[str, TensorStatistics]:
        interpreter = self._open_all(factors)
        entry = interpreter.get_input_details()[0]["index"]
        gathered = {place: Gathered(name) for place, name in self._activations()}
        for window in windows:
            interpreter.set_tensor(entry, window[np.newaxis])
            interpreter.invoke()
            for place, one in gathered.items():
                one.add(interpreter.get_tensor(place))
        return {name: gathered[place].statistics() for place, name in self._activations()}

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

        Raises:
            ModelError: litert-quantizer cannot make it.
        """
        if recipe.precision == "float32":
            return self.model
        try:
            # litert-quantizer warns of its own settings, and draws bars for large models.
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                return self._quantised(recipe)
        except EdgeError:
            raise
        except Exception as error:
            raise ModelError(
                f"the TFLite model cannot be made {recipe.precision}: {error}",
                remedy="Choose another precision, or keep the model float.",
            ) from error

    def run(self, model: bytes, windows: np.ndarray) -> np.ndarray:
        """Answer windows with ``model`` as a device would, shape (n, …), real values."""
        return answer(self.format, model, windows)

    def run_all(self, model: bytes, windows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Answer windows with every output of ``model``, the deciding one first."""
        return answer_all(self.format, model, windows)

    def scales(self, model: bytes) -> dict[str, Scale]:
        """Read the scales of all integer tensors of ``model``."""
        tensors = graph_of(self._tools, model).subgraphs[0].tensors
        return {
            _text(tensor.name): _scale(tensor.quantization)
            for tensor in tensors
            if tensor.quantization is not None and tensor.quantization.scale is not None
        }

    def weights(self, factors: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
        """Return the float constants of products and convolutions, by tensor."""
        graph = self._graph.subgraphs[0]
        places = [one.inputs[_WEIGHTS_INPUT] for one in graph.operators if self._weights(one)]
        names = {_text(graph.tensors[place].name) for place in places}
        constants = self._constants()
        values = constants | equalised(constants, self._pairs, factors)
        return {name: one for name, one in values.items() if name in names}

    # --- files ----------------------------------------------------------------------

    def _quantised(self, recipe: Recipe) -> bytes:
        tools = self._tools
        quantizer = tools.quantizer.Quantizer(self._file(recipe.factors))
        self._configure(quantizer, recipe)
        if not quantizer.get_quantization_recipe() or self._keeps_all(recipe):
            return self.model
        known = self._known(recipe) if quantizer.need_calibration else None
        made = quantizer.quantize(known, enable_progress_bar=False, enable_progress_report=False)
        return bytes(made.quantized_model)

    def _file(self, factors: Factors) -> bytes:
        """Return the float file with channels divided by ``factors``; the last one is kept."""
        if self._equalised[0] != factors:
            values = equalised(self._constants(), self._pairs, factors)
            self._equalised = factors, self._tools.exchanged(self._modern, values)
        return self._equalised[1]

    def _configure(self, quantizer: Any, recipe: Recipe) -> None:
        everything = self._tools.names.ALL_SUPPORTED
        grain = self._tools.grain(recipe.per_channel)
        if recipe.precision == "float16":
            key = self._tools.algorithms.FLOAT_CASTING
            quantizer.add_weight_only_config(".*", everything, 16, algorithm_key=key)
        elif recipe.precision == "dynamic":
            quantizer.add_dynamic_config(".*", everything, BITS, grain)
        else:
            quantizer.add_static_config(".*", everything, BITS, BITS, grain)
        for name, cure in recipe.cures.items():
            self._cure(quantizer, name, cure, grain)

    def _cure(self, quantizer: Any, name: str, cure: Cure, grain: Any) -> None:
        kind, scope = self._kinds[name]
        pattern = f"^{re.escape(scope)}$"
        if cure == "weights" and self._tools.can_have_integer_weights(kind):
            quantizer.add_weight_only_config(pattern, kind, BITS, grain)
            return
        key = self._tools.algorithms.NO_QUANTIZE
        quantizer.update_quantization_recipe(pattern, kind, algorithm_key=key)

    def _keeps_all(self, recipe: Recipe) -> bool:
        return all(recipe.cures.get(one.name) == "float" for one in self.operators)

    def _known(self, recipe: Recipe) -> dict[str, dict[str, np.ndarray]]:
        """Return the ranges as litert-quantizer wants them, those of given scales included."""
        tensors = {_text(one.name): one for one in self._graph.subgraphs[0].tensors}
        ranges = {name: _range(*given) for name, given in recipe.ranges.items()}
        weights = {
            name: _range_of(scale, len(tensors[name].shape))
            for name, scale in recipe.scales.items()
        }
        return ranges | weights

    # --- reading --------------------------------------------------------------------

    def _read(self) -> Iterator[Operator]:
        """Describe what int8 recipes apply to, and remember how they find it."""
        graph, tools = self._graph.subgraphs[0], self._tools
        yield self._port(INPUT, graph.inputs, tools.names.INPUT)
        for one in graph.operators:
            kind = tools.kind_of(self._graph, one)
            if kind is not None:
                yield self._operator(one, kind)
        yield self._port(OUTPUT, graph.outputs, tools.names.OUTPUT)

    def _port(self, name: str, places: Any, kind: Any) -> Operator:
        tensors = self._graph.subgraphs[0].tensors
        tensor = tensors[places[0]]
        # As litert-quantizer writes the scope of a port: its tensor names, each closed by ";".
        self._kinds[name] = kind, "".join(f"{_text(tensors[one].name)};" for one in places)
        return Operator(
            name=name, kind=name, output=_text(tensor.name), shape=tuple(map(int, tensor.shape))
        )

    def _operator(self, operator: Any, kind: Any) -> Operator:
        tensors = self._graph.subgraphs[0].tensors
        output = tensors[operator.outputs[0]]
        name, shape = _text(output.name), tuple(map(int, output.shape))
        weights = self._weights(operator) if self._tools.can_have_integer_weights(kind) else 0
        self._kinds[name] = kind, self._tools.scope(operator, tensors)
        return Operator(
            name=name,
            kind=str(kind.value),
            output=name,
            shape=shape,
            weights=weights,
            macs=_macs(str(kind.value), weights, shape),
        )

    def _weights(self, operator: Any) -> int:
        if len(operator.inputs) <= _WEIGHTS_INPUT:
            return 0
        tensor = self._graph.subgraphs[0].tensors[operator.inputs[_WEIGHTS_INPUT]]
        has_values = self._graph.buffers[tensor.buffer].data is not None
        return int(np.prod(tensor.shape)) if has_values else 0

    def _entry(self) -> Any:
        graph = self._graph.subgraphs[0]
        return graph.tensors[graph.inputs[0]]

    def _constants(self) -> dict[str, np.ndarray]:
        """Return the float constants by tensor."""
        return {
            _text(one.name): values_of(self._graph, one)
            for one in self._graph.subgraphs[0].tensors
            if one.type == self._tools.float32 and self._graph.buffers[one.buffer].data is not None
        }

    def _find_pairs(self) -> Iterator[Pair]:
        """Find layers that follow each other with nothing but a rectifier between them."""
        graph = self._graph.subgraphs[0]
        users: dict[int, list[Any]] = {}
        for one in graph.operators:
            for place in one.inputs:
                users.setdefault(int(place), []).append(one)
        own = self._constants().keys()
        for one in graph.operators:
            behind = users.get(int(one.outputs[0]), [])
            if len(behind) != 1 or one.outputs[0] in graph.outputs:
                continue
            kind = self._tools.plain_kind(self._graph, one)
            if kind is None or kind != self._tools.plain_kind(self._graph, behind[0]):
                continue
            names = [_text(graph.tensors[place].name) for place in one.inputs[1:] if place >= 0]
            second = behind[0].inputs[_WEIGHTS_INPUT]
            names.append(_text(graph.tensors[second].name))
            shared = [place for place in (*one.inputs[1:], second) if len(users[int(place)]) > 1]
            if not shared and own >= set(names):
                bias = names[1] if len(names) > 2 else None
                rank = len(graph.tensors[second].shape)
                yield Pair(names[0], 0, bias, names[-1], rank - 1)

    def _activations(self) -> Iterator[tuple[int, str]]:
        """Return place and name of the float tensors that are computed."""
        for place, tensor in enumerate(self._graph.subgraphs[0].tensors):
            is_constant = self._graph.buffers[tensor.buffer].data is not None
            if tensor.type == self._tools.float32 and not is_constant and not tensor.isVariable:
                yield place, _text(tensor.name)

    def _open_all(self, factors: Factors) -> Any:
        """Open the float model so that every tensor can be read after a call."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        interpreter = Interpreter(
            model_content=self._file(factors),
            num_threads=1,
            # Without a delegate, which would keep tensors to itself.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        return interpreter


def _macs(kind: str, weights: int, shape: tuple[int, ...]) -> int | None:
    if kind == "FULLY_CONNECTED":
        return weights
    if kind in {"CONV_2D", "DEPTHWISE_CONV_2D"}:
        return weights * int(np.prod(shape[1:3]))
    return None


def _range(low: float, high: float) -> dict[str, np.ndarray]:
    return {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}


def _range_of(scale: Scale, rank: int) -> dict[str, np.ndarray]:
    """Return the symmetric range whose scale is the given one."""
    shape = [-1 if place == scale.axis else 1 for place in range(rank)]
    largest = np.array(scale.scale, np.float32).reshape(shape) * np.float32(_LARGEST)
    return {"min": -largest, "max": largest}


def _scale(given: Any) -> Scale:
    scale = np.atleast_1d(given.scale)
    zero = np.atleast_1d(given.zeroPoint)
    return Scale(
        scale=tuple(scale.astype(float).tolist()),
        zero_point=tuple(zero.astype(int).tolist()),
        axis=int(given.quantizedDimension) if len(scale) > 1 else None,
    )


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
