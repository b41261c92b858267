"""The reference client of the protocol, unchanged, against this server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

triton = pytest.importorskip("tritonclient.http")


@pytest.fixture
def client(mean: Any) -> Iterator[Any]:
    """Return NVIDIA's client, connected."""
    with triton.InferenceServerClient(f"127.0.0.1:{mean.port}", concurrency=2) as found:
        yield found


def _input(name: str, array: np.ndarray, *, binary: bool) -> Any:
    datatype = {"float32": "FP32", "int64": "INT64"}[str(array.dtype)]
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_it_learns_what_there_is(client: Any) -> None:
    """Health, metadata and index are what it expects."""
    metadata = client.get_model_metadata("mean")
    index = client.get_model_repository_index()

    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mean") and client.is_model_ready("mean", "1")
    assert not client.is_model_ready("none")
    assert "sequence" in client.get_server_metadata()["extensions"]
    assert metadata["inputs"][0]["name"] == "window"
    assert [one["name"] for one in index] == ["mean"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_tensors_go_both_ways_in_both_forms(
    client: Any, binary_in: bool, binary_out: bool | None
) -> None:
    """JSON and bytes, mixed in any way; None asks for nothing and gets all."""
    windows = np.random.default_rng(7).normal(0, 1, (3, 4, 1)).astype(np.float32)
    outputs = (
        None
        if binary_out is None
        else [triton.InferRequestedOutput("value", binary_data=binary_out)]
    )

    result = client.infer(
        "mean",
        [_input("window", windows, binary=binary_in)],
        outputs=outputs,
        request_id="r-1",
    )

    expected = windows.mean(axis=1).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(result.as_numpy("value"), expected, atol=1e-6)
    assert result.get_response()["id"] == "r-1"


def test_it_asks_ahead(client: Any) -> None:
    """Requests in flight at once get their own answers."""
    windows = [np.full((1, 4, 1), number, np.float32) for number in range(20, 40)]

    waiting = [client.async_infer("mean", [_input("window", one, binary=True)]) for one in windows]
    values = [one.get_result().as_numpy("value").item() for one in waiting]

    assert values == list(map(float, range(20, 40)))


def test_it_keeps_a_sequence(client: Any) -> None:
    """Its own arguments for sequences open, continue and end a stream."""

    def push(values: list[float], **more: Any) -> Any:
        samples = np.array(values, np.float32)[:, None]
        return client.infer("mean", [_input("samples", samples, binary=True)], **more)

    push([0, 0, 0], sequence_id=9, sequence_start=True)
    result = push(
        [12, 0], sequence_id=9, sequence_end=True, priority=1, parameters={"decisions": True}
    )

    assert result.as_numpy("index").tolist() == [3, 4]
    assert result.as_numpy("decision_label").tolist() == [b"high"]
    with pytest.raises(triton.InferenceServerException, match="not open"):
        push([0], sequence_id=9)


def test_it_loads_and_unloads(client: Any) -> None:
    """The repository extension by its own calls."""
    client.unload_model("mean")
    is_ready_between = client.is_model_ready("mean")
    client.load_model("mean")

    assert not is_ready_between
    assert client.is_model_ready("mean")
    with pytest.raises(triton.InferenceServerException, match="own disk"):
        client.load_model("mean", config="{}")


def test_it_understands_errors(client: Any) -> None:
    """What this server says is what its exception says."""
    window = _input("window", np.zeros((1, 5, 1), np.float32), binary=True)

    with pytest.raises(triton.InferenceServerException, match=r"\[-1, 4, 1\]"):
        client.infer("mean", [window])
    with pytest.raises(triton.InferenceServerException, match="no such model"):
        client.infer("none", [window])
