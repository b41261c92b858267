"""A device shows what it counts, and what it shows adds up."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import msgspec
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.metrics import CONTENT_TYPE, Family, Histogram
from edge_runtime.modes.exposition import MetricsServer, StreamNumbers, families_of


def numbers(inference: Histogram | None = None) -> StreamNumbers:
    """Make what a stream counts."""
    return StreamNumbers(
        counts={
            "frames_received_total": 7,
            "samples_received_total": 448,
            "windows_scored_total": 6,
            "decisions_made_total": 1,
            "decisions_withheld_total": 2,
            "source_restarts_total": 0,
            "samples_lost_total": 4,
            "slots_bridged_total": 5,
        },
        discarded={"gap": 3},
        push=Histogram(),
        model="pump@1",
        inference=inference or Histogram(),
        facts={"base": "ab", "effective_id": "cd"},
        faults={"frozen": 2},
        suspect={"saturated": 3},
        jitter_s=0.001,
    )


def arranged(streams: dict[str, StreamNumbers]) -> list[Family]:
    """Arrange a device's numbers."""
    return list(
        families_of(
            streams,
            device={"device": "d1", "version": "0"},
            outbox={"outbox_rows": 2, "outbox_bytes": 300, "outbox_written_bytes_total": 4096},
            lost={"quota": 5},
            tapes={"pump": Taped()},  # type: ignore[dict-item]
            link={"is_connected": 1, "frames_sent_total": 9, "bytes_up": 100},
            updates={"committed": 1},
        )
    )


class Taped:
    """What a recorder counts."""

    size_bytes = 4096
    frames = 5
    discarded: ClassVar = {"disk_full": 2}


@contextmanager
def served(families: list[Family]) -> Iterator[MetricsServer]:
    """Serve metrics on a free port of loopback."""
    server = MetricsServer("127.0.0.1", 0, lambda: families)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


def fetched(server: MetricsServer, path: str = "/metrics") -> tuple[str, str]:
    """Return media type and text of a page."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as page:
        return page.headers["Content-Type"], page.read().decode()


def test_the_page_has_the_counters_of_every_component() -> None:
    """Sources, pipeline, outbox, link and updates each stand there under their names."""
    with served(arranged({"main": numbers()})) as server:
        kind, text = fetched(server)

    assert kind == CONTENT_TYPE
    for line in (
        'frames_received_total{stream="main"} 7',
        'samples_lost_total{stream="main"} 4',
        'slots_bridged_total{stream="main"} 5',
        'sensor_faults_total{stream="main",reason="frozen"} 2',
        'windows_suspect_total{stream="main",quality="saturated"} 3',
        'source_jitter_seconds{stream="main"} 0.001',
        'records_discarded_total{stream="main",reason="gap"} 3',
        'records_discarded_total{reason="quota"} 5',
        'tape_bytes{stream="pump"} 4096',
        'tape_frames_discarded_total{stream="pump",reason="disk_full"} 2',
        "outbox_rows 2",
        "outbox_written_bytes_total 4096",
        "link_is_connected 1",
        "link_frames_sent_total 9",
        "link_bytes_up_total 100",
        'update_reports_total{state="committed"} 1',
    ):
        assert f"\n{line}\n" in text
    assert re.search(r"\nprocess_cpu_seconds_total [0-9.]+\n", text)


def test_a_metric_is_described_once() -> None:
    """No name comes twice, which Prometheus would refuse."""
    names = [family.name for family in arranged({"a": numbers(), "b": numbers()})]

    assert len(names) == len(set(names))


def test_streams_that_share_a_model_share_its_histogram() -> None:
    """One loaded model is one series, however many streams run it."""
    shared, own = Histogram(), Histogram()
    streams = {"a": numbers(shared), "b": numbers(shared), "c": numbers(own)}

    (family,) = [one for one in arranged(streams) if one.name == "inference_seconds"]

    assert [labels["stream"] for labels, _ in family.samples] == ["a", "c"]


def test_a_cascade_is_counted_and_timed_by_stage() -> None:
    """Windows by who answered them, and a series for every model, the main one among them."""
    gate, main = Histogram(), Histogram()
    one = msgspec.structs.replace(
        numbers(main),
        stages={"gate": 90, "small": 0, "model": 10},
        inferences={"gate": gate, "model": main},
    )

    families = {family.name: family for family in arranged({"main": one, "plain": numbers()})}

    assert families["windows_answered_total"].samples == (
        ({"stream": "main", "stage": "gate"}, 90),
        ({"stream": "main", "stage": "small"}, 0),
        ({"stream": "main", "stage": "model"}, 10),
    )
    labels = [labels for labels, _ in families["inference_seconds"].samples]
    assert [one.get("stage") for one in labels] == ["gate", "model", None]


def test_another_path_says_where_the_metrics_are() -> None:
    """A wrong path is a 404 that names the right one, and the server goes on."""
    with served([]) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetched(server, "/")
        text = caught.value.read().decode()
        caught.value.close()
        fetched(server)

    assert caught.value.code == 404
    assert "/metrics" in text


def test_a_port_that_is_taken_is_named() -> None:
    """Where somebody else listens the start fails with all four parts of a message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError) as caught:
            MetricsServer("127.0.0.1", port, list)

    assert str(port) in caught.value.what
    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
