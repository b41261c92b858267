"""The command ``edge-runtime``: one verb per command, found by entry point.

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 not trusted, 4 inconclusive.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Protocol

from edge_runtime import registry
from edge_runtime.errors import EdgeError
from edge_runtime.version import __version__

__all__ = ["Command", "main", "parser"]


class Command(Protocol):
    """One verb of the command line.

    Attributes:
        name: The verb.
        help: One line.
        example: A line that can be typed.
    """

    name: str
    help: str
    example: str

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it and return the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    # A verb may be more as a program than as a call from Python: ``run`` is supervised.
    as_called = argparse.Namespace(is_program=argv is None)
    args = parser(words[:1]).parse_args(words, as_called)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        command: Command = args.command
        return command.run(args)
    except EdgeError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser with every verb that is installed.

    Args:
        words: Where the first is a verb, only that one is imported: what a device
            does not run costs it no memory.
    """
    root = argparse.ArgumentParser(
        prog="edge-runtime", description="Models next to sensors: nothing lost, nothing waits."
    )
    root.add_argument("--version", action="version", version=f"edge-runtime {__version__}")
    verbs = root.add_subparsers(required=True, metavar="COMMAND")
    names = registry.names("commands")
    for name in words[:1] if set(words[:1]) & set(names) else names:
        try:
            command: Command = registry.find("commands", name)()
        except EdgeError as error:
            # A plug-in that does not load must not take the other commands with it.
            sys.stderr.write(f"command {name!r} is left out: {error}\n")
        else:
            _add(verbs, command)
    return root


def _add(verbs: argparse._SubParsersAction[argparse.ArgumentParser], command: Command) -> None:
    verb = verbs.add_parser(
        command.name,
        help=command.help,
        description=command.help,
        epilog=f"example:\n  {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--verbose", action="store_true", help="log every step to stderr")
    verb.set_defaults(command=command)
    command.configure(verb)
