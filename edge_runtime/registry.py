"""Finds plug-ins by name; built-ins come through the same entry points.

A plug-in is a class with a nested ``Config`` (a frozen msgspec Struct that
forbids unknown fields), built as ``cls(config)``. A class without one is
built as ``cls()``: backends, bundles and commands. Nothing is imported before its name
is asked for, and little to find it: the command line starts here, in processes
that do hardly more.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from edge_runtime.distributions import EntryPoint, entry_points
from edge_runtime.errors import ConfigError, EdgeError

__all__ = ["GROUPS", "Group", "closest", "configure", "create", "decode_path", "find", "names"]

Group = Literal["sources", "backends", "sinks", "bundles", "commands"]
GROUPS: tuple[Group, ...] = get_args(Group)

_PREFIX = "edge_runtime."


def names(group: Group) -> tuple[str, ...]:
    """Return the names in ``group``, sorted, without importing them."""
    return tuple(sorted(_named(group)))


def find(group: Group, name: str) -> type[Any]:
    """Import and return the class registered as ``name``.

    Raises:
        ConfigError: No plug-in has that name, or its module cannot be imported.
        EdgeError: The plug-in says itself what it lacks, such as `MissingExtra`.
    """
    entry = _named(group).get(name)
    if entry is None:
        raise _unknown(group, name)
    try:
        plugin: type[Any] = entry.load()
    except EdgeError:
        raise
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ConfigError(
            f"{group[:-1]} {name!r} cannot be loaded: {error}",
            expected=f"a class at {entry.value}",
            remedy="Reinstall the package that registers it.",
        ) from error
    return plugin


def create(group: Group, name: str, options: Mapping[str, object], where: str = "") -> Any:
    """Build a plug-in from the options of a configuration.

    Args:
        group: Kind of plug-in.
        name: Its name there.
        options: Keys of its ``Config``, as builtins.
        where: Place in the configuration, for messages.

    Raises:
        ConfigError: The name is unknown, or the options do not fit its ``Config``.
    """
    config = configure(group, name, options, where)
    plugin = find(group, name)
    return plugin() if config is None else plugin(config)


def configure(group: Group, name: str, options: Mapping[str, object], where: str = "") -> Any:
    """Return the ``Config`` of a plug-in made of ``options``; None if it takes none.

    Raises:
        ConfigError: The name is unknown, or the options do not fit its ``Config``.
    """
    import msgspec

    kind = getattr(find(group, name), "Config", None)
    keys = tuple(field.encode_name for field in msgspec.structs.fields(kind)) if kind else ()
    _check_keys(options, keys, where, name)
    return _convert(options, kind, where, name) if kind else None


def closest(name: str, known: tuple[str, ...]) -> str:
    """Return "Did you mean …" with the nearest known name, or a list of all."""
    # Only mistakes need it.
    from difflib import get_close_matches

    match = get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f"Did you mean {match[0]!r}?"
    return f"Known are: {', '.join(known) or 'none'}."


def decode_path(kind: type, value: object) -> object:
    """Read a `Path` from text: the decoding hook of every plug-in ``Config``."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"expected {kind.__name__}, got {value!r}")


def _unknown(group: Group, name: str) -> ConfigError:
    return ConfigError(
        f"there is no {group[:-1]} named {name!r}",
        expected=f"a name registered in edge_runtime.{group}",
        remedy=closest(name, names(group)),
    )


def _named(group: Group) -> dict[str, EntryPoint]:
    named: dict[str, EntryPoint] = {}
    for entry in _entries():
        if entry.group != _PREFIX + group:
            continue
        known = named.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise ConfigError(
                f"two packages register the {group[:-1]} {entry.name!r}: "
                f"{known.value} and {entry.value}",
                expected="one",
                remedy="Uninstall one of the two packages.",
            )
    return named


@functools.cache
def _entries() -> list[EntryPoint]:
    return entry_points([_PREFIX + group for group in GROUPS])


def _convert(options: Mapping[str, object], kind: type[Any], where: str, name: str) -> object:
    import msgspec

    try:
        return msgspec.convert(dict(options), kind, dec_hook=decode_path)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        reason = cause.what if isinstance(cause, EdgeError) else str(error)
        raise ConfigError(
            f"options of {name!r} do not fit: {reason}",
            where=where,
            remedy=f"See the options of {name!r}: edge-runtime plugins.",
        ) from error


def _check_keys(
    options: Mapping[str, object], keys: tuple[str, ...], where: str, name: str
) -> None:
    for key in options:
        if key not in keys:
            raise ConfigError(
                f"unknown key {key!r}",
                where=where,
                expected=f"a key of {name!r}",
                remedy=closest(key, keys),
            )
