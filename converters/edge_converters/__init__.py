"""Turn trained models into bundles that have proven themselves.

The names below are imported when they are first used: a program that only asks
for a path pays for nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_converters.contracts import Outcome as Outcome
    from edge_converters.contracts import Recipe as Recipe
    from edge_converters.contracts import Request as Request
    from edge_converters.conversion import convert as convert
    from edge_converters.paths import PATHS as PATHS

__all__ = ["PATHS", "Outcome", "Recipe", "Request", "convert"]

_HOMES = {
    "PATHS": "paths",
    "Outcome": "contracts",
    "Recipe": "contracts",
    "Request": "contracts",
    "convert": "conversion",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
