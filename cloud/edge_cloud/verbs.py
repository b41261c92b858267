"""How verbs of the command line are made: help, an example, and JSON for all of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError

__all__ = ["Run", "VerbParser", "Verbs", "make_folder", "tell", "verb", "with_config"]

Run = Callable[[argparse.Namespace], int]
"""Does what a verb says and returns the exit code."""

Verbs = Any
"""What `argparse` adds verbs to; its type for this is private."""


class VerbParser(argparse.ArgumentParser):
    """Reads a verb, or the words below it.

    Attributes:
        default_verb: The verb below that is meant where the first word is none: a path or an
            option. None where one must be named.
    """

    default_verb: str | None = None

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Put the default verb first, where it is left out."""
        words = sys.argv[1:] if args is None else list(args)
        if self.default_verb is not None and not _names_verb(words):
            words = [self.default_verb, *words]
        return super().parse_known_args(words, namespace or argparse.Namespace())


def _names_verb(words: Sequence[str]) -> bool:
    """Whether the first word is a verb, rightly spelt or not, or asks for help."""
    first = words[0] if words else "-"
    return first in {"-h", "--help"} or (first[0] != "-" and first.replace("-", "").isalpha())


def verb(verbs: Verbs, name: str, text: str, example: str, run: Run) -> argparse.ArgumentParser:
    """Add one verb below ``edge-runtime cloud``."""
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  edge-runtime cloud {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(verb=run)
    return parser


def with_config(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let a verb take the cloud's YAML."""
    parser.add_argument("config", type=Path, help="cloud YAML")
    return parser


def tell(args: argparse.Namespace, result: object, text: str) -> int:
    """Print a result, as text or as JSON, and return the exit code of success."""
    encoded = msgspec.json.encode(result).decode()
    sys.stdout.write((encoded if args.json else text) + "\n")
    return 0


def make_folder(folder: Path, mode: int = 0o755) -> None:
    """Make the folder that a verb writes to, unless it is there.

    Raises:
        ConfigError: It cannot be made.
    """
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"no folder can be made there: {error.strerror}",
            where=str(folder),
            expected="a folder, or a path at which one may be made",
            remedy="Choose another with -o.",
        ) from error
