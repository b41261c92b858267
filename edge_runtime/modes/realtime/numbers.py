"""What a server counts, arranged for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from edge_runtime.metrics import Family, Histogram
from edge_runtime.modes.exposition import STAGES_ANSWERED, process_families
from edge_runtime.modes.realtime.http import Hub
from edge_runtime.modes.realtime.repository import Repository
from edge_runtime.modes.realtime.sequences import Sequences
from edge_runtime.modes.realtime.served import ServedModel

__all__ = ["server_families"]


def server_families(
    repository: Repository, hub: Hub, refused: Mapping[str, int]
) -> Iterator[Family]:
    """Arrange everything a server counts.

    Args:
        repository: The models and their streams.
        hub: The connections.
        refused: Requests that reached no model, by reason.
    """
    models = [({"model": model.bundle.ref}, model) for model in repository]
    yield Family("model_info", "gauge", "A loaded model.", tuple(map(_info, repository)))
    for name, text, count in _COUNTED:
        yield Family(name, "counter", text, tuple((to, count(one)) for to, one in models))
    yield Family("windows_answered_total", "counter", STAGES_ANSWERED, tuple(_stages(models)))
    yield Family(
        "request_seconds",
        "histogram",
        "From a request to its answer.",
        tuple((to, one.counts.times) for to, one in models),
    )
    yield Family("inference_seconds", "histogram", "A call of the model.", tuple(_calls(models)))
    yield Family(
        "requests_waiting",
        "gauge",
        "Requests that wait for a model or are being answered by its thread.",
        tuple((labels, model.lane.waiting) for labels, model in models),
    )
    yield Family("requests_refused_total", "counter", _REFUSED, tuple(_refusals(models, refused)))
    yield Family(
        "records_discarded_total",
        "counter",
        "Samples and windows of sequences that gave no result, by reason.",
        tuple(_discards(models)),
    )
    yield from _streams(repository.sequences)
    yield from _connections(hub)
    yield from process_families()


_Count = Callable[[ServedModel], int]
_COUNTED: tuple[tuple[str, str, _Count], ...] = (
    ("requests_answered_total", "Requests answered.", lambda model: model.counts.answered),
    ("windows_scored_total", "Windows that the model answered.", lambda one: one.counts.windows),
    ("decisions_made_total", "Labels that started or ended.", lambda one: one.counts.decisions),
)
_Models = list[tuple[dict[str, str], ServedModel]]
_REFUSED = "Requests that were answered with an error, by reason."


def _info(model: ServedModel) -> tuple[Mapping[str, str], float]:
    return {"model": model.bundle.ref, "base": model.bundle.digest}, 1


def _stages(models: _Models) -> Iterator[tuple[Mapping[str, str], float]]:
    for labels, model in models:
        for stage, count in sorted(model.counts.stages.items()):
            yield {**labels, "stage": stage}, count


def _calls(models: _Models) -> Iterator[tuple[Mapping[str, str], Histogram]]:
    for labels, model in models:
        of_stages = model.stage_inferences
        for stage, times in of_stages.items():
            yield {**labels, "stage": stage}, times
        if not of_stages:
            yield labels, model.inferences


def _refusals(
    models: _Models, refused: Mapping[str, int]
) -> Iterator[tuple[Mapping[str, str], float]]:
    for reason, count in refused.items():
        yield {"reason": reason}, count
    for labels, model in models:
        for reason, count in model.counts.refused.items():
            yield {**labels, "reason": reason}, count


def _discards(
    models: _Models,
) -> Iterator[tuple[Mapping[str, str], float]]:
    for labels, model in models:
        for reason, count in model.counts.discarded.items():
            yield {**labels, "reason": reason}, count


def _streams(sequences: Sequences) -> Iterator[Family]:
    yield Family("sequences_open", "gauge", "Streams.", (({}, len(sequences)),))
    yield Family(
        "sequences_total",
        "counter",
        "Streams by what became of them.",
        tuple(({"state": state}, count) for state, count in sequences.counts.items()),
    )


def _connections(hub: Hub) -> Iterator[Family]:
    yield Family("connections_open", "gauge", "Connections.", (({}, len(hub)),))
    yield Family("connections_opened_total", "counter", "Connections.", (({}, hub.opened),))
    yield Family(
        "connections_closed_total",
        "counter",
        "Connections that the server ended, or whose client vanished, by reason.",
        tuple(({"reason": reason}, count) for reason, count in hub.closed.items()),
    )
    yield Family("bodies_bytes", "gauge", "Bodies being received.", (({}, hub.held_bytes),))
