"""Judge: what a candidate loses against float, on windows nothing was fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from edge_converters.contracts import Candidate, Request
from edge_converters.datasets import Dataset, check_labels
from edge_converters.quantise.contracts import Samples
from edge_converters.stages.asking import ask_model
from edge_converters.stages.float_file import FloatFile
from edge_converters.stages.quantise import budget_of
from edge_converters.verdict import judge

__all__ = ["halves", "judged"]


def halves(
    float_: FloatFile, calib: Dataset | None, dataset: Dataset | None, request: Request
) -> tuple[Samples | None, Samples | None]:
    """Part labelled windows into those of the search and those of the verdict.

    Every second window goes to each, and of a model with state every second sequence,
    whose label is about its last step. Where nobody gave labels, the calibration data
    serve for both, and nothing is proven.

    Raises:
        ConfigError: Windows or labels do not fit the model.
    """
    if dataset is None:
        if calib is None:
            return None, None
        windows = float_.tensors(calib)
        return Samples(windows, None, float_.is_stream), Samples(windows, None, float_.is_stream)
    outputs = int(np.prod(float_.answers.shape[1:]))
    truth = check_labels(dataset, outputs, request.metric or "accuracy")
    windows = float_.tensors(dataset)
    searched, untouched = (
        Samples(windows[part::2], truth[part::2], float_.is_stream) for part in (0, 1)
    )
    return searched, untouched


def judged(
    candidates: Sequence[Candidate], float_: FloatFile, samples: Samples, request: Request
) -> list[Candidate]:
    """Ask every sound candidate the windows of the verdict, and compare it with float.

    Args:
        candidates: All of one format.
        float_: What they are compared with.
        samples: Windows, and their truth where it is known.
        request: The metric and what may be lost.

    Raises:
        ConfigError: The metric cannot be computed from these windows.
    """
    inputs = float_.file.with_name("verdict.npy")
    np.save(inputs, samples.windows)
    budget = budget_of(float_, request)

    def answers(file_of: Candidate) -> np.ndarray:
        found = ask_model(
            file_of.file,
            file_of.format,
            inputs,
            limits=request.limits,
            constants=request.constants,
        ).answers
        return found.reshape(len(samples), -1, *found.shape[1:]) if samples.is_stream else found

    original = next(one for one in candidates if one.precision == float_.precision)
    reference = answers(original)
    return [
        msgspec.structs.replace(one, verdict=judge(budget, samples, reference, answers(one)))
        if one.is_sound and one is not original
        else one
        for one in candidates
    ]
