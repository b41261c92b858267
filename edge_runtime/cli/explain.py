"""``edge-runtime explain``: the window behind a result, stage by stage."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_runtime.errors import ConfigError, Rejected
from edge_runtime.identity import ResultId
from edge_runtime.modes.explain import Explanation, Found, explain, limit_text, page_of, picture_of
from edge_runtime.modes.replay import Bundles

__all__ = ["Explain"]

_DEFAULT = Path("recording")
_VALUES = 6


def _page(told: Explanation, found: Found) -> bytes:
    return page_of(told, found).encode()


_DRAWN = {".html": _page, ".htm": _page, ".png": picture_of}
"""How it is drawn, by the suffix of the output."""


class Explain:
    """Say why a result is what it is."""

    name = "explain"
    help = "answer the window behind a result again, and show what every stage made of it"
    example = (
        "edge-runtime explain pump-1/3/bearing/48127/pump-bearing/worn/start"
        " --recording recording -o why.html"
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        add = parser.add_argument
        add("result", metavar="RESULT_ID", help="as a sink shows it: DEVICE/EPOCH/STREAM/INDEX…")
        add(
            "--recording",
            type=Path,
            default=_DEFAULT,
            metavar="FOLDER",
            help=f"what `run --record FOLDER` wrote (default {_DEFAULT})",
        )
        add("--bundle", type=Path, help="answer with this bundle, if the recorded one is gone")
        add(
            "-o",
            "--output",
            type=Path,
            help="draw it: one .html file that needs nothing else, or a .png, by matplotlib",
        )
        add("--json", action="store_true", help="print everything as JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Explain; 1 if the recorded bundle did not give the recorded bytes."""
        if args.output is not None and args.output.suffix not in _DRAWN:
            raise ConfigError(
                f"-o names {args.output}",
                where="the command line",
                expected="a name that ends in .html, for a page, or in .png, for a picture",
                remedy="Name it so.",
            )
        told, found = explain(ResultId.parse(args.result), args.recording, Bundles(args.bundle))
        if args.output is not None:
            _write(args.output, _DRAWN[args.output.suffix](told, found))
        text = msgspec.json.encode(told).decode() if args.json else "\n".join(_lines(told))
        sys.stdout.write(text + "\n")
        if args.output is not None and not args.json:
            sys.stdout.write(f"drawn in {args.output}\n")
        return 1 if told.is_equal is False and found.is_same_bundle else 0


def _write(path: Path, drawing: bytes) -> None:
    try:
        path.write_bytes(drawing)
    except OSError as error:
        raise Rejected(
            f"the drawing cannot be written ({error.strerror})",
            where=str(path),
            expected="a file in a folder that exists and that you may write to",
            remedy="Name another one with -o.",
        ) from error


def _lines(told: Explanation) -> Iterator[str]:
    yield told.result
    yield f"  {told.model}, effective id {told.effective_id}"
    for stage in told.stages:
        yield f"  {stage.name:18} {stage.what}"
        if stage.values is not None:
            yield f"  {'':18} {_values(told, stage.values)}"
    for limit in told.limits:
        yield f"  {'limit':18} {limit.label}: {limit_text(limit)}"
    yield f"  {told.verdict}"


def _values(told: Explanation, values: list[float]) -> str:
    """Name the largest values; a regressor has one, in its unit."""
    if len(values) == 1:
        return f"{values[0]:.6g} {told.unit}".rstrip()
    order = sorted(range(len(values)), key=lambda one: -values[one])[:_VALUES]
    return ", ".join(f"{told.labels[one]} {values[one]:.4g}" for one in order)
