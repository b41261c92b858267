"""Ask a keyword model only where it is loud enough for a word, and measure what that saves.

    python -m examples.keyword_gate.measure

The model hears a window of one second five times a second. In the cascade a gate without a
model, the level of the window, goes before it. The gate's threshold comes from one half of
the 500 clips of ``tests/data/keywords``, and accuracy is measured on the other half.
``--save FOLDER`` writes the bundle instead, and ``--room FILE.npz`` a minute of audio for it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edge_runtime import Windows, open_pipeline
from edge_runtime.bundle import Bundle, Golden, save_bundle, write_golden
from edge_runtime.spec import (
    ArtefactSpec,
    AskNext,
    ChannelSpec,
    Limit,
    LogMel,
    Mfcc,
    ModelSpec,
    StageSpec,
    Statistics,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import Frame

DATA = Path(__file__).resolve().parents[2] / "tests" / "data" / "keywords"
WORDS = ("down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes")
LABELS = (*WORDS, "silence", "unknown")
SILENCE = LABELS.index("silence")
RATE_HZ = 16_000
HOP = 3200
FRAME = 320  # 20 ms, as a microphone delivers them
MARGIN = 0.9  # of the quietest word that was heard
EVERY_S = 10
ROUNDS = 5


class Clips(msgspec.Struct, frozen=True, eq=False):
    """Recordings of one second, shape (n, 16000), int16, and what is said, shape (n,)."""

    audio: np.ndarray
    label: np.ndarray

    @property
    def level(self) -> np.ndarray:
        """Root mean square of each, in steps of the converter."""
        squares: np.ndarray = (self.audio.astype(np.float64) ** 2).mean(axis=1)
        return np.sqrt(squares)

    def take(self, which: np.ndarray | slice) -> Clips:
        """Return some of them."""
        return Clips(self.audio[which], self.label[which])


def load(data: Path = DATA) -> tuple[Clips, Clips]:
    """Return the clips to tune with and those to judge with: every other one."""
    with np.load(data / "clips_int16_16k.npz") as file:
        clips = Clips(file["audio"], file["label"])
    return clips.take(slice(0, None, 2)), clips.take(slice(1, None, 2))


def gate_level(tuning: Clips) -> float:
    """Return the level from which the model is asked: below that of every word."""
    return round(MARGIN * float(tuning.level[tuning.label != SILENCE].min()), 1)


def gate_of(level: float) -> StageSpec:
    """Return a gate without a model: what is quieter is silence."""
    return StageSpec(
        "gate",
        AskNext(level, label="level"),
        labels=("level",),
        features=(Statistics(("rms",)),),
        idle=tuple(float(label == SILENCE) for label in range(len(LABELS))),
    )


def bundle_of(folder: Path, level: float | None, data: Path = DATA) -> Bundle:
    """Write the keyword model as a bundle; behind a gate that opens from ``level`` on."""
    tuning, _ = load(data)
    spec = ModelSpec(
        name="keywords" if level is None else "keywords-gated",
        version="1",
        kind="classifier",
        stream=StreamSpec((ChannelSpec("audio"),), float(RATE_HZ)),
        window=WindowSpec(RATE_HZ, HOP),
        features=(Mfcc(LogMel(480, 320, 512, 40, 20.0, 4000.0, peak=True), 10),),
        artefacts=(ArtefactSpec("tflite", "kws_dscnn_int8.tflite", "int8"),),
        labels=LABELS,
        limits=tuple(Limit(word, 0.8, 0.5) for word in WORDS),
        cascade=() if level is None else (gate_of(level),),
    )
    # Every other way through the cascade needs its golden windows: quiet and loud ones.
    windows = tuning.audio[np.argsort(tuning.level)[:: len(tuning.audio) // 25]][:, :, None]
    files = {"kws_dscnn_int8.tflite": (data / "kws_dscnn_int8.tflite").read_bytes()}
    answers = np.zeros((len(windows), len(LABELS)))
    for _ in range(2):
        golden = write_golden(Golden(windows, answers))
        bundle = save_bundle(folder, spec, {**files, "golden.npz": golden})
        answers = open_pipeline(bundle).score_windows(_windows(windows)).score
    return bundle


def heard(bundle: Bundle, clips: Clips) -> tuple[np.ndarray, np.ndarray]:
    """Return the class that is named for each clip, and which were left to the model."""
    found = open_pipeline(bundle).score_windows(_windows(clips.audio[:, :, None]))
    is_asked = np.ones(len(clips.label), np.bool_) if found.stage is None else found.stage == 1
    return found.score.argmax(axis=1), is_asked


def _windows(samples: np.ndarray) -> Windows:
    index = np.arange(len(samples), dtype=np.int64)
    return Windows(index, index, index, samples)


def quiet_of(clips: Clips, level: float) -> Clips:
    """Return the clips of noise that are quieter than ``level``."""
    return clips.take((clips.label == SILENCE) & (clips.level < level))


def room(clips: Clips, pauses: Clips, words: int) -> np.ndarray:
    """Return a recording, (n, 1) int16: a clip with a word every ten seconds, noise between."""
    spoken = clips.audio[clips.label < SILENCE][:words]
    noise = np.resize(pauses.audio, (words, (EVERY_S - 1) * RATE_HZ))
    return np.concatenate((spoken, noise), axis=1).reshape(-1, 1)


class Heard(msgspec.Struct, frozen=True):
    """What a bundle made of a recording.

    Attributes:
        us: Processor time for a second of audio.
        starts: Second and word of every start.
        answered: Windows by the stage that answered them.
    """

    us: float
    starts: tuple[tuple[float, str], ...]
    answered: dict[str, int]


def listen(bundle: Bundle, audio: np.ndarray) -> Heard:
    """Push a recording in frames of 20 ms."""
    pipeline = open_pipeline(bundle)
    frames = list(_frames(audio))
    start_ns = time.process_time_ns()
    outputs = [pipeline.push(frame) for frame in frames]
    taken_us = (time.process_time_ns() - start_ns) / 1e3
    decisions = [one for output in outputs for one in output.decisions if one.edge == "start"]
    starts = tuple((one.time_ns / 1e9, one.label) for one in decisions)
    return Heard(taken_us * RATE_HZ / len(audio), starts, pipeline.answered)


def _frames(audio: np.ndarray) -> Iterator[Frame]:
    for first in range(0, len(audio), FRAME):
        rows = np.arange(first, min(first + FRAME, len(audio)))
        yield Frame("main", first, rows * 62_500, audio[rows])


def accuracy(plain: Bundle, gated: Bundle, judged: Clips) -> dict[str, float | int]:
    """Compare the answers to clips that the threshold has not seen."""
    (alone, _), (behind, is_asked) = heard(plain, judged), heard(gated, judged)
    is_silence = judged.label == SILENCE
    return {
        "clips": len(judged.label),
        "right_without": int((alone == judged.label).sum()),
        "right_with": int((behind == judged.label).sum()),
        "words_stopped": int((~is_asked & ~is_silence).sum()),
        "noise": int(is_silence.sum()),
        "noise_stopped": int((~is_asked & is_silence).sum()),
    }


def savings(plain: Bundle, gated: Bundle, audio: np.ndarray, said: np.ndarray) -> dict[str, object]:
    """Compare processor time, each the best of five in turn, and the words that start.

    Args:
        plain: The model alone.
        gated: The model behind the gate.
        audio: Shape (n, 1).
        said: The word of each stretch of ten seconds, in its first second.
    """
    rounds = [(listen(plain, audio), listen(gated, audio)) for _ in range(ROUNDS)]
    without, behind = (min(us) for us in zip(*((a.us, b.us) for a, b in rounds), strict=True))
    alone, other = rounds[0]
    return {
        "us_without": round(without),
        "us_with": round(behind),
        "times": round(without / behind, 1),
        "asked": round(other.answered["model"] / sum(other.answered.values()), 3),
        "without": _found(alone, said),
        "with": _found(other, said),
    }


def _found(heard: Heard, said: np.ndarray) -> dict[str, int]:
    """Count words that start within a second of their end, and starts of anything else."""
    is_right = [
        LABELS[said[int(second // EVERY_S)]] == word and second % EVERY_S < 2
        for second, word in heard.starts
    ]
    found = {
        int(s // EVERY_S) for (s, _), right in zip(heard.starts, is_right, strict=True) if right
    }
    return {"words": len(found), "false_starts": is_right.count(False)}


def measured(folder: Path, data: Path = DATA, words: int = 30) -> dict[str, object]:
    """Measure everything."""
    tuning, judged = load(data)
    level = gate_level(tuning)
    plain = bundle_of(folder / "keywords", None, data)
    gated = bundle_of(folder / "keywords-gated", level, data)
    noise, quiet = judged.take(judged.label == SILENCE), quiet_of(judged, level)
    said = judged.label[judged.label < SILENCE][:words]
    return {
        "level": level,
        "accuracy": accuracy(plain, gated, judged),
        "quiet_room": savings(plain, gated, room(judged, quiet, words), said),
        "any_noise": savings(plain, gated, room(judged, noise, words), said),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the figures; or write the bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder with clips and model")
    parser.add_argument("--save", type=Path, help="write the gated bundle here and end")
    parser.add_argument("--room", type=Path, help="write a minute of a quiet room here and end")
    args = parser.parse_args(arguments)
    tuning, judged = load(args.data)
    level = gate_level(tuning)
    if args.save is not None:
        bundle = bundle_of(args.save, level, args.data)
        sys.stdout.write(f"{bundle.ref} {bundle.digest[:16]} in {args.save}\n")
    if args.room is not None:
        audio = room(judged, quiet_of(judged, level), 6)
        np.savez(args.room, audio=audio[:, 0])
        sys.stdout.write(f"{len(audio) // RATE_HZ} s of audio in {args.room}\n")
    if args.save is not None or args.room is not None:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(measured(Path(folder), args.data), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
