"""The protocol as clients see it: routes, answers, repository, limits of a request."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_runtime import load_bundle, open_pipeline
from edge_runtime.errors import ConfigError
from edge_runtime.update.proof import golden_windows


def test_server_and_model_describe_themselves(mean: Any) -> None:
    """Metadata name extensions, tensors, labels and the three ways to ask."""
    server, model = mean.ask("GET", "/v2").json, mean.ask("GET", "/v2/models/mean").json

    assert server["name"] == "edge-runtime"
    assert {"binary_tensor_data", "model_repository", "sequence"} <= set(server["extensions"])
    assert model["inputs"] == [{"name": "window", "datatype": "FP32", "shape": [-1, 4, 1]}]
    assert [one["name"] for one in model["outputs"]] == ["value", "score"]
    assert model["versions"] == ["1"]
    assert model["parameters"]["labels"] == ["high"]
    assert model["parameters"]["tensors"]["inputs"][0]["name"] == "x"
    assert model["parameters"]["sequence"]["inputs"][0]["shape"] == [-1, 1]


def test_health_tells_live_and_ready(mean: Any) -> None:
    """Server, model and version are ready once they answer."""
    paths = ("health/live", "health/ready", "models/mean/ready", "models/mean/versions/1/ready")

    statuses = [mean.ask("GET", f"/v2/{path}").status for path in paths]

    assert statuses == [200] * 4


def test_windows_are_answered_in_order_with_the_id_of_the_request(mean: Any) -> None:
    """One row of each output for every window."""
    reply = mean.infer([1, 1, 1, 1, 2, 2, 2, 6], id="abc")

    assert (reply.status, reply.json["id"]) == (200, "abc")
    assert reply.tensor("value") == reply.tensor("score") == [1.0, 3.0]
    assert reply.json["outputs"][0]["shape"] == [2, 1]
    assert len(reply.json["parameters"]["effective_id"]) == 16


def test_no_window_is_answered_with_no_rows(mean: Any) -> None:
    """An empty batch is a batch."""
    reply = mean.infer([])

    assert reply.status == 200
    assert reply.json["outputs"][0]["shape"] == [0, 1]


def test_nested_data_and_one_output_are_understood(mean: Any) -> None:
    """Lists of lists are the same tensor, and only what is asked for goes out."""
    window = {
        "name": "window",
        "shape": [1, 4, 1],
        "datatype": "FP64",
        "data": [[[1], [2.5], [3], [1.5]]],
    }
    body = {"inputs": [window], "outputs": [{"name": "value"}]}

    reply = mean.ask("POST", "/v2/models/mean/versions/1/infer", body)

    assert [one["name"] for one in reply.json["outputs"]] == ["value"]
    assert reply.tensor("value") == [2.0]


def test_bare_tensors_go_past_the_pipeline(mean: Any) -> None:
    """With ``tensors`` the model's own input and output are spoken."""
    tensor = {"name": "x", "shape": [2, 4, 1], "datatype": "FP32", "data": [1, 2, 3, 6] * 2}
    body = {"inputs": [tensor], "parameters": {"tensors": True}}

    reply = mean.ask("POST", "/v2/models/mean/infer", body)

    assert reply.json["outputs"][0] == {
        "name": "y",
        "datatype": "FP32",
        "shape": [2, 1],
        "data": [3.0, 3.0],
    }


def test_more_bare_tensors_than_a_block_are_answered_like_each_alone(mean: Any) -> None:
    values = [float(row * 4 + place) for row in range(75) for place in range(4)]

    def ask(rows: list[float]) -> list[float]:
        shape = [len(rows) // 4, 4, 1]
        tensor = {"name": "x", "shape": shape, "datatype": "FP32", "data": rows}
        body = {"inputs": [tensor], "parameters": {"tensors": True}}
        return mean.ask("POST", "/v2/models/mean/infer", body).tensor("y")

    alone = [ask(values[first : first + 4])[0] for first in range(0, len(values), 4)]
    assert ask(values) == alone


def test_every_metric_is_documented(mean: Any) -> None:
    """The page says of each what it counts."""
    mean.infer([1] * 4)
    mean.infer([1])
    mean.push([1.0], sequence_id=1, sequence_start=True)
    reference = (Path(__file__).parents[4] / "docs/reference/metrics.md").read_text()

    page = mean.ask("GET", "/metrics")
    names = re.findall(r"^# TYPE (\w+) ", page.body.decode(), re.MULTILINE)

    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in reference] == []
    assert mean.metric('request_seconds_count{model="mean@1"}') == 2


# --- wrong requests -----------------------------------------------------------------


def _window(**changed: object) -> dict[str, object]:
    window = {"name": "window", "shape": [1, 4, 1], "datatype": "FP32", "data": [1, 2, 3, 4]}
    return {"inputs": [{**window, **changed}]}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_window(name="windows"), "'windows'"),
        (_window(shape=[4, 1]), "[-1, 4, 1]"),
        (_window(shape=[1, 2, 2]), "[-1, 4, 1]"),
        (_window(shape=[2, 4, 1]), "4 elements"),
        (_window(shape=[-1, 4, 1]), "shape[0]"),
        (_window(datatype="INT8"), "FP32"),
        (_window(datatype="float"), "datatype"),
        (_window(data=[1, 2, 3, "4"]), 'data has "4"'),
        (_window(data=[1, 2, 3, [4]]), "list of elements"),
        (_window(data=[1, 2, 3, None]), "window 0"),
        (_window(data=[1, 2, 3, 1e300]), "for FP32"),
        (_window(data={}), "list of elements"),
        ({"inputs": [{"name": "window", "shape": [1, 4, 1], "datatype": "FP32"}]}, "neither"),
        ({"inputs": []}, "'window'"),
        ({"input": []}, "inputs"),
        ([], "object"),
        (b"", "truncated"),
        (b'{"inputs": [', "truncated"),
        (b"\xff\xfe", "does not decode"),
        (b"[" * 100_000, "does not decode"),
        ({**_window(), "outputs": [{"name": "scores"}]}, "Did you mean 'score'"),
        ({**_window(), "parameters": {"decision": True}}, "decision"),
        ({**_window(), "parameters": {"decisions": True}}, "sequence_id"),
        ({**_window(), "parameters": {"sequence_start": True}}, "sequence_id"),
        ({"inputs": _window()["inputs"] * 2}, "twice"),  # type: ignore[operator]
        (
            {**_window(), "outputs": [{"name": "value", "parameters": {"classification": 3}}]},
            "classification",
        ),
        (_window(parameters={"shared_memory_region": "a"}, data=[]), "shared memory"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(mean: Any, body: object, words: str) -> None:
    """Status 400, an error body that names the fault, and the next request is answered."""
    reply = mean.ask("POST", "/v2/models/mean/infer", body)

    assert (reply.status, words in reply.error) == (400, True), reply.error
    assert mean.infer([1, 2, 3, 6]).tensor("value") == [3.0]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/models/mean/versions/7", 404),
        ("POST", "/v2/models/none/infer", 404),
        ("POST", "/v2/models/mean/versions/7/infer", 404),
        ("GET", "/v2/models/mean/config/more", 404),
        ("GET", "/", 404),
        ("GET", "/%ff/v2", 404),
        ("GET", "/v2/models/mean/infer", 405),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/mean", 405),
        ("POST", "/v2/repository/models/none/load", 404),
        ("POST", "/v2/repository/models/none/unload", 404),
    ],
)
def test_an_unknown_path_model_or_method_is_told(
    mean: Any, method: str, path: str, status: int
) -> None:
    """Every error has the protocol's body."""
    reply = mean.ask(method, path, b"{}")

    assert reply.status == status
    assert reply.error


def test_too_many_rows_are_refused(serve: Any, make_mean: Callable[..., Path]) -> None:
    """A batch beyond the limit is refused before the model is asked."""
    server = serve(make_mean(), extra="limits: {windows: 2}")

    reply = server.infer([0.0] * 12)

    assert (reply.status, "at most 2" in reply.error) == (413, True)


def test_a_model_that_fails_is_an_error_of_the_server(mean: Any) -> None:
    """Status 500 with what the model said, counted; the model goes on."""
    told, unforeseen = mean.infer([99, 0, 0, 0]), mean.infer([98, 0, 0, 0])

    assert (told.status, "out of luck" in told.error) == (500, True)
    assert (unforeseen.status, "log" in unforeseen.error) == (500, True)
    assert mean.infer([1, 1, 1, 1]).status == 200
    assert mean.metric('requests_refused_total{model="mean@1",reason="failed"}') == 2


# --- slow models --------------------------------------------------------------------


def test_a_long_answer_does_not_stall_the_others(
    serve: Any, make_mean: Callable[..., Path], gated: ModuleType
) -> None:
    """While one model works, health, metadata and other models answer."""
    server = serve(make_mean(), make_mean("b", name="other"), extra="limits: {inline_ms: 0}")
    found: list[Any] = []
    slow = threading.Thread(target=lambda: found.append(server.infer([13, 0, 0, 0])))
    slow.start()
    gated.entered.wait(30)

    live, other = server.ask("GET", "/v2/health/live"), server.infer([1] * 4, "other")
    answered_before = list(found)
    gated.gate.set()
    slow.join(30)

    assert (live.status, other.status, answered_before) == (200, 200, [])
    assert found[0].tensor("value") == [3.25]


def test_more_requests_than_may_wait_are_refused(
    serve: Any, make_mean: Callable[..., Path], gated: ModuleType
) -> None:
    """The queue is bounded: one runs, one waits, the next is told to come again."""
    server = serve(make_mean(), extra="limits: {inline_ms: 0, queue: 2}")
    first = [threading.Thread(target=server.infer, args=([13, 0, 0, 0],)) for _ in range(2)]
    for thread in first:
        thread.start()
    server.until(lambda: server.metric('requests_waiting{model="mean@1"}') == 2)

    refused = server.infer([1] * 4)
    gated.gate.set()
    for thread in first:
        thread.join(30)

    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert server.infer([1] * 4).status == 200


def test_a_request_that_waits_too_long_is_given_up(
    serve: Any, make_mean: Callable[..., Path], gated: ModuleType
) -> None:
    """By its own timeout or the server's: 504, and a hung model is not ready."""
    server = serve(make_mean(), extra="limits: {inline_ms: 0, request_s: 0.2}")

    late = server.infer([13, 0, 0, 0])
    waiting = server.infer([1] * 4, parameters={"timeout": 50_000})
    server.until(lambda: server.ask("GET", "/v2/models/mean/ready").status == 503)
    is_ready_while_stuck = server.ask("GET", "/v2/health/ready").status
    gated.gate.set()

    assert (late.status, waiting.status, is_ready_while_stuck) == (504, 504, 503)
    server.until(lambda: server.ask("GET", "/v2/models/mean/ready").status == 200)
    # What was given up while it waited is never asked.
    assert 1.0 not in gated.asked


def test_a_client_that_vanishes_is_not_answered_for(mean: Any, gated: ModuleType) -> None:
    """What it asked and nobody began is left out."""
    slow = threading.Thread(target=mean.infer, args=([13, 0, 0, 0],))
    slow.start()
    gated.entered.wait(30)
    body = b'{"inputs":[{"name":"window","shape":[1,4,1],"datatype":"FP32","data":[55,0,0,0]}]}'
    with mean.connect() as link:
        link.sendall(
            b"POST /v2/models/mean/infer HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        link.sendall(body)
        mean.until(lambda: mean.metric('requests_waiting{model="mean@1"}') == 2)
    mean.until(lambda: mean.metric('connections_closed_total{reason="vanished"}') == 1)

    gated.gate.set()
    slow.join(30)

    assert mean.infer([1] * 4).status == 200
    assert 55.0 not in gated.asked


# --- the repository -----------------------------------------------------------------


def test_several_models_and_versions_are_served_by_one_process(
    serve: Any, make_mean: Callable[..., Path]
) -> None:
    """Without a version the highest answers: 1.10 is above 1.9."""
    server = serve(
        make_mean("a", version="1.9", add=1.0),
        make_mean("b", version="1.10", add=2.0),
        make_mean("c", name="other"),
    )
    window = {"name": "window", "shape": [1, 4, 1], "datatype": "FP32", "data": [0, 0, 0, 0]}

    newest = server.infer([0] * 4)
    older = server.ask("POST", "/v2/models/mean/versions/1.9/infer", {"inputs": [window]})
    index = server.ask("POST", "/v2/repository/index").json

    assert (newest.json["model_version"], newest.tensor("value")) == ("1.10", [2.0])
    assert (older.json["model_version"], older.tensor("value")) == ("1.9", [1.0])
    assert [(one["name"], one["version"], one["state"]) for one in index] == [
        ("mean", "1.9", "READY"),
        ("mean", "1.10", "READY"),
        ("other", "1", "READY"),
    ]


def test_a_model_is_unloaded_and_loaded_again(mean: Any) -> None:
    """In between it is unavailable, and the server not ready; its counts go on."""
    mean.infer([1] * 4)

    mean.ask("POST", "/v2/repository/models/mean/unload")
    gone = mean.infer([1] * 4)
    ready = mean.ask("GET", "/v2/health/ready")
    index = mean.ask("POST", "/v2/repository/index").json
    only_ready = mean.ask("POST", "/v2/repository/index", {"ready": True}).json
    mean.ask("POST", "/v2/repository/models/mean/load")

    assert (gone.status, ready.status) == (404, 503)
    assert (index[0]["state"], only_ready) == ("UNAVAILABLE", [])
    assert mean.infer([1] * 4).tensor("value") == [1.0]
    assert mean.metric('requests_answered_total{model="mean@1"}') == 2


def test_a_new_version_in_the_repository_is_loaded_by_name(
    serve: Any, make_mean: Callable[..., Path], tmp_path: Path
) -> None:
    """A bundle that appears in the folder is served after ``load``, and not before."""
    folder = tmp_path / "repository"
    make_mean("repository/one", backend="reference")
    server = serve(extra=f"repository: {folder}")
    make_mean("repository/two", backend="reference", version="2", add=5.0)

    before = server.infer([0] * 4).json["model_version"]
    loaded = server.ask("POST", "/v2/repository/models/mean/load")
    after = server.infer([0] * 4)

    assert (before, loaded.status) == ("1", 200)
    assert (after.json["model_version"], after.tensor("value")) == ("2", [5.0])


def test_a_version_that_does_not_load_leaves_the_one_before(
    serve: Any, make_mean: Callable[..., Path], tmp_path: Path
) -> None:
    """What does not repeat its golden answers is refused with the reason, in the index too."""
    bundle = make_mean()
    server = serve(bundle)
    make_mean("wrong", add=1.0)
    (bundle / "model").write_text("7.5")

    loaded = server.ask("POST", "/v2/repository/models/mean/load")

    assert (loaded.status, "golden" in loaded.error) == (500, True)
    assert server.infer([1] * 4).tensor("value") == [1.0]


def test_files_are_not_taken_over_the_network(mean: Any) -> None:
    """A load with a configuration or files of the client's is refused."""
    body = {"parameters": {"config": "{}", "file:1/model": "AAAA"}}

    reply = mean.ask("POST", "/v2/repository/models/mean/load", body)

    assert (reply.status, "own disk" in reply.error) == (400, True)


def test_loading_and_unloading_leaves_nothing_behind(mean: Any) -> None:
    """An unloaded model is freed, though it had streams and a thread."""
    mean.push([1.0] * 6, sequence_id=1, sequence_start=True)
    gone = [weakref.ref(model) for model in mean.server.repository]

    mean.ask("POST", "/v2/repository/models/mean/unload")
    mean.until(lambda: gc.collect() is not None and gone[0]() is None)

    assert mean.metric("sequences_open") == 0
    assert mean.metric('sequences_total{state="unloaded"}') == 1
    names = [thread.name for thread in threading.enumerate()]
    assert "model mean@1" not in names


def _children() -> set[int]:
    lists = (task / "children" for task in Path("/proc/self/task").iterdir())
    pids: set[int] = set()
    for found in lists:
        # The thread may have ended since it was listed.
        with contextlib.suppress(FileNotFoundError):
            pids |= {int(pid) for pid in found.read_text().split()}
    return pids


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_model_in_a_child_is_served_and_its_child_ends_with_it(
    serve: Any, make_mean: Callable[..., Path], misbehaving_here: str, tmp_path: Path
) -> None:
    """With ``isolation: process`` windows, streams and tensors are answered all the same."""
    bundle = make_mean(backend="misbehaving")
    before = _children()
    models = f"[{{bundle: {bundle}, backend: {misbehaving_here}, isolation: process}}]"
    server = serve(extra="limits: {sequences: 3}", models=models)
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}
    during = _children() - before

    for name in (1, 2, 3):
        server.push([1.0] * 4, sequence_id=name, sequence_start=True, sequence_end=name == 1)
    window = server.infer([1.0] * 4)
    body = {"inputs": [tensor], "parameters": {"tensors": True}}
    bare = server.ask("POST", "/v2/models/mean/infer", body)
    server.ask("POST", "/v2/repository/models/mean/unload")

    assert (len(during), window.status, bare.status) == (1, 200, 200)
    server.until(lambda: not during & _children())


def test_two_bundles_of_one_name_and_version_are_refused(
    serve: Any, make_mean: Callable[..., Path]
) -> None:
    """Nobody could tell them apart."""
    first, second = make_mean("a"), make_mean("b", add=1.0)

    with pytest.raises(ConfigError, match="mean@1 is there twice"):
        serve(first, second)


# --- sequences ----------------------------------------------------------------------


def test_a_sequence_is_a_stream_with_decisions(mean: Any) -> None:
    """Windows and decisions come as samples complete them, over requests."""
    first = mean.push([0, 0, 0], sequence_id=7, sequence_start=True, decisions=True)
    second = mean.push([12, 0], sequence_id=7, decisions=True)
    third = mean.push([0, 0, 0], sequence_id=7, sequence_end=True, decisions=True)

    assert first.tensor("value") == []
    assert second.tensor("index") == [3, 4]
    assert second.tensor("decision_label") == ["high"]
    assert second.tensor("decision_edge") == ["start"]
    assert second.tensor("decision_time_ns") == [300_000_000]
    assert third.tensor("decision_edge") == ["end"]
    assert mean.push([0], sequence_id=7).status == 404


def test_a_refused_request_does_not_move_a_stream(mean: Any) -> None:
    """What is wrong is found before the samples are taken."""
    mean.push([4.0] * 3, sequence_id=1, sequence_start=True)
    samples = {"name": "samples", "shape": [1, 1], "datatype": "FP32", "data": [0]}
    wrong = [
        {"outputs": [{"name": "decision_label"}], "parameters": {"sequence_id": 1}},
        {"parameters": {"sequence_id": 1, "tensors": True}},
        {"parameters": {"sequence_id": 1, "sequence_end": "yes"}},
    ]

    statuses = [
        mean.ask("POST", "/v2/models/mean/infer", {"inputs": [samples], **more}).status
        for more in wrong
    ]

    assert statuses == [400] * 3
    assert mean.push([4.0], sequence_id=1).tensor("value") == [4.0]


def test_sequences_do_not_touch_each_other(mean: Any) -> None:
    """Names are numbers or texts, and each has samples of its own."""
    for name in (1, "one"):
        mean.push([float(len(str(name)))] * 3, sequence_id=name, sequence_start=True)

    values = [mean.push([0.0], sequence_id=name).tensor("value") for name in (1, "one")]

    assert values == [[0.75], [2.25]]


def test_a_gap_in_the_times_of_a_sequence_starts_windows_anew(mean: Any) -> None:
    """Samples that no window covered are counted."""
    step = 10**8

    def push(values: list[float], first: int, **more: Any) -> Any:
        inputs = [
            {"name": "samples", "shape": [len(values), 1], "datatype": "FP32", "data": values},
            {
                "name": "time_ns",
                "shape": [len(values)],
                "datatype": "INT64",
                "data": [(first + number) * step for number in range(len(values))],
            },
        ]
        body = {"inputs": inputs, "parameters": {"sequence_id": 5, **more}}
        return mean.ask("POST", "/v2/models/mean/infer", body)

    push([1.0, 1.0], 0, sequence_start=True)
    reply = push([2.0] * 4, 50)

    assert reply.tensor("value") == [2.0]
    assert reply.tensor("start_ns") == [50 * step]
    assert mean.metric('records_discarded_total{model="mean@1",reason="gap"}') == 2
    assert "time_ns" in mean.push([1.0], sequence_id=5).error


def test_sequences_are_bounded_and_counted(serve: Any, make_mean: Callable[..., Path]) -> None:
    """One more than may be is refused; an end makes room; a second start begins anew."""
    server = serve(make_mean(), extra="limits: {sequences: 2}")
    for name in (1, 2, 2):
        server.push([1.0], sequence_id=name, sequence_start=True)

    refused = server.push([1.0], sequence_id=3, sequence_start=True)
    server.push([1.0], sequence_id=1, sequence_end=True)
    taken = server.push([1.0], sequence_id=3, sequence_start=True)

    counts = {
        state: server.metric(f'sequences_total{{state="{state}"}}')
        for state in ("started", "refused", "ended", "restarted")
    }
    assert (refused.status, taken.status) == (503, 200)
    assert counts == {"started": 4, "refused": 1, "ended": 1, "restarted": 1}


def test_an_idle_sequence_is_forgotten(serve: Any, make_mean: Callable[..., Path]) -> None:
    """It makes room by itself, and its next request is told to start anew."""
    server = serve(make_mean(), extra="limits: {sequence_idle_s: 0.05, idle_s: 0.5}")
    server.push([1.0], sequence_id=1, sequence_start=True)

    server.until(lambda: server.metric('sequences_total{state="expired"}') == 1)
    reply = server.push([1.0], sequence_id=1)

    assert (reply.status, "expired" in reply.error) == (404, True)


# --- cascades -----------------------------------------------------------------------


def test_a_cascade_says_which_stage_answered(
    serve: Any, cascade_bundle: Callable[..., Path]
) -> None:
    """For windows and for a stream, as an output of its own and as counters."""
    server = serve(models=f"[{{bundle: {cascade_bundle()}}}]")
    rows = (np.random.default_rng(0).normal(size=(60, 5, 2)) * 1.2).round(3)
    window = {"name": "window", "shape": [60, 5, 2], "datatype": "FP64", "data": rows.tolist()}
    expected = open_pipeline(load_bundle(cascade_bundle())).score_windows(golden_windows(rows))
    assert expected.stage is not None

    facts = server.ask("GET", "/v2/models/pump").json
    reply = server.ask("POST", "/v2/models/pump/infer", {"inputs": [window]})
    samples = {"name": "samples", "shape": [300, 2], "datatype": "FP64", "data": rows.tolist()}
    started = {"sequence_id": 1, "sequence_start": True}
    body = {"inputs": [samples], "parameters": started}
    streamed = server.ask("POST", "/v2/models/pump/infer", body)

    assert facts["outputs"][-1] == {"name": "stage", "datatype": "UINT8", "shape": [-1]}
    assert reply.tensor("stage") == expected.stage.tolist()
    assert set(reply.tensor("stage")) == {0, 1, 2}
    assert len(streamed.tensor("stage")) == 296
    counted = [
        server.metric(f'windows_answered_total{{model="pump@1",stage="{stage}"}}')
        for stage in ("gate", "small", "model")
    ]
    both = np.bincount(reply.tensor("stage") + streamed.tensor("stage"))
    assert counted == both.tolist()
    assert server.metric('inference_seconds_count{model="pump@1",stage="model"}') > 0
