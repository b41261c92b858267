"""How verbs of the command line are made: help, an example, and JSON for all of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Run", "Verbs", "tell", "verb", "with_config"]

Run = Callable[[argparse.Namespace], int]
"""Does what a verb says and returns the exit code."""

Verbs = Any
"""What `argparse` adds verbs to; its type for this is private."""


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
