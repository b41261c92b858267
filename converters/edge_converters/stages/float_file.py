"""A float file that has passed its gates, and what every candidate is compared with."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from edge_converters.contracts import Format, Origin, Step
from edge_converters.datasets import Dataset
from edge_converters.stages.describe import Described
from edge_converters.stages.windows import features_of

__all__ = ["FloatFile"]


class FloatFile(msgspec.Struct, frozen=True, eq=False):
    """A file that answers as the source does.

    Attributes:
        origin: What it was made of.
        form: Its format.
        file: Where it lies.
        precision: By its tensors; a file that came quantised is taken over as it is.
        steps: How it was made.
        described: What a bundle of it says.
        inputs: ``.npy`` of the windows that every candidate is asked.
        answers: What it says to them, shape (n, …), float32; of a sequence, a row a step.
        others: The same of every output but the one that decides, by its name.
        shape: Of the model's input without its batch axis.
    """

    origin: Origin
    form: Format
    file: Path
    precision: str
    steps: tuple[Step, ...]
    described: Described
    inputs: Path
    answers: np.ndarray
    others: dict[str, np.ndarray]
    shape: tuple[int, ...]

    @property
    def is_stream(self) -> bool:
        """Whether it carries explicit state, and is asked sequences of windows."""
        return bool(self.described.spec.state.tensors)

    def tensors(self, dataset: Dataset) -> np.ndarray:
        """Return a data set as the model sees it, shape (n, *shape); with state (n, steps, *shape).

        Raises:
            ConfigError: Its windows or sequences have another number of values.
        """
        found = features_of(dataset, self.described.spec)
        leading = found.shape[: 2 if self.is_stream else 1]
        return np.asarray(found.reshape(*leading, *self.shape), np.float32)
