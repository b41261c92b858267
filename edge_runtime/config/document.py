"""YAML text → builtins that still know their line and column.

The dialect is YAML 1.2's core schema without surprises: ``on``, ``yes`` and
dates are text, keys are text, tags other than the core ones are refused.
Reading is bounded in bytes, depth and nodes, so that a hostile file cannot
exhaust memory through nesting or aliases.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import yaml
from yaml.composer import Composer, ComposerError

from edge_runtime.errors import ConfigError

__all__ = ["Document", "KeyPath", "dump_yaml", "key_text", "parse_document", "read_document"]

KeyPath = tuple[str | int, ...]

_LIMIT_BYTES = 1 << 20
_LIMIT_DEPTH = 32
_LIMIT_NODES = 100_000
_CORE = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")),
    ("int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), list("-+0123456789")),
    (
        "float",
        re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
        list("-+.0123456789"),
    ),
)
# Where the two parsers of PyYAML disagree about what is allowed, or where it stands.
_UNUSUAL = re.compile(r"[\t?!|>\uFEFF]")


class Document(msgspec.Struct, frozen=True, eq=False):
    """A YAML file as builtins, with the position of every key and value.

    Attributes:
        file: Name for messages.
        value: dict, list, str, int, float, bool or None, nested.
        values: Line and column, from 1, of the value at each key path.
        keys: Line and column of the key itself.
    """

    file: str
    value: Any
    values: dict[KeyPath, tuple[int, int]]
    keys: dict[KeyPath, tuple[int, int]]

    def where(self, *path: str | int) -> str:
        """Return ``file:line:column`` of the value at ``path``, or of what holds it."""
        return self._place(self.values, path)

    def where_key(self, *path: str | int) -> str:
        """Return ``file:line:column`` of the last key of ``path``."""
        return self._place(self.keys if path in self.keys else self.values, path)

    def part(self, *path: str | int) -> Document:
        """Return what stands at ``path`` as a document of its own, its positions unchanged."""
        value = self.value
        for step in path:
            value = value[step]
        return Document(self.file, value, _below(self.values, path), _below(self.keys, path))

    def _place(self, places: dict[KeyPath, tuple[int, int]], path: KeyPath) -> str:
        while path and path not in places:
            path = path[:-1]
        line, column = places.get(path, (1, 1))
        return f"{self.file}:{line}:{column}"


def _below(places: dict[KeyPath, tuple[int, int]], path: KeyPath) -> dict[KeyPath, tuple[int, int]]:
    depth = len(path)
    return {key[depth:]: place for key, place in places.items() if key[:depth] == path}


def key_text(path: KeyPath) -> str:
    """Write a key path as people do: ``streams.pump.limits[0].on``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_document(path: Path) -> Document:
    """Read a YAML file of at most 1 MiB.

    Raises:
        ConfigError: It cannot be read, is too large, or is no valid YAML.
    """
    return parse_document(_text_of(path), str(path))


def parse_document(text: str, where: str) -> Document:
    """Read YAML text; ``where`` names it in messages.

    Raises:
        ConfigError: It is no valid YAML or breaks a limit.
    """
    if len(text) > _LIMIT_BYTES:
        raise _too_large(where)
    builder = _Builder(where)
    value = builder.build(_compose(text, where), ())
    return Document(where, value, builder.values, builder.keys)


def dump_yaml(value: object) -> str:
    """Write builtins as YAML that `parse_document` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            expected="a readable YAML file",
            remedy="Check the path and its permissions.",
        ) from error
    if len(content) > _LIMIT_BYTES:
        raise _too_large(str(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"byte {error.start} is not UTF-8",
            where=str(path),
            expected="a YAML file in UTF-8",
            remedy="Save the file as UTF-8; perhaps it is no text file at all.",
        ) from error


def _too_large(where: str) -> ConfigError:
    return ConfigError(
        f"is larger than {_LIMIT_BYTES} bytes",
        where=where,
        expected="a configuration of at most 1 MiB",
        remedy="Check that this is the right file.",
    )


class _Bounded(Composer):
    """PyYAML's composer with a bound on depth.

    The C composer is not used: it recurses in C before anything can be bounded.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > _LIMIT_DEPTH:
            raise ComposerError(
                None,
                None,
                f"nested deeper than {_LIMIT_DEPTH} levels",
                self.peek_event().start_mark,  # type: ignore[attr-defined]
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Loader(_Bounded, yaml.SafeLoader):
    """Everything in Python: slow, and the one that says what is wrong."""


# With libyaml, where PyYAML was built with it: a fifth of the time.
_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _FastLoader(_Bounded, _Fast):  # type: ignore[misc]
    """Events from libyaml, composed in Python."""

    def __init__(self, text: str) -> None:
        _Fast.__init__(self, text)
        Composer.__init__(self)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and not (node.value or node.style):
            raise ComposerError(None, None, "libyaml puts what is empty elsewhere", node.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper with the same core schema, so that quoting agrees."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


for _kind in (_Loader, _FastLoader, _Dumper):
    _kind.yaml_implicit_resolvers = {}
    for _name, _pattern, _first in _RESOLVERS:
        _kind.add_implicit_resolver(_CORE + _name, _pattern, _first)


def _compose(text: str, where: str) -> yaml.Node:
    return _quickly_composed(text) or _composed(text, where)


def _quickly_composed(text: str) -> yaml.Node | None:
    """Compose with libyaml; None where PyYAML's own parser has to judge, or to say why not."""
    if _UNUSUAL.search(text):
        return None
    try:
        return _FastLoader(text).get_single_node()
    except (yaml.YAMLError, UnicodeError):
        return None


def _composed(text: str, where: str) -> yaml.Node:
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise _invalid(place, problem or str(error)) from error
    except yaml.YAMLError as error:
        raise _invalid(where, str(error).splitlines()[0]) from error
    if node is None:
        raise _invalid(f"{where}:1:1", "the file is empty")
    return node


def _invalid(where: str, what: str) -> ConfigError:
    return ConfigError(
        what, where=where, expected="valid YAML", remedy="Correct the file at this place."
    )


class _Builder:
    """Turns nodes into builtins and remembers where each stood."""

    def __init__(self, where: str) -> None:
        self.file = where
        self.values: dict[KeyPath, tuple[int, int]] = {}
        self.keys: dict[KeyPath, tuple[int, int]] = {}

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        if len(self.values) >= _LIMIT_NODES or len(path) > _LIMIT_DEPTH:
            self._fail(node, "has too many values once its aliases are written out")
        self.values[path] = _position(node)
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [self.build(item, (*path, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key in result:
                line, _ = self.keys[(*path, key)]
                self._fail(key_node, f"key {key!r} stands here twice; the first is in line {line}")
            self.keys[(*path, key)] = _position(key_node)
            result[key] = self.build(value_node, (*path, key))
        return result

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._fail(node, "a key is a list or a mapping")
        return str(node.value)

    def _scalar(self, node: yaml.Node) -> object:
        text = str(node.value)
        try:
            return _SCALARS[node.tag](text)
        except KeyError:
            self._fail(node, f"tag {node.tag!r} is not allowed")
        except (ValueError, OverflowError):
            self._fail(node, f"number {text[:40]!r} is out of range")

    def _fail(self, node: yaml.Node, what: str) -> NoReturn:
        line, column = _position(node)
        raise _invalid(f"{self.file}:{line}:{column}", what)


def _position(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _int(text: str) -> int:
    value = int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(text)
    return value


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(text)
    return value


def _null(_: str) -> None:
    return None


_SCALARS: dict[str, Callable[[str], object]] = {
    _CORE + "null": _null,
    _CORE + "bool": lambda text: text.lower() == "true",
    _CORE + "int": _int,
    _CORE + "float": _float,
    _CORE + "str": str,
}
