"""Answers over HTTP are those of the pipeline: bytes as bytes, JSON number by number."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import threading
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.backends import open_pipeline
from edge_runtime.bundle import Bundle, Golden, load_bundle, save_bundle, write_golden
from edge_runtime.config import parse_yaml
from edge_runtime.modes.realtime import RealtimeServer, ServeConfig, ServedConfig
from edge_runtime.pipeline import Pipeline
from edge_runtime.pipeline.records import decisions_table, estimates_table
from edge_runtime.spec import ModelSpec
from edge_runtime.types import Frame, Output, Windows

pytest.importorskip("httptools")

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SHIPPED = sorted((ROOT / "examples").glob("*/bundles/*"))

NABU = """
name: nabu
version: "1"
kind: classifier
stream: {channels: [{name: audio}], rate_hz: 16000}
window: {length: 800, hop: 480}
features: [{kind: micro_frontend}]
artefacts: [{backend: tflite, file: okay_nabu.tflite, precision: int8}]
labels: [okay_nabu]
smoothing: {windows: 5}
limits: [{label: okay_nabu, on: 0.97, off: 0.5}]
"""
"""State in the features and in the model's variables: an answer depends on all before."""


class Server:
    """A server of one bundle on loopback, and a connection to it."""

    def __init__(self, path: Path) -> None:
        config = ServeConfig(models=(ServedConfig(bundle=path),), port=0)
        self.server = RealtimeServer(config)
        self._thread = threading.Thread(target=asyncio.run, args=(self.server.run(),))
        self._thread.start()
        self.link = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        self.name = next(iter(self.server.repository)).name

    def close(self) -> None:
        self.link.close()
        self.server.stop()
        self._thread.join(60)

    def ask(
        self, arrays: dict[str, np.ndarray], *, is_binary: bool, **parameters: Any
    ) -> dict[str, np.ndarray]:
        """Return the outputs as arrays of the dtypes they came with."""
        inputs, parts = [], []
        for name, array in arrays.items():
            one = {"name": name, "shape": array.shape, "datatype": _DATATYPES[array.dtype.str]}
            if is_binary:
                parts.append(array.tobytes())
                inputs.append({**one, "parameters": {"binary_data_size": array.nbytes}})
            else:
                inputs.append({**one, "data": array.ravel().tolist()})
        body: dict[str, Any] = {"inputs": inputs, "parameters": parameters}
        if is_binary:
            parameters["binary_data_output"] = True
        header = json.dumps(body).encode()
        lines = {"Inference-Header-Content-Length": str(len(header))} if is_binary else {}
        path = f"/v2/models/{self.name}/infer"
        self.link.request("POST", path, b"".join([header, *parts]), lines)
        response = self.link.getresponse()
        content = response.read()
        assert response.status == 200, content
        length = response.headers.get("Inference-Header-Content-Length")
        return _outputs(content, None if length is None else int(length))


_DATATYPES = {"<f4": "FP32", "<f8": "FP64", "<i2": "INT16", "<i8": "INT64", "|u1": "UINT8"}


def _outputs(content: bytes, length: int | None) -> dict[str, np.ndarray]:
    found = {}
    rest = content[length:] if length is not None else b""
    for one in json.loads(content[:length])["outputs"]:
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            array = np.array(one["data"])
        else:
            array, rest = _array(rest[:size], one["datatype"]), rest[size:]
        found[one["name"]] = array.reshape(one["shape"])
    return found


def _array(content: bytes, datatype: str) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(content, {"FP64": "<f8", "INT64": "<i8"}[datatype])
    texts = []
    while content:
        size = int.from_bytes(content[:4], "little")
        texts.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    return np.array(texts, np.str_)


@contextmanager
def serving(path: Path) -> Iterator[Server]:
    server = Server(path)
    try:
        yield server
    finally:
        server.close()


def windows_of(samples: np.ndarray) -> Windows:
    zeros = np.zeros(len(samples), np.int64)
    return Windows(np.arange(len(samples)), zeros, zeros, samples)


def as_declared(bundle: Bundle) -> np.ndarray:
    """Return golden windows in the dtype that goes over the wire."""
    inputs = bundle.golden().inputs
    return inputs.astype(np.float32) if inputs.dtype.kind == "f" else inputs


@pytest.mark.parametrize("path", SHIPPED, ids=[path.name for path in SHIPPED])
@pytest.mark.parametrize("count", [1, 2, 32, 33])
def test_windows_of_shipped_bundles_are_answered_alike(path: Path, count: int) -> None:
    """Any number of windows, as bytes and as JSON."""
    bundle = load_bundle(path)
    samples = np.resize(as_declared(bundle), (count, *bundle.golden().inputs.shape[1:]))
    estimates = open_pipeline(bundle).score_windows(windows_of(samples))

    with serving(path) as server:
        answers = [server.ask({"window": samples}, is_binary=one) for one in (True, False)]

    for answer in answers:
        assert answer["value"].tobytes() == estimates.value.tobytes()
        assert answer["score"].tobytes() == estimates.score.tobytes()


# --- streams ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nabu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle of a wake word."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("pymicro_features")
    spec = parse_yaml(NABU, ModelSpec, "nabu")
    model = (DATA / "models" / "okay_nabu.tflite").read_bytes()
    folder = tmp_path_factory.mktemp("nabu") / "bundle"
    inputs = said()[:8000].reshape(10, 800, 1)
    draft = Bundle(spec, "0" * 64, {"okay_nabu.tflite": model})
    outputs = open_pipeline(draft).score_windows(windows_of(inputs)).score
    golden = write_golden(Golden(inputs, outputs))
    save_bundle(folder, spec, {"okay_nabu.tflite": model, "golden.npz": golden})
    return folder


@functools.cache
def said() -> np.ndarray:
    """Return audio in which the wake word is said, (n, 1) int16."""
    with wave.open(str(DATA / "audio" / "okay_nabu__en-us.wav"), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 1)


@pytest.fixture(scope="module")
def nabu_server(nabu: Path) -> Iterator[Server]:
    """Return a server of it, for all examples."""
    with serving(nabu) as server:
        yield server


def columns_of(output: Output) -> dict[str, np.ndarray]:
    estimates = estimates_table(output.estimates).columns
    decisions = decisions_table(output.decisions).columns
    del estimates["effective_id"]
    return estimates | {f"decision_{name}": column for name, column in decisions.items()}


def pushed(pipeline: Pipeline, samples: np.ndarray) -> dict[str, np.ndarray]:
    time_ns = np.arange(len(samples), dtype=np.int64) * pipeline.spec.stream.period_ns
    return columns_of(pipeline.push(Frame(pipeline.stream, 0, time_ns, samples)))


def through(server: Server, parts: Sequence[np.ndarray], *, is_binary: bool) -> dict[str, Any]:
    """Send a stream in parts, and return all answers joined."""
    answers = [
        server.ask(
            {"samples": part},
            is_binary=is_binary,
            sequence_id="s",
            sequence_start=number == 0,
            sequence_end=number == len(parts) - 1,
            decisions=True,
        )
        for number, part in enumerate(parts)
    ]
    return {name: np.concatenate([one[name] for one in answers]) for name in answers[0]}


@settings(max_examples=8)
@given(st.lists(st.integers(0, 20_000), max_size=6), st.booleans())
def test_a_stream_with_state_is_the_same_in_any_requests(
    nabu_server: Server, nabu: Path, seams: list[int], is_binary: bool
) -> None:
    """Samples spread over requests in any way: every value and decision is the stream's."""
    expected = pushed(open_pipeline(load_bundle(nabu)), said())

    found = through(nabu_server, np.split(said(), sorted(seams)), is_binary=is_binary)

    assert expected["decision_edge"].tolist()[:1] == ["start"]
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        if is_binary and column.dtype.kind != "U":
            assert found[name].tobytes() == column.tobytes()
        else:
            assert found[name].tolist() == column.tolist()


def test_windows_with_state_are_one_stretch(nabu_server: Server, nabu: Path) -> None:
    """A batch begins with fresh state, and leaves none to the next."""
    windows = said()[:8000].reshape(10, 800, 1)
    expected = open_pipeline(load_bundle(nabu)).score_windows(windows_of(windows)).value

    answers = [nabu_server.ask({"window": windows}, is_binary=True) for _ in range(2)]

    assert {one["value"].tobytes() for one in answers} == {expected.tobytes()}
