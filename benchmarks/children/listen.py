"""Our side and the hand-written loop on audio: listen.py ours|hand word|voice MODEL SECONDS."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1]))

import cases
from bare import Answer, litert
from hand import Hysteresis, quantiser
from results import Skipped
from rounds import serve

from edge_runtime.pipeline import Pipeline
from edge_runtime.types import Frame

Fresh = Callable[[], Iterator[float]]
"""Makes a side anew, outside of what is timed; what it returns does the work."""

STEP, CHUNK, CONTEXT = 480, 512, 64


def main() -> None:
    """Serve rounds over the same audio that the peers get."""
    side, task, model, seconds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    audio = cases.audio(seconds)
    if task == "word":
        fresh = _our_word(audio) if side == "ours" else _word_by_hand(model, audio)
    else:
        speech = audio[: len(audio) // CHUNK * CHUNK].astype(np.float32) / 32768
        fresh = _our_voice(model, speech) if side == "ours" else _voice_by_hand(model, speech)

    def measure() -> dict[str, float]:
        peak = total = 0.0
        count = 0
        values = fresh()
        start_ns = time.process_time_ns()
        for value in values:
            peak = max(peak, value)
            total += value
            count += 1
        cpu_ms = (time.process_time_ns() - start_ns) / 1e6
        return {"ms_per_s": cpu_ms / seconds, "peak": peak, "mean": total / max(1, count)}

    serve(measure)


def _ours(case: cases.Case, samples: np.ndarray, block: int, backend: str) -> Fresh:
    """Frames are cut from arrays in the loop, as a recording does it."""
    step_ns = case.spec.stream.period_ns
    time_ns = np.arange(len(samples), dtype=np.int64) * step_ns

    def values(pipeline: Pipeline) -> Iterator[float]:
        for first in range(0, len(samples), block):
            last = first + block
            rows = slice(first, last)
            frame = Frame("main", first, time_ns[rows], samples[rows], step_ns=step_ns)
            yield from pipeline.push(frame).estimates.value[:, 0].tolist()

    return lambda: values(case.pipeline(backend))


def _our_word(audio: np.ndarray) -> Fresh:
    return _ours(cases.okay_nabu(), audio[:, None], STEP, "litert")


def _our_voice(model: Path, speech: np.ndarray) -> Fresh:
    return _ours(cases.silero(model), speech[:, None], CHUNK, "onnx")


def _word_by_hand(model: Path, audio: np.ndarray) -> Fresh:
    """Audio front end, quantise three features, invoke, mean of five, cut-off."""
    from pymicro_features import MicroFrontend

    quantise = quantiser((1, 3, 40), 0.10196078568696976, -128)
    content = audio.tobytes()
    limit = Hysteresis(0.97, 0.5)

    def values(answer: Answer, front_end: MicroFrontend) -> Iterator[float]:
        recent = [0] * 5
        place = first = 0
        rows: list[list[float]] = []
        while first < len(content):
            found = front_end.process_samples(content[first : first + 320])
            first += 2 * found.samples_read
            if not found.features:
                continue
            rows.append(found.features)
            if len(rows) < 3:
                continue
            recent[place] = int(answer(quantise(np.array(rows, np.float32)[None]))[0, 0])
            place = (place + 1) % 5
            rows = []
            value = sum(recent) / 1280
            limit.take(value, first)
            yield value

    return lambda: values(litert(model.read_bytes()), MicroFrontend())


def _voice_by_hand(model: Path, speech: np.ndarray) -> Fresh:
    """Context, ONNX Runtime, state back into state, hysteresis."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names, rate = ["output", "stateN"], np.array(16000, np.int64)
    limit = Hysteresis(0.5, 0.35)

    def values() -> Iterator[float]:
        state = np.zeros((2, 1, 128), np.float32)
        window = np.zeros((1, CONTEXT + CHUNK), np.float32)
        feed = {"input": window, "state": state, "sr": rate}
        for first in range(0, len(speech), CHUNK):
            window[0, :CONTEXT] = window[0, CHUNK:]
            window[0, CONTEXT:] = speech[first : first + CHUNK]
            answer, feed["state"] = session.run(names, feed)
            value = float(answer[0, 0])
            limit.take(value, first)
            yield value

    return values


if __name__ == "__main__":
    try:
        main()
    except (Skipped, ImportError) as error:
        sys.exit(str(error))
