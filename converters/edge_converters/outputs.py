"""The outputs of a file: the first one decides, and the others are proven like it.

Sessions answer with the first output alone. To ask for another one, a copy of the file
names it first.
"""

from __future__ import annotations

from typing import TypeVar

from edge_converters.tflite_file import read_file, write_file
from edge_runtime.backends.onnx_graph import OnnxGraph, read_graph
from edge_runtime.backends.onnx_state import guess_state
from edge_runtime.errors import ModelError
from edge_runtime.spec import StateSpec

__all__ = ["further_outputs", "led_by", "state_of"]

T = TypeVar("T")


def state_of(form: str, model: bytes, constants: dict[str, float]) -> StateSpec:
    """Return what carries state in a file, by the names of its inputs and outputs.

    Args:
        form: ``onnx`` or ``tflite``, whose sessions find their own state.
        model: The file.
        constants: Values of further inputs, by name.

    Raises:
        ModelError: The file cannot be read.
    """
    if form != "onnx":
        return StateSpec(constants=constants)
    graph = _graph(model)
    others = [(one.name, one.shape) for one in graph.inputs[1:] if one.name not in constants]
    answers = [(one.name, one.shape) for one in graph.outputs[1:]]
    return StateSpec(tensors=guess_state(others, answers), constants=constants)


def further_outputs(form: str, model: bytes, state: StateSpec) -> dict[str, int]:
    """Return the place of every output but the first and those of state, by its name.

    Raises:
        ModelError: The file cannot be read.
    """
    of_state = {one.output for one in state.tensors}
    names = enumerate(_names(form, model))
    return {name: place for place, name in names if place and name not in of_state}


def led_by(form: str, model: bytes, place: int) -> bytes:
    """Return a file with the same outputs, the one at ``place`` first."""
    if form == "onnx":
        import onnx

        proto = onnx.load_from_string(model)
        ports = _led(list(proto.graph.output), place)
        del proto.graph.output[:]
        proto.graph.output.extend(ports)
        return bytes(proto.SerializeToString())
    parsed = read_file(model)
    graph = parsed.subgraphs[0]
    graph.outputs = _led([int(one) for one in graph.outputs], place)
    return write_file(parsed)


def _graph(model: bytes) -> OnnxGraph:
    try:
        return read_graph(model)
    except (ValueError, IndexError, OverflowError) as error:
        raise ModelError(
            f"the file cannot be read: {error}",
            expected="a complete ONNX model in one file",
            remedy="Compare the file's digest with its origin's; export it again.",
        ) from error


def _led(ports: list[T], place: int) -> list[T]:
    return [ports[place], *ports[:place], *ports[place + 1 :]]


def _names(form: str, model: bytes) -> list[str]:
    if form == "onnx":
        return [one.name for one in _graph(model).outputs]
    graph = read_file(model).subgraphs[0]
    return [graph.tensors[place].name.decode() for place in graph.outputs]
