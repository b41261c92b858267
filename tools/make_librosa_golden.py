"""Write tests/data/audio/librosa_mel.npz: mel energies as librosa computes them.

librosa is too heavy to test with every day. Run this in an environment of its own:

    pip install librosa && python tools/make_librosa_golden.py
"""

from __future__ import annotations

import wave
from pathlib import Path

import librosa
import numpy as np

AUDIO = Path(__file__).resolve().parents[1] / "tests" / "data" / "audio"
RATE_HZ = 16_000


def main() -> None:
    """Compute 2 s from the middle of a recording, frames from the first sample on."""
    with wave.open(str(AUDIO / "marvin_10s.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    part = samples[RATE_HZ : 3 * RATE_HZ] / 32768.0
    options = {"sr": RATE_HZ, "n_fft": 1024, "hop_length": 512, "center": False}
    energies = librosa.feature.melspectrogram(y=part, n_mels=64, power=2.0, **options)
    htk = librosa.feature.melspectrogram(
        y=part, n_mels=40, power=1.0, htk=True, norm=None, **options
    )
    np.savez_compressed(
        AUDIO / "librosa_mel.npz",
        slaney_power=energies.T.astype(np.float32),
        htk_magnitude=htk.T.astype(np.float32),
    )


if __name__ == "__main__":
    main()
