"""Which operators of a TFLite file XNNPACK takes over on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["delegated_operators"]

_DELEGATE = "DELEGATE"


def delegated_operators(model: bytes) -> tuple[bool, ...]:
    """Return for each operator of the main graph whether a delegate runs it.

    The runtime lists its own operators and, behind them, the delegates' parts with the
    tensors that go in and out; what lies between these is taken over.

    Args:
        model: A ``.tflite`` file that the installed LiteRT runs.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    # The one way to see delegates from Python.
    nodes = interpreter._get_ops_details()  # noqa: SLF001
    plain = [one for one in nodes if one["op_name"] != _DELEGATE]
    parts = [one for one in nodes if one["op_name"] == _DELEGATE]
    makers = {int(tensor): place for place, one in enumerate(plain) for tensor in one["outputs"]}
    taken = {place for part in parts for place in _between(part, plain, makers)}
    return tuple(place in taken for place in range(len(plain)))


def _between(
    part: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], makers: Mapping[int, int]
) -> set[int]:
    """Return the operators from a part's outputs back to its inputs."""
    given = {int(tensor) for tensor in part["inputs"]}
    waiting, found = [int(tensor) for tensor in part["outputs"]], set[int]()
    while waiting:
        place = makers.get(waiting.pop())
        if place is None or place in found:
            continue
        found.add(place)
        waiting += [one for one in map(int, nodes[place]["inputs"]) if one not in given]
    return found
