"""The loaded models of a cascade, as one session."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.ports import Session
from edge_runtime.types import StateKind, TensorSpec

__all__ = ["FeatureSession", "StagedSession"]


class StagedSession:
    """A bundle's own model, which `run` asks, and those of the stages before it.

    Args:
        main: The bundle's own model.
        stages: One for each stage, in order.

    Attributes:
        inputs: Of the bundle's own model.
        outputs: Of the bundle's own model.
        state_kind: Of the first model that keeps state; the main one comes first.
        stages: As given.
    """

    def __init__(self, main: Session, stages: Sequence[Session]) -> None:
        self._main = main
        self.stages = tuple(stages)
        self.run = main.run
        self.inputs, self.outputs = main.inputs, main.outputs
        self.state_kind: StateKind = _kind_of(self._all)

    @property
    def _all(self) -> tuple[Session, ...]:
        return self._main, *self.stages

    def reset(self) -> None:
        """Forget state kept between calls, in every model."""
        for session in self._all:
            session.reset()

    def fork(self) -> StagedSession:
        """Return one of the same loaded models with fresh state of its own."""
        if self.state_kind == "stateless":
            return self
        return StagedSession(self._main.fork(), [session.fork() for session in self.stages])

    def state(self) -> bytes | None:
        """Return the state of every model; None where one cannot be read."""
        states = [session.state() for session in self._all]
        return None if None in states else msgspec.msgpack.encode(states)

    def restore(self, state: bytes) -> None:
        """Go on from `state`'s bytes.

        Raises:
            ModelError: They are not these models' state.
        """
        try:
            states = msgspec.msgpack.decode(state, type=list[bytes])
        except msgspec.DecodeError as error:
            raise ModelError(str(error), where="state of a cascade") from error
        if len(states) != len(self._all):
            raise ModelError(
                f"the state of {len(states)} models",
                where="state of a cascade",
                expected=f"that of {len(self._all)}",
            )
        for session, one in zip(self._all, states, strict=True):
            session.restore(one)

    def close(self) -> None:
        """Free every model; safe to call twice."""
        for session in self._all:
            session.close()


def _kind_of(sessions: Sequence[Session]) -> StateKind:
    for session in sessions:
        if session.state_kind != "stateless":
            return session.state_kind
    return "stateless"


class FeatureSession:
    """A stage without a model: it answers with the features it is given.

    Args:
        size: Numbers in one window's features.

    Attributes:
        inputs: float32, shape (1, size).
        outputs: The same.
    """

    state_kind: StateKind = "stateless"

    def __init__(self, size: int) -> None:
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("features", (1, size), "float32"),)
        self.outputs: tuple[TensorSpec, ...] = (TensorSpec("values", (1, size), "float32"),)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Return a copy of ``batch``, shape (n, size)."""
        return batch.copy()

    def reset(self) -> None:
        """Do nothing: nothing is kept."""

    def fork(self) -> FeatureSession:
        """Return this session."""
        return self

    def state(self) -> bytes:
        """Return nothing: nothing is kept."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take nothing back.

        Raises:
            ModelError: There is something.
        """
        if state:
            raise ModelError(f"{len(state)} bytes of state", expected="none: a stage has no model")

    def close(self) -> None:
        """Do nothing: there is nothing to free."""
