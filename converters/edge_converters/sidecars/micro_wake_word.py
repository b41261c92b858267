"""The JSON of microWakeWord models, versions 1 and 2.

Source: ESPHome's documentation of ``micro_wake_word`` models.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_converters.sidecars.sidecar import Sidecar
from edge_runtime.errors import ConfigError
from edge_runtime.spec import (
    ChannelSpec,
    Limit,
    MicroFrontend,
    OutputSpec,
    Smoothing,
    StateSpec,
    StreamSpec,
    WindowSpec,
)

__all__ = ["read_micro_wake_word"]

_RATE_HZ = 16_000.0
_FRAME_S = 0.03
_FRAMES = 3  # the streaming models take three frames at a time
_WARM_UP = 100  # windows, 3 s: what decides the state
_OFF = 0.5  # of the cut-off


class _Micro(msgspec.Struct):
    probability_cutoff: Annotated[float, Meta(gt=0, le=1)]
    feature_step_size: Annotated[int, Meta(ge=1, le=100)] = 10
    sliding_window_size: Annotated[int, Meta(ge=1, le=1000)] | None = None
    sliding_window_average_size: Annotated[int, Meta(ge=1, le=1000)] | None = None


class _Document(msgspec.Struct):
    type: Literal["micro"]
    wake_word: str
    micro: _Micro
    author: str = ""
    version: int = 1


def read_micro_wake_word(path: Path) -> Sidecar:
    """Read a sidecar: features, cut-off and averaging window of a streaming wake word.

    Raises:
        ConfigError: It is no such JSON.
    """
    try:
        told = msgspec.json.decode(path.read_bytes(), type=_Document)
    except (msgspec.DecodeError, OSError) as error:
        raise ConfigError(
            f"is no microWakeWord JSON: {error}",
            where=str(path),
            expected="type micro, wake_word, and micro.probability_cutoff",
            remedy="Fetch it again from where the model is, or leave it out.",
        ) from error
    return Sidecar(
        origin=f"microWakeWord JSON {path.name}",
        changes=_changes(told),
        notes=(
            f"wake word {told.wake_word!r}{' by ' + told.author if told.author else ''}",
            f"it ends below half of its cut-off {told.micro.probability_cutoff:g}",
        ),
    )


def _changes(told: _Document) -> dict[str, object]:
    micro, label = told.micro, _label(told.wake_word)
    step = round(micro.feature_step_size * _RATE_HZ / 1000)
    # The last frame begins two steps after the first and lasts 30 ms.
    length = (_FRAMES - 1) * step + round(_FRAME_S * _RATE_HZ)
    averaged = micro.sliding_window_size or micro.sliding_window_average_size or 1
    cutoff = micro.probability_cutoff
    return {
        "kind": "classifier",
        "stream": StreamSpec((ChannelSpec("audio"),), _RATE_HZ),
        "window": WindowSpec(length, _FRAMES * step),
        "features": (MicroFrontend(),),
        "labels": (label,),
        "output": OutputSpec(),
        "smoothing": Smoothing(averaged),
        "limits": (Limit(label, cutoff, cutoff * _OFF),),
        "state": StateSpec(warm_up=_WARM_UP),
    }


def _label(wake_word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", wake_word.lower()).strip("_") or "wake_word"
