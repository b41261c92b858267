"""From process start to the first answer: start.py bare litert|onnx, or start.py ours CONFIG.

Prints the processor time so far, ms, and the resident memory, MB.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

MODELS = Path(__file__).resolve().parents[2] / "tests" / "data" / "models"


def main() -> None:
    """Do one of the two."""
    if sys.argv[1] == "bare":
        _bare(sys.argv[2])
    else:
        _ours(sys.argv[2])


def _bare(backend: str) -> None:
    """Import numpy, the engine and the MQTT client, and answer one window: no runtime at all."""
    import paho.mqtt.client

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import numpy as np
    from bare import BARE

    del paho
    name = {"litert": "kws_dscnn_int8.tflite", "onnx": "kws_dscnn_int8_qdq.onnx"}[backend]
    BARE[backend]((MODELS / name).read_bytes())(np.zeros((1, 49, 10, 1), np.int8))
    _say()


def _ours(config: str) -> None:
    """Do what `edge-runtime run` does, up to the first answer of a stream."""
    import edge_runtime.cli  # noqa: F401 - the command's own cost
    from edge_runtime.config import load_device
    from edge_runtime.config.check import check_device
    from edge_runtime.modes.edge import EdgeDevice

    def note(name: str, _: object) -> None:
        if name == "estimates.made":
            _say()

    loaded = load_device(Path(config))
    check_device(loaded)
    EdgeDevice(loaded, on_event=note).run(drain_s=0.0)


def _say() -> None:
    cpu_ms = time.process_time_ns() / 1e6
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    print(cpu_ms, int(found[1]) / 1024 if found else 0.0, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
