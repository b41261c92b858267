"""A request and its answer, whatever protocol carries them.

HTTP is a thin shell around these two; another protocol would be another shell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from edge_runtime.modes.realtime.tensors import Tensor

__all__ = ["Answer", "Parameters", "Request"]

SequenceId = Annotated[int, Meta(ge=0)] | Annotated[str, Meta(max_length=128)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request asks for beside its tensors.

    Attributes:
        tensors: Whether the model's own tensors go in and out, without the pipeline.
        decisions: Whether the answer has what started and ended; of a sequence only.
        sequence_id: The stream the samples belong to; 0 and the empty text are none.
        sequence_start: Whether it begins here.
        sequence_end: Whether it ends here.
        timeout: Longest time to wait for the model, µs; 0 for the server's own limit.
        priority: Taken and not used: requests of a model are answered in order.
        binary_data_output: Whether outputs are sent as bytes that do not say otherwise.
    """

    tensors: bool = False
    decisions: bool = False
    sequence_id: SequenceId = 0
    sequence_start: bool = False
    sequence_end: bool = False
    timeout: Annotated[int, Meta(ge=0)] = 0
    priority: Annotated[int, Meta(ge=0)] = 0
    binary_data_output: bool = False


class Request(msgspec.Struct, frozen=True, eq=False):
    """A question to one model.

    Attributes:
        inputs: By name.
        outputs: Names of the outputs that are wanted; empty for all.
        parameters: What else is asked for.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] = ()
    parameters: Parameters = Parameters()


class Answer(msgspec.Struct, frozen=True, eq=False):
    """What a model answered.

    Attributes:
        model: Its name.
        version: Its version.
        outputs: In the order asked for, or in that of the metadata.
        effective_id: Hash of the base and layers that answered.
    """

    model: str
    version: str
    outputs: tuple[Tensor, ...]
    effective_id: str
