"""silero-vad's own ONNX wrapper on our audio: drive_silero_vad.py MODEL.onnx CLIPS.npz SECONDS."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from silero_vad.utils_vad import OnnxWrapper

sys.path.append(str(Path(__file__).resolve().parents[1]))

from rounds import serve

CHUNK = 512


def main() -> None:
    """Call the wrapper with one chunk of 32 ms after the other, as its documentation does."""
    model, clips, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    with np.load(clips) as file:
        audio = file["audio"][:seconds].reshape(-1).astype(np.float32) / 32768
    chunks = torch.from_numpy(audio[: len(audio) // CHUNK * CHUNK])
    wrapper = OnnxWrapper(model, force_onnx_cpu=True)

    def measure() -> dict[str, float]:
        wrapper.reset_states()
        peak = mean = 0.0
        start_ns = time.process_time_ns()
        for first in range(0, len(chunks), CHUNK):
            value = wrapper(chunks[first : first + CHUNK], 16000).item()
            peak = max(peak, value)
            mean += value
        cpu_ms = (time.process_time_ns() - start_ns) / 1e6
        return {"ms_per_s": cpu_ms / seconds, "peak": peak, "mean": mean * CHUNK / len(chunks)}

    serve(measure, version=version("silero-vad"))


if __name__ == "__main__":
    main()
