"""The tape of a stream: its raw frames on disk, and what is needed to answer them again."""

from edge_runtime.tape.answers import Answer, answers_of, answers_of_output, windows_of
from edge_runtime.tape.entries import (
    Answers,
    Change,
    Entry,
    Origin,
    Silence,
    Standing,
    Stretch,
)
from edge_runtime.tape.frames import Gathered, Run, frames_of, stretches_of
from edge_runtime.tape.reader import Segment, Tape, open_tapes, place_before
from edge_runtime.tape.recorder import Recorder, Taken
from edge_runtime.tape.ring import Limits, Ring

__all__ = [
    "Answer",
    "Answers",
    "Change",
    "Entry",
    "Gathered",
    "Limits",
    "Origin",
    "Recorder",
    "Ring",
    "Run",
    "Segment",
    "Silence",
    "Standing",
    "Stretch",
    "Taken",
    "Tape",
    "answers_of",
    "answers_of_output",
    "frames_of",
    "open_tapes",
    "place_before",
    "stretches_of",
    "windows_of",
]
