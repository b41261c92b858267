"""Raw audio to answers: ours, a hand-written loop and the package people use, in turn.

Each side is a process of its own on the same audio and the same model file;
what counts is the processor time of all its threads per second of audio.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from cases import DATA
from measure import median_ratio
from results import Ratio, Row, Skipped
from rounds import Worker, interleave

__all__ = ["PARTS"]

_FOLDER = Path(__file__).parent
_PEERS = _FOLDER / "peers"
_CLIPS = DATA / "keywords" / "clips_int16_16k.npz"
_SECONDS = 8
_WORD_BAR_MS = 1.5
_WORD_PEER_RATIO = 2.3
_VOICE_HAND_RATIO = 1.1
_VOICE_PEER_RATIO = 1.8
_TOLERANCE = 0.01

Command = Sequence[str]


def wake_word(*, rounds: int) -> list[Row]:
    """The wake word "okay nabu" from raw audio."""
    models = DATA / "models"
    commands = {
        "ours": _own("ours", "word", models / "okay_nabu.tflite"),
        "hand loop": _own("hand", "word", models / "okay_nabu.tflite"),
        "pymicro-wakeword": _peer("pymicro-wakeword", models / "okay_nabu.json"),
    }
    figures, note = _measured("wake_word_ms_per_s", commands, max(5, rounds // 10))
    return [_row("wake_word_ms_per_s", figures, note, _WORD_BAR_MS, None, _WORD_PEER_RATIO)]


def voice(*, rounds: int) -> list[Row]:
    """Silero's voice detector from raw audio."""
    model = DATA / "models" / "silero_vad.onnx"
    commands = {
        "ours": _own("ours", "voice", model),
        "hand loop": _own("hand", "voice", model),
        "silero-vad": _peer("silero-vad", model),
    }
    figures, note = _measured("vad_ms_per_s", commands, max(5, rounds // 10))
    return [_row("vad_ms_per_s", figures, note, None, _VOICE_HAND_RATIO, _VOICE_PEER_RATIO)]


PARTS = {"wake_word_ms_per_s": wake_word, "vad_ms_per_s": voice}


def _own(side: str, task: str, model: Path) -> Command:
    script = _FOLDER / "children" / "listen.py"
    return [sys.executable, str(script), side, task, str(model), str(_SECONDS)]


def _peer(name: str, model: Path) -> Command:
    python = _PEERS / ".venvs" / name / "bin" / "python"
    script = _PEERS / f"drive_{name.replace('-', '_')}.py"
    return [str(python), str(script), str(model), str(_CLIPS), str(_SECONDS)]


def _measured(
    row: str, commands: Mapping[str, Command], rounds: int
) -> tuple[dict[str, list[float]], str]:
    """Return CPU ms per second of audio, by round, of all sides here, and what is absent.

    Raises:
        ValueError: Two sides do not answer the same.
    """
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name, command in commands.items():
            try:
                workers[name] = stack.enter_context(Worker(command))
            except (RuntimeError, FileNotFoundError) as error:
                absent[name] = "not installed" if isinstance(error, OSError) else str(error)
        answers = interleave(workers, rounds)
    for figure in ("peak", "mean"):
        _check_same(row, figure, {name: found[-1].get(figure) for name, found in answers.items()})
    figures = {name: [entry["ms_per_s"] for entry in found] for name, found in answers.items()}
    return figures, "; ".join(f"{name} absent: {why}" for name, why in absent.items())


def _check_same(row: str, figure: str, told: Mapping[str, float | None]) -> None:
    """Stop where the sides do not find the same in the audio."""
    known = [value for value in told.values() if value is not None]
    if known and max(known) - min(known) > _TOLERANCE:
        raise ValueError(f"{row}: the sides differ in the {figure} of their scores: {told}")


def _row(
    name: str,
    figures: Mapping[str, list[float]],
    note: str,
    bar: float | None,
    hand_ratio: float | None,
    peer_ratio: float,
) -> Row:
    medians = {side: statistics.median(found) for side, found in figures.items()}
    ours = figures.get("ours")
    if ours is None:
        told = ", ".join(f"{side} ms {value:.2f}" for side, value in medians.items())
        raise Skipped(f"{note} (in the same run: {told})")
    ratios = []
    for side, found in figures.items():
        if side == "hand loop" and hand_ratio is not None:
            ratio = median_ratio(ours, found)
            ratios.append(Ratio("ours over the hand loop", ratio, at_most=hand_ratio))
        elif side not in ("ours", "hand loop"):
            ratio = median_ratio(found, ours)
            ratios.append(Ratio(f"{side} over ours", ratio, at_least=peer_ratio))
    peers = {f"{side} ms": value for side, value in medians.items() if side != "ours"}
    return Row.of(name, medians["ours"], "ms", bar=bar, ratios=ratios, peers=peers, note=note)
