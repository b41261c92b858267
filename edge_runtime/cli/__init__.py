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
        name: The verb: a word, or two.
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
    args = parser(words).parse_args(words, as_called)
    _log_to_stderr(logging.DEBUG if args.verbose else logging.WARNING)
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


class _WithFacts(logging.Formatter):
    """A line for people: what happened, then the facts that came with it."""

    _OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a fact of several lines keeps them."""
        facts = {key: value for key, value in vars(record).items() if key not in self._OWN}
        nested = facts.pop("facts", None)
        facts |= nested if isinstance(nested, dict) else {}
        told = "".join(f" {key}={value}" for key, value in facts.items())
        return super().format(record) + told


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_WithFacts("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser with every verb that is installed.

    Args:
        words: Where the first is a verb, only that one is imported: what a device
            does not run costs it no memory.
    """
    root = _Parser(
        prog="edge-runtime", description="Models next to sensors: nothing lost, nothing waits."
    )
    root.add_argument("--version", action="version", version=f"edge-runtime {__version__}")
    verbs = root.add_subparsers(
        required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    names = registry.names("commands")
    first = _with_whole_verb(words)[:1]
    for name in first if set(first) & set(names) else names:
        try:
            command: Command = registry.find("commands", name)()
        except EdgeError as error:
            # A plug-in that does not load must not take the other commands with it.
            sys.stderr.write(f"command {name!r} is left out: {error}\n")
        else:
            _add(verbs, command)
    return root


class _Parser(argparse.ArgumentParser):
    """Understands verbs of two words, such as ``simulate link``."""

    def parse_known_args(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        """Take the words of a verb together."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args(_with_whole_verb(words), namespace or argparse.Namespace())


def _with_whole_verb(words: Sequence[str]) -> list[str]:
    two = " ".join(words[:2])
    return [two, *words[2:]] if two in registry.names("commands") else list(words)


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
