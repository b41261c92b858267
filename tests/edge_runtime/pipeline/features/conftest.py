"""Recordings and windows for the tests of features."""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

AUDIO = Path(__file__).parents[3] / "data" / "audio"


@pytest.fixture(scope="session")
def audio() -> Callable[[str], np.ndarray]:
    """Read a recording of tests/data/audio: int16, shape (samples, 1)."""

    def read(name: str) -> np.ndarray:
        with wave.open(str(AUDIO / f"{name}.wav"), "rb") as file:
            return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 1)

    return read


@pytest.fixture(scope="session")
def cut() -> Callable[..., np.ndarray]:
    """Cut a stream (samples, 1) into windows (n, length, 1), views into it."""

    def cut_stream(stream: np.ndarray, length: int, hop: int) -> np.ndarray:
        every = np.lib.stride_tricks.sliding_window_view(stream, length, axis=0)
        return every[::hop].transpose(0, 2, 1)

    return cut_stream
