"""Write tests/data/reference: what librosa and scikit-learn compute of the same numbers.

Both are too heavy to test with every day. Run this in an environment of its own:

    pip install librosa scikit-learn && python tools/make_reference.py
"""

from __future__ import annotations

import wave
from pathlib import Path

import librosa
import numpy as np
from sklearn.preprocessing import QuantileTransformer

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
RATE_HZ = 16_000


def main() -> None:
    """Write both files."""
    np.savez_compressed(DATA / "reference" / "librosa_mel.npz", **mel_energies())
    np.savez_compressed(DATA / "reference" / "sklearn_quantiles.npz", **quantiles())


def mel_energies() -> dict[str, np.ndarray]:
    """Compute mel energies of 2 s of a recording, frames from the first sample on."""
    with wave.open(str(DATA / "audio" / "marvin_10s.wav"), "rb") as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    part = samples[RATE_HZ : 3 * RATE_HZ] / 32768.0
    options = {"y": part, "sr": RATE_HZ, "n_fft": 1024, "hop_length": 512, "center": False}
    slaney = librosa.feature.melspectrogram(n_mels=64, power=2.0, **options)
    htk = librosa.feature.melspectrogram(n_mels=40, power=1.0, htk=True, norm=None, **options)
    return {
        "slaney_power": slaney.T.astype(np.float32),
        "htk_magnitude": htk.T.astype(np.float32),
    }


def quantiles() -> dict[str, np.ndarray]:
    """Transform values of four distributions, two of them with many equal values."""
    random = np.random.default_rng(0)
    normal = random.normal(size=(4, 1000))
    columns = [normal[0], np.exp(normal[1]), np.round(normal[2]), np.maximum(0, normal[3])]
    training = np.stack(columns, axis=1).astype(np.float32)
    values = np.concatenate([training[:100], random.normal(0, 3, (100, 4))]).astype(np.float32)
    found = {"values": values}
    for output in ("uniform", "normal"):
        transformer = QuantileTransformer(n_quantiles=51, output_distribution=output).fit(training)
        found["knots"] = transformer.quantiles_.T
        found[output] = transformer.transform(values.astype(np.float64)).astype(np.float32)
    return found


if __name__ == "__main__":
    main()
