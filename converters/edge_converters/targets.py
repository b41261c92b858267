"""What a model is for: a board or a runtime, and the runtime versions that must run it."""

from __future__ import annotations

import difflib

import msgspec

from edge_converters.contracts import Format
from edge_runtime.boards import BOARDS
from edge_runtime.errors import ConfigError

__all__ = ["LEGACY", "Runtime", "Target", "target_of"]


class Runtime(msgspec.Struct, frozen=True):
    """One runtime that a file is proven on.

    Attributes:
        name: Backend of that name.
        format: Which files it runs.
        worker: Environment it is in; empty for this one.
    """

    name: str
    format: Format
    worker: str = ""


LEGACY = Runtime("tflite-runtime", "tflite", "verify-legacy")
_MODERN = (Runtime("litert", "tflite"), Runtime("onnx", "onnx"))


class Target(msgspec.Struct, frozen=True):
    """A board or a runtime.

    Attributes:
        name: As in ``--target``.
        title: For people.
        runtimes: Every one must run the file of its format.
    """

    name: str
    title: str
    runtimes: tuple[Runtime, ...]

    @property
    def has_legacy(self) -> bool:
        """Whether a device may run tflite-runtime 2.14."""
        return LEGACY in self.runtimes

    def runtimes_of(self, form: Format) -> tuple[Runtime, ...]:
        """Return those that run files of one format."""
        return tuple(one for one in self.runtimes if one.format == form)


def _targets() -> dict[str, Target]:
    boards = (
        Target(
            board.name,
            board.title,
            # The bundle is proven here before it leaves, so LiteRT is always asked too.
            (*_MODERN, LEGACY) if board.backend == "tflite-runtime" else _MODERN,
        )
        for board in BOARDS.values()
    )
    legacy = Target("tflite-runtime-2.14", "Any board with tflite-runtime 2.14", (*_MODERN, LEGACY))
    return {one.name: one for one in (*boards, legacy)}


def target_of(name: str) -> Target:
    """Return what ``--target`` names.

    Raises:
        ConfigError: There is none of that name.
    """
    targets = _targets()
    if name not in targets:
        near = difflib.get_close_matches(name, targets, n=1)
        raise ConfigError(
            f"there is no target {name!r}",
            where="--target",
            expected=f"one of {', '.join(sorted(targets))}",
            remedy=f"Did you mean {near[0]}?" if near else "Choose the board the model is for.",
        )
    return targets[name]
