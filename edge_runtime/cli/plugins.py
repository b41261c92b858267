"""``edge-runtime plugins``: what is installed behind each door."""

from __future__ import annotations

import argparse
import inspect
import json
import sys

from edge_runtime import registry

__all__ = ["Plugins"]


class Plugins:
    """List sources, backends, sinks, bundles and commands, built in or from other packages."""

    name = "plugins"
    help = "list the sources, backends, sinks, bundles and commands that are installed"
    example = "edge-runtime plugins --json"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Print one line per plug-in with the first line of its docstring."""
        found = {group: _described(group) for group in registry.GROUPS}
        if args.json:
            sys.stdout.write(json.dumps(found, indent=2) + "\n")
            return 0
        for group, plugins in found.items():
            sys.stdout.write(f"{group}\n")
            for name, summary in plugins.items():
                sys.stdout.write(f"  {name:16} {summary}\n")
        return 0


def _described(group: registry.Group) -> dict[str, str]:
    return {name: _summary(registry.find(group, name)) for name in registry.names(group)}


def _summary(plugin: type) -> str:
    return (inspect.getdoc(plugin) or "").partition("\n")[0]
