"""Several streams of one model, asked about at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edge_runtime.errors import ModelError
from edge_runtime.pipeline.fuse import Reals
from edge_runtime.pipeline.pipeline import Pipeline, Question
from edge_runtime.pipeline.score import Scorer
from edge_runtime.types import Output

__all__ = ["answer_together"]


def answer_together(asked: Sequence[tuple[Pipeline, Sequence[Question]]]) -> list[Output]:
    """Ask a common model about everything, and return what each pipeline makes of it.

    The same bytes as pushing one by one. It pays for models whose cost is to read
    their weights, from some number of windows on: measure.

    Args:
        asked: Distinct pipelines with one spec and one stateless session, each with
            what `Pipeline.ask` gave for the next frame of its stream.

    Returns:
        What each `Pipeline.push` would have returned, in order.

    Raises:
        ModelError: Sessions differ or keep state, or the session failed.
    """
    scorer = _common_scorer([pipeline for pipeline, _ in asked])
    with np.errstate(all="ignore"):
        tensors = [question.tensor for _, questions in asked for question in questions]
        scores = _scores(scorer, tensors)
        return [
            pipeline.tell([(question, next(scores)) for question in questions])
            for pipeline, questions in asked
        ]


def _common_scorer(pipelines: Sequence[Pipeline]) -> Scorer:
    scorer = pipelines[0].scorer
    is_one = all(one.scorer.session is scorer.session for one in pipelines)
    if not isinstance(scorer, Scorer) or scorer.is_stateful or not is_one:
        raise ModelError(
            "pipelines with different sessions, with state or with a cascade",
            where="answer_together",
            expected="one stateless session for all",
        )
    return scorer


def _scores(scorer: Scorer, tensors: Sequence[np.ndarray]) -> Iterator[Reals]:
    """Yield the scores of each tensor, asked for together."""
    if not tensors:
        return
    scores = scorer.score(np.concatenate(tensors))
    first = 0
    for tensor in tensors:
        yield scores[first : first + len(tensor)]
        first += len(tensor)
