"""A server in a process of its own, and what its answers say: the real-time leg's other half."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from edge_runtime.errors import ModelError

__all__ = ["Client", "served"]

# Open Inference Protocol v2, "Tensor Data Types".
_DATATYPES = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"} | {
    f"{kind}{bits}": f"<{code}{bits // 8}"
    for kind, code in (("INT", "i"), ("UINT", "u"))
    for bits in (8, 16, 32, 64)
}
_NAMES = {np.dtype(code): name for name, code in _DATATYPES.items()}
_LENGTH = "Inference-Header-Content-Length"
_LONGEST_S = 60.0


@contextlib.contextmanager
def served(bundle: Path, words: Sequence[str] = ()) -> Iterator[int]:
    """Serve a bundle on a free port of loopback while the block runs, and yield the port.

    Raises:
        ModelError: The server did not start.
    """
    argv = ["serve", str(bundle), "--port", "0", "--json", *words]
    child = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "edge_runtime.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield _port_of(child)
    finally:
        child.terminate()
        child.communicate()


def _port_of(child: subprocess.Popen[str]) -> int:
    assert child.stdout is not None  # noqa: S101 - asked for above
    line = child.stdout.readline()
    if not line:
        raise ModelError(
            f"ended with code {child.wait()}",
            where="edge-runtime serve",
            expected="a line that says where it listens",
            remedy="Serve the bundle by itself first: edge-runtime serve BUNDLE.",
        )
    return urlsplit(json.loads(line)["url"]).port or 0


class Client:
    """One connection to a server; speaks the binary tensor extension. Used by one thread.

    Args:
        port: On loopback.
    """

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LONGEST_S)

    def infer(
        self, model: str, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, object]
    ) -> dict[str, np.ndarray]:
        """Ask once and return the outputs by name; texts come as objects.

        Raises:
            ModelError: The server refused, in its own words.
        """
        header = json.dumps(
            {
                "inputs": [_described(name, array) for name, array in inputs.items()],
                "parameters": {**parameters, "binary_data_output": True},
            }
        ).encode()
        body = header + b"".join(np.ascontiguousarray(one).tobytes() for one in inputs.values())
        headers = {_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
        self._connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise ModelError(
                f"answered {response.status}: {answer.decode(errors='replace')[:500]}",
                where="edge-runtime serve",
                expected="200",
                remedy="Ask it by hand, see docs/reference/serve.md.",
            )
        return _outputs(answer, int(response.headers[_LENGTH]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def _described(name: str, array: np.ndarray) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": _NAMES[array.dtype.newbyteorder("<")],
        "parameters": {"binary_data_size": array.nbytes},
    }


def _outputs(answer: bytes, length: int) -> dict[str, np.ndarray]:
    outputs, at = {}, length
    for tensor in json.loads(answer[:length])["outputs"]:
        size = tensor["parameters"]["binary_data_size"]
        outputs[tensor["name"]] = _array(tensor, answer[at : at + size])
        at += size
    return outputs


def _array(tensor: Mapping[str, Any], content: bytes) -> np.ndarray:
    if tensor["datatype"] == "BYTES":
        return np.array(_texts(content), np.object_)
    dtype = np.dtype(_DATATYPES[tensor["datatype"]])
    return np.frombuffer(content, dtype).reshape(tensor["shape"])


def _texts(content: bytes) -> list[str]:
    """Read texts, each behind its length in four bytes."""
    texts, at = [], 0
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "little")
        texts.append(content[at + 4 : at + 4 + length].decode())
        at += 4 + length
    return texts
