"""A small GRU in NumPy: what it computes, and how it learns."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["Weights", "answers_of", "train"]

Weights = dict[str, np.ndarray]
"""``w`` (3 h, inputs), ``r`` (3 h, h), ``bw`` and ``br`` (3 h,) of the GRU, gates in the order
update, reset, new; ``d`` (h, classes) and ``bd`` (classes,) of what reads its last state."""

_ADAM = 0.9, 0.999, 1e-8
_LARGEST_SLOPE = 1.0


def answers_of(weights: Weights, windows: np.ndarray) -> np.ndarray:
    """Return the logits after the last step of windows, shape (n, steps, channels)."""
    state = _states(weights, windows)[0][-1]
    logits: np.ndarray = state @ weights["d"] + weights["bd"]
    return logits


def train(
    windows: np.ndarray,
    labels: np.ndarray,
    hidden: int,
    *,
    epochs: int,
    rate: float,
    seed: int,
    rows: int = 64,
    tell: Callable[[int, float], None] = lambda *_: None,
) -> Weights:
    """Fit a GRU with Adam and cross-entropy; the rate falls to nothing along a cosine.

    Args:
        windows: Shape (n, steps, channels), float32, of about unit variance.
        labels: Classes, shape (n,).
        hidden: Size of the state.
        epochs: How often every window is seen.
        rate: Of learning, at the start.
        seed: Of the first weights and the order of windows.
        rows: Windows of one step of learning.
        tell: Hears the epoch and its mean loss.
    """
    dice = np.random.default_rng(seed)
    targets = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    weights = _drawn(dice, windows.shape[2], hidden, targets.shape[1])
    moments = {name: (np.zeros_like(one), np.zeros_like(one)) for name, one in weights.items()}
    batches = -(-len(windows) // rows)
    for epoch in range(epochs):
        losses = []
        for number, batch in enumerate(np.array_split(dice.permutation(len(windows)), batches)):
            loss, slopes = _slopes(weights, windows[batch], targets[batch])
            step = epoch * batches + number + 1
            now = rate * (1 + np.cos(np.pi * step / (epochs * batches))) / 2
            _learn(weights, slopes, moments, now, step)
            losses.append(loss)
        tell(epoch, float(np.mean(losses)))
    return weights


def _drawn(dice: np.random.Generator, inputs: int, hidden: int, classes: int) -> Weights:
    def normal(*shape: int) -> np.ndarray:
        return dice.normal(0, shape[-1] ** -0.5, shape).astype(np.float32)

    return {
        "w": normal(3 * hidden, inputs),
        "r": normal(3 * hidden, hidden),
        "bw": np.zeros(3 * hidden, np.float32),
        "br": np.zeros(3 * hidden, np.float32),
        "d": normal(classes, hidden).T.copy(),
        "bd": np.zeros(classes, np.float32),
    }


def _states(
    weights: Weights, windows: np.ndarray
) -> tuple[list[np.ndarray], list[tuple[np.ndarray, ...]]]:
    """Return the state after every step, the first one zeros, and the gates of every step."""
    hidden = weights["r"].shape[1]
    states, gates = [np.zeros((len(windows), hidden), np.float32)], []
    sums = windows @ weights["w"].T + weights["bw"]
    for step in range(windows.shape[1]):
        past = states[-1] @ weights["r"].T + weights["br"]
        both = _sigmoid(sums[:, step, : 2 * hidden] + past[:, : 2 * hidden])
        update, reset = both[:, :hidden], both[:, hidden:]
        new = np.tanh(sums[:, step, 2 * hidden :] + reset * past[:, 2 * hidden :])
        gates.append((update, reset, new, past[:, 2 * hidden :]))
        states.append((1 - update) * new + update * states[-1])
    return states, gates


def _slopes(weights: Weights, windows: np.ndarray, targets: np.ndarray) -> tuple[float, Weights]:
    """Return the loss and its slopes, back through every step."""
    states, gates = _states(weights, windows)
    logits = states[-1] @ weights["d"] + weights["bd"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    error = (shares - targets) / len(windows)
    found = {name: np.zeros_like(one) for name, one in weights.items()}
    found["d"], found["bd"] = states[-1].T @ error, error.sum(0)
    back = error @ weights["d"].T
    for step in reversed(range(windows.shape[1])):
        update, reset, new, past = gates[step]
        of_new = back * (1 - update) * (1 - new * new)
        of_update = back * (states[step] - new) * update * (1 - update)
        of_reset = of_new * past * reset * (1 - reset)
        of_sums = np.concatenate([of_update, of_reset, of_new], 1)
        of_past = np.concatenate([of_update, of_reset, of_new * reset], 1)
        found["w"] += of_sums.T @ windows[:, step]
        found["r"] += of_past.T @ states[step]
        found["bw"] += of_sums.sum(0)
        found["br"] += of_past.sum(0)
        back = back * update + of_past @ weights["r"]
    loss = -np.log(np.maximum((shares * targets).sum(1), 1e-9)).mean()
    return float(loss), found


def _learn(
    weights: Weights,
    slopes: Weights,
    moments: dict[str, tuple[np.ndarray, np.ndarray]],
    rate: float,
    step: int,
) -> None:
    size = np.sqrt(sum(float(np.square(one).sum()) for one in slopes.values()))
    shrink = min(1.0, _LARGEST_SLOPE / (size + 1e-9))
    for name, (first, second) in moments.items():
        slope = slopes[name] * np.float32(shrink)
        first += (1 - _ADAM[0]) * (slope - first)
        second += (1 - _ADAM[1]) * (slope * slope - second)
        spread = np.sqrt(second / (1 - _ADAM[1] ** step)) + _ADAM[2]
        weights[name] -= (rate * first / (1 - _ADAM[0] ** step) / spread).astype(np.float32)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-values))
    return result
