"""pymicro-wakeword on our audio: drive_pymicro_wakeword.py CONFIG.json CLIPS.npz SECONDS."""

from __future__ import annotations

import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures

sys.path.append(str(Path(__file__).resolve().parents[1]))

from rounds import serve

STEP_BYTES = 2 * 480


def main() -> None:
    """Push 30 ms at a time through the package's own two classes."""
    config, clips, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with np.load(clips) as file:
        audio = file["audio"][:seconds].reshape(-1).tobytes()
    word = MicroWakeWord.from_config(config)
    features = MicroWakeWordFeatures()

    def measure() -> dict[str, float]:
        detections, peak = 0, 0.0
        word.reset()
        features.reset()
        start_ns = time.process_time_ns()
        for first in range(0, len(audio), STEP_BYTES):
            for entry in features.process_streaming(audio[first : first + STEP_BYTES]):
                value = word.process_streaming_prob(entry) or 0.0
                detections += value > word.probability_cutoff
                peak = max(peak, value)
        cpu_ms = (time.process_time_ns() - start_ns) / 1e6
        return {"ms_per_s": cpu_ms / seconds, "peak": peak, "detections": detections}

    serve(measure, version=version("pymicro-wakeword"))


if __name__ == "__main__":
    main()
