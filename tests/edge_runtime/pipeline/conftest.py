"""Small models, specs and streams for the pipeline's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from edge_runtime.spec import ArtefactSpec, ChannelSpec, ModelSpec, StreamSpec, WindowSpec
from edge_runtime.types import Frame, StateKind, TensorSpec

PERIOD_NS = 10_000_000


class DenseSession:
    """One dense layer: a row's answer depends on that row alone, to the bit."""

    state_kind: StateKind = "stateless"

    def __init__(self, inputs: TensorSpec, outputs: TensorSpec, *, is_identity: bool) -> None:
        self.inputs = (inputs,)
        self.outputs = (outputs,)
        size = int(np.prod(inputs.shape[1:])), int(np.prod(outputs.shape[1:]))
        random = np.random.default_rng(7)
        self._weights = np.eye(*size) if is_identity else random.normal(size=size) / size[0]
        self.batches: list[int] = []

    def run(self, batch: np.ndarray) -> np.ndarray:
        tensor = self.inputs[0]
        assert batch.shape[1:] == tensor.shape[1:]
        assert batch.dtype == tensor.dtype
        assert batch.flags.c_contiguous
        self.batches.append(len(batch))
        rows = batch.reshape(len(batch), -1).astype(np.float64)
        answer = np.stack([(row[:, None] * self._weights).sum(axis=0) for row in rows])
        shape = (len(batch), *self.outputs[0].shape[1:])
        if self.outputs[0].is_quantised:
            answer = np.clip(np.rint(answer), -128, 127)
        return answer.astype(self.outputs[0].dtype).reshape(shape)

    def reset(self) -> None:
        """Nothing is kept."""

    def fork(self) -> DenseSession:
        return self

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        assert state == b""

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(scope="session")
def session_of() -> Callable[..., DenseSession]:
    """Make a session; ``quantised`` gives it int8 tensors, ``is_identity`` weights of 1."""

    def make(
        shape: tuple[int, ...],
        outputs: int = 1,
        *,
        quantised: bool = False,
        is_identity: bool = False,
        dtype: str = "float32",
    ) -> DenseSession:
        if quantised:
            inputs = TensorSpec("x", (1, *shape), "int8", 0.05, 3)
            answer = TensorSpec("y", (1, outputs), "int8", 0.125, -5)
        else:
            inputs = TensorSpec("x", (1, *shape), dtype)
            answer = TensorSpec("y", (1, outputs), "float32")
        return DenseSession(inputs, answer, is_identity=is_identity)

    return make


@pytest.fixture(scope="session")
def spec_of() -> Callable[..., ModelSpec]:
    """Make a spec at 100 Hz; everything else is as given."""

    def make(
        length: int = 4,
        hop: int = 2,
        channels: int = 1,
        labels: Sequence[str] = ("value",),
        **more: object,
    ) -> ModelSpec:
        fields: dict[str, object] = {"kind": "scorer", "name": "toy", "version": "1"} | more
        return ModelSpec(
            stream=StreamSpec(tuple(ChannelSpec(f"c{i}") for i in range(channels)), 100.0),
            window=WindowSpec(length, hop),
            artefacts=(ArtefactSpec("reference", "model.npz", "float32"),),
            labels=tuple(labels),
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def frame_of() -> Callable[..., Frame]:
    """Make a frame of samples that are one period apart, from ``index`` on."""

    def make(samples: object, *, index: int = 0, time_ns: object = None) -> Frame:
        rows = np.asarray(samples)
        rows = rows[:, None] if rows.ndim == 1 else rows
        if time_ns is None:
            time_ns = (index + np.arange(len(rows))) * PERIOD_NS
        return Frame("main", index, np.asarray(time_ns, np.int64), rows)

    return make
