"""From window samples to scores: features, tensors, session, calibration."""

from __future__ import annotations

import math

import numpy as np

from edge_runtime.errors import ModelError, ShapeError
from edge_runtime.pipeline.features import Extractor
from edge_runtime.pipeline.fuse import activate, calibrate, squared_error
from edge_runtime.pipeline.layers import Scales, normalise
from edge_runtime.pipeline.quantise import Quantiser, dequantise
from edge_runtime.ports import Session
from edge_runtime.spec import ModelSpec, Raw
from edge_runtime.types import TensorSpec

__all__ = ["BATCH", "Scorer"]

BATCH = 32
"""A session is asked for this many windows at once, or for one; never for another number.

Two shapes are few enough for admission to prove that they answer alike.
"""

_LARGEST_BATCHED_INPUT = 4096


class Scorer:
    """The stateless part of a pipeline; used by one thread.

    Args:
        spec: What the model needs.
        session: The loaded model.
        block: Windows it is asked for at once where so many are ready.

    Raises:
        ShapeError: Features do not fit the input tensor, or outputs the labels.
        ModelError: The model has no input or no output.
    """

    def __init__(self, spec: ModelSpec, session: Session, block: int = BATCH) -> None:
        self._spec = spec
        self._session = session
        self._input, self._output = _tensors(session)
        window = (spec.window.length, len(spec.stream.channels))
        self._extract = Extractor(spec.features, window, rate_hz=spec.stream.rate_hz)
        self.feature_shape = self._extract.shape
        self._is_raw = spec.features == (Raw(),)
        self._is_reconstruction = spec.output.activation == "reconstruction"
        self._dtype = np.dtype(self._input.dtype)
        self._quantise = Quantiser(self._input)
        self._shape = self._fitted_shape()
        self._batch = block if math.prod(self.feature_shape) <= _LARGEST_BATCHED_INPUT else 1
        self._check_outputs()

    def interrupt(self) -> bool:
        """Make the session's call in progress fail; False where it cannot be told to."""
        interrupt = getattr(self._session, "interrupt", None)
        if interrupt is None:
            return False
        interrupt()
        return True

    def _fitted_shape(self) -> tuple[int, ...]:
        """Return the input tensor's shape without the batch axis."""
        shape = self._input.shape[1:]
        size = math.prod(self.feature_shape)
        unknown = [axis for axis in shape if axis < 1]
        known = math.prod(axis for axis in shape if axis >= 1)
        fits = size == known if not unknown else len(unknown) == 1 and size % known == 0
        if not fits:
            raise ShapeError(
                f"features have shape {self.feature_shape}, {size} numbers",
                where=f"{self._spec.name}@{self._spec.version}",
                expected=f"the input tensor's {self._input.shape}, {known} numbers",
                remedy="Change window or features in bundle.yaml to what the model was made for.",
            )
        return tuple(axis if axis >= 1 else size // known for axis in shape)

    def _check_outputs(self) -> None:
        labels = len(self._spec.labels)
        size = 1 if self._is_reconstruction else math.prod(self._output.shape[1:])
        if size > 0 and size != labels:
            raise self._label_error(size)

    def _label_error(self, size: int) -> ShapeError:
        return ShapeError(
            f"the model answers {size} numbers, output tensor {self._output.shape}",
            where=f"{self._spec.name}@{self._spec.version}",
            expected=f"{len(self._spec.labels)}, one for each label",
            remedy="Give bundle.yaml one label per output, in order.",
        )

    def features(self, samples: np.ndarray) -> np.ndarray:
        """Return the features of windows (n, length, channels), float32; may be a view."""
        return self._extract(samples)

    def is_direct(self, samples: np.ndarray, scales: Scales | None) -> bool:
        """Whether windows go into the tensor as they are, without float32 in between."""
        return self._is_raw and scales is None and samples.dtype == self._dtype

    def score(self, inputs: np.ndarray, scales: Scales | None) -> np.ndarray:
        """Return scores in reported units, shape (n, labels), float64.

        Args:
            inputs: Features (n, …), float32, or windows for which `is_direct`.
            scales: Mean and std to normalise with.
        """
        answers = self._answers(inputs, scales)
        if answers.shape[1] != len(self._spec.labels):
            raise self._label_error(answers.shape[1])
        scores = activate(answers, self._spec.output)
        return calibrate(scores, self._spec.output, self._spec.link)

    def _answers(self, inputs: np.ndarray, scales: Scales | None) -> np.ndarray:
        count = len(inputs)
        if count == 1:
            return self._answer(inputs, scales)
        full = count - count % self._batch
        firsts = [*range(0, full, self._batch), *range(full, count)]
        bounds = zip(firsts, [*firsts[1:], count], strict=True)
        return np.concatenate([self._answer(inputs[a:b], scales) for a, b in bounds])

    def _answer(self, inputs: np.ndarray, scales: Scales | None) -> np.ndarray:
        """Ask the session about one window or one full batch."""
        count = len(inputs)
        tensor = self._tensor(inputs, scales)
        raw = self._session.run(tensor)
        if len(raw) != count:
            raise ModelError(
                f"the model answered {raw.shape} to {tensor.shape}",
                where=f"{self._spec.name}@{self._spec.version}",
                expected="one row per window",
            )
        answer = dequantise(raw.reshape(count, -1), self._output)
        if self._is_reconstruction:
            return squared_error(dequantise(tensor.reshape(count, -1), self._input), answer)
        return answer

    def _tensor(self, inputs: np.ndarray, scales: Scales | None) -> np.ndarray:
        shape = (len(inputs), *self._shape)
        if inputs.dtype == self._dtype and scales is None:
            return np.ascontiguousarray(inputs).reshape(shape)
        return self._quantise(normalise(inputs, scales)).reshape(shape)


def _tensors(session: Session) -> tuple[TensorSpec, TensorSpec]:
    if len(session.inputs) != 1 or not session.outputs:
        raise ModelError(
            f"the model has {len(session.inputs)} inputs and {len(session.outputs)} outputs",
            expected="one input and at least one output",
            remedy="Export the model with a single input tensor.",
        )
    return session.inputs[0], session.outputs[0]
