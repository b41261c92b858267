"""Options that say where in an input file a model's channels and times stand."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_runtime.errors import ConfigError
from edge_runtime.modes.batch import BatchJob

__all__ = ["add_columns", "add_timing", "columns_of"]


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    add = parser.add_argument
    add(
        "--map",
        action="append",
        default=[],
        metavar="CHANNEL=COLUMN",
        help="column of a channel that is not named like it; may be repeated",
    )
    add("--time", metavar="COLUMN", help="column with event times; then times go out too")
    add("--time-format", choices=("iso", "unix_s", "unix_ms", "unix_ns"), default="iso")
    add("--array", metavar="NAME", help="array (rows, channels) in an .npz")


def add_timing(parser: argparse.ArgumentParser) -> None:
    """Add how long rows are waited for."""
    parser.add_argument(
        "--timing",
        metavar="KEY=VALUE,…",
        help="how long rows on a grid are waited for, such as allowed_lateness_s=60",
    )


def columns_of(args: argparse.Namespace, path: Path, output: Path | None = None) -> BatchJob:
    """Return a job that names the input and its columns, and nothing else.

    Raises:
        ConfigError: A pair is no pair.
    """
    return BatchJob(
        input=path,
        output=output or Path(),
        columns=dict(_pair(text) for text in args.map),
        time=args.time,
        time_format=args.time_format,
        array=args.array,
    )


def _pair(text: str) -> tuple[str, str]:
    channel, mark, column = text.partition("=")
    if not (channel and mark and column):
        raise ConfigError(
            f"--map is {text!r}",
            expected="CHANNEL=COLUMN",
            remedy="Name a channel of the model and the input's column for it.",
        )
    return channel, column
