"""Options that are lists of ``KEY=VALUE``: values are YAML, as in a configuration."""

from __future__ import annotations

from typing import Any

from edge_runtime.errors import ConfigError
from edge_runtime.ports import Timing

__all__ = ["kind_and_pairs", "pairs", "timing_of"]

_WHERE = "the command line"
_PAIRS = "KEY=VALUE,KEY=VALUE"


def kind_and_pairs(text: str, option: str) -> dict[str, Any]:
    """Read ``KIND:KEY=VALUE,KEY=VALUE``; lists and mappings may stand there.

    Raises:
        ConfigError: It is something else.
    """
    kind, _, rest = text.partition(":")
    expected = f"KIND or KIND:{_PAIRS}"
    if not kind:
        raise _misread(text, option, expected)
    return {"kind": kind, **pairs(rest, option, expected)}


def pairs(text: str, option: str, expected: str = _PAIRS) -> dict[str, Any]:
    """Read ``KEY=VALUE,KEY=VALUE``.

    Raises:
        ConfigError: It is something else.
    """
    from edge_runtime.config.document import parse_document

    found = [part.partition("=") for part in _parts(text)]
    if not all(key and mark for key, mark, _ in found):
        raise _misread(text, option, expected)
    return {key: parse_document(value, f"{option} {key}").value for key, _, value in found}


def timing_of(text: str | None, option: str) -> Timing | None:
    """Read how long to wait for samples, the keys of a stream's ``time``; None for None.

    Raises:
        ConfigError: A key or a value is none of `Timing`.
    """
    if text is None:
        return None
    from edge_runtime.config import dump_yaml, parse_yaml

    return parse_yaml(dump_yaml(pairs(text, option)), Timing, option)


def _misread(text: str, option: str, expected: str) -> ConfigError:
    return ConfigError(
        f"{option} is {text!r}",
        where=_WHERE,
        expected=expected,
        remedy="See --help for an example.",
    )


def _parts(text: str) -> list[str]:
    """Split at commas that stand in no bracket."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part]
