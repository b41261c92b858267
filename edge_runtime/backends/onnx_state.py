"""State that an ONNX model takes in and gives out as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edge_runtime.backends.faults import cannot_restore
from edge_runtime.spec import StateSpec, StateTensor

__all__ = ["Carried", "guess_state"]


class Carried:
    """The inputs of a model that are not the window: state, and constants.

    Arrays are tied to a binding once and keep their place in memory, or are
    fed to each run by name.

    Args:
        backend: Name for messages.
        inputs: Names, shapes and dtypes of these inputs; free axes are 1 already.
        spec: Which of them are state, and the value of the others.
    """

    def __init__(
        self, backend: str, inputs: dict[str, tuple[tuple[int, ...], str]], spec: StateSpec
    ) -> None:
        self._backend = backend
        self._constants = {
            name: np.full(inputs[name][0], value, inputs[name][1])
            for name, value in spec.constants.items()
        }
        self._pairs = [
            (one, np.zeros(*inputs[one.input]), np.zeros(*inputs[one.input]))
            for one in spec.tensors
        ]

    def bind(self, binding: Any) -> None:
        """Tie all arrays to a binding."""
        for name, value in self._constants.items():
            _bind(binding.bind_input, name, value)
        for one, before, after in self._pairs:
            _bind(binding.bind_input, one.input, before)
            _bind(binding.bind_output, one.output, after)

    def advance(self) -> None:
        """Make the state that the last run gave out the one that the next takes in."""
        for _, before, after in self._pairs:
            before[...] = after

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs that carry state."""
        return [one.output for one, _, _ in self._pairs]

    def feed(self) -> dict[str, np.ndarray]:
        """Return all arrays that the next run takes in, by the input's name."""
        return self._constants | {one.input: before for one, before, _ in self._pairs}

    def take(self, after: Sequence[np.ndarray]) -> None:
        """Keep the state that a run gave out, in the order of ``outputs``."""
        for (_, before, _), value in zip(self._pairs, after, strict=True):
            before[...] = value

    def reset(self) -> None:
        """Start from zeros."""
        for _, before, _ in self._pairs:
            before.fill(0)

    def pack(self) -> bytes:
        """Return the state that the next run takes in."""
        return b"".join(before.tobytes() for _, before, _ in self._pairs)

    def unpack(self, state: bytes) -> None:
        """Take `pack`'s bytes back.

        Raises:
            ModelError: They have another length.
        """
        expected = sum(before.nbytes for _, before, _ in self._pairs)
        if len(state) != expected:
            raise cannot_restore(self._backend, len(state), expected)
        for _, before, _ in self._pairs:
            part, state = state[: before.nbytes], state[before.nbytes :]
            before[...] = np.frombuffer(part, before.dtype).reshape(before.shape)


def guess_state(
    inputs: Sequence[tuple[str, Sequence[object]]], outputs: Sequence[tuple[str, Sequence[object]]]
) -> tuple[StateTensor, ...]:
    """Pair inputs with the outputs that become them, by name and rank.

    Exporters name them alike: ``state`` and ``stateN``, ``h`` and ``hn``, ``in_c``
    and ``out_c``. An output is taken once, the longest common beginning first.

    Args:
        inputs: Name and shape of every input but the first.
        outputs: Name and shape of every output but the first.
    """
    left = list(outputs)
    pairs = []
    for name, shape in inputs:
        alike = [one for one in left if len(one[1]) == len(shape) and _is_alike(name, one[0])]
        if alike and len(shape) > 0:
            left.remove(alike[0])
            pairs.append(StateTensor(input=name, output=alike[0][0]))
    return tuple(pairs)


def _is_alike(source: str, target: str) -> bool:
    stem = _stem(source)
    return bool(stem) and _stem(target) == stem


def _stem(name: str) -> str:
    """Return a name without what tells in from out: ``stateN`` and ``state_in`` are ``state``."""
    stem = name.lower()
    for word in ("present", "past", "prev", "next", "new", "old", "out", "in"):
        stem = stem.removeprefix(f"{word}_").removesuffix(f"_{word}")
    return stem.rstrip("n0123456789._") or stem


def _bind(bind: Any, name: str, value: np.ndarray) -> None:
    bind(name, "cpu", 0, value.dtype, value.shape, value.ctypes.data)
