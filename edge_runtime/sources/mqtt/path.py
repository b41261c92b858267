"""Where a value stands in a JSON document: a small subset of JSONPath.

::

    $.data.temp       from the top of the document
    values[0].v       the same, or from one reading where a message holds several
    [-1]              the last element of a list
    ['a.b']           a name with dots or brackets in it
    (nothing)         the whole document or reading
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from edge_runtime.errors import ConfigError

__all__ = ["JsonPath", "number_of", "parse_path"]

_STEP = re.compile(
    r"""\.?(?P<name>[^.\[\]]+)|\[(?P<index>-?[0-9]{1,6})\]|\[(?P<quote>['"])(?P<text>.+?)(?P=quote)\]""",
    re.DOTALL,
)


class JsonPath(NamedTuple):
    """A parsed path.

    Attributes:
        steps: A name leads into an object, a number into a list; negative from its end.
        is_absolute: Whether it begins at the top of the document.
    """

    steps: tuple[str | int, ...]
    is_absolute: bool

    def find(self, document: object) -> object:
        """Return what stands there; None where nothing does."""
        for step in self.steps:
            document = _into(document, step)
        return document


def parse_path(text: str) -> JsonPath:
    """Read a path.

    Raises:
        ConfigError: It is none.
    """
    is_absolute = text.startswith("$")
    rest = text.removeprefix("$")
    if not is_absolute and rest and rest[0] not in ".[":
        rest = f".{rest}"
    steps: list[str | int] = []
    while rest:
        match = _STEP.match(rest)
        if match is None or (match["name"] and not rest.startswith(".")):
            raise _no_path(text)
        steps.append(int(match["index"]) if match["index"] else match["name"] or match["text"])
        rest = rest[match.end() :]
    return JsonPath(tuple(steps), is_absolute)


def number_of(value: object) -> float | None:
    """Return a number, a truth value (1 or 0) or text that holds a number as float.

    Returns:
        None for anything else, and for what is not finite.
    """
    if not isinstance(value, bool | int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _into(document: object, step: str | int) -> object:
    if isinstance(step, str):
        return document.get(step) if isinstance(document, dict) else None
    if not isinstance(document, list) or not -len(document) <= step < len(document):
        return None
    return document[step]


def _no_path(text: str) -> ConfigError:
    return ConfigError(
        f"{text!r} is no path",
        expected="names and list indices such as $.data.temp, values[0].v or ['a.b']",
        remedy="Wildcards, slices and filters are not supported; readings names a list.",
    )
