"""Builtins from YAML → msgspec Structs, with errors that say where to look.

msgspec converts; only when it refuses does this module walk the value again,
part by part, to name the exact key, line and column.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

import msgspec

from edge_runtime.config.document import (
    Document,
    KeyPath,
    key_text,
    parse_document,
    read_document,
)
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.registry import closest, decode_path

__all__ = ["TOMBSTONES", "Tombstones", "convert", "convert_part", "load_yaml", "parse_yaml"]

T = TypeVar("T")
Tombstones = Mapping[tuple[type, str], str]

TOMBSTONES: Tombstones = {}
"""Keys that were renamed: (Struct, old key) → a sentence saying where it went."""

_CORRECT = "Correct the value here."
_WORDS = {
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "text",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a mapping of keys",
    "`null`": "nothing",
    "`datetime`": "a time such as 2013-01-01T00:00:00Z",
}


def load_yaml(
    path: Path,
    type: type[T],  # noqa: A002
    *,
    tombstones: Tombstones = TOMBSTONES,
) -> T:
    """Read a YAML file into a Struct; relative paths in it are relative to the file.

    Raises:
        ConfigError: The file cannot be read or does not fit; ``where`` is ``file:line:column``.
    """
    return convert(read_document(path), type, folder=path.parent, tombstones=tombstones)


def parse_yaml(text: str, type: type[T], where: str) -> T:  # noqa: A002
    """Read YAML text into a Struct; ``where`` names the text in messages.

    Raises:
        ConfigError: The text does not fit; ``where`` is extended by line and column.
    """
    return convert(parse_document(text, where), type)


def convert(
    document: Document,
    kind: type[T],
    *,
    folder: Path | None = None,
    tombstones: Tombstones = TOMBSTONES,
) -> T:
    """Convert a whole document and explain what does not fit.

    Args:
        document: What was read.
        kind: Type to convert to.
        folder: Relative paths are taken from here.
        tombstones: Keys that were renamed.

    Raises:
        ConfigError: It does not fit.
    """
    _check_schema(document, kind)
    return convert_part(
        document, document.value, kind, path=(), folder=folder, tombstones=tombstones
    )


def convert_part(
    document: Document,
    value: object,
    kind: type[T],
    *,
    path: KeyPath,
    folder: Path | None = None,
    tombstones: Tombstones = TOMBSTONES,
) -> T:
    """Convert ``value``, which stands at ``path`` in the document; see `convert`.

    Raises:
        ConfigError: It does not fit.
    """
    hook = _path_hook(folder)
    try:
        return msgspec.convert(value, kind, dec_hook=hook)
    except msgspec.ValidationError as error:
        _Explainer(document, tombstones, hook).explain(value, kind, path)
        # The parts fit one by one; what msgspec said about the whole remains.
        raise ConfigError(str(error), where=document.where(*path), remedy=_CORRECT) from error


def _path_hook(folder: Path | None) -> Callable[[type, object], object]:
    def decode(kind: type, value: object) -> object:
        decoded = decode_path(kind, value)
        return folder / decoded if folder and isinstance(decoded, Path) else decoded

    return decode


def _check_schema(document: Document, kind: Any) -> None:
    if not (isinstance(document.value, dict) and _is_struct(kind)):
        return
    known = _fields(kind).get("schema")
    version = document.value.get("schema")
    if known is None or type(version) is not int:
        return
    newest = max(get_args(known.type), default=version)
    if version > newest:
        raise ConfigError(
            f"schema is {version}",
            where=document.where("schema"),
            expected=f"at most {newest}",
            remedy="This file was written for a newer edge-runtime: upgrade edge-runtime, "
            "or use a file of the older format.",
        )


class _Explainer:
    """Finds the smallest part of a value that does not convert."""

    def __init__(
        self,
        document: Document,
        tombstones: Tombstones,
        hook: Callable[[type, object], object],
    ) -> None:
        self._document = document
        self._tombstones = tombstones
        self._hook = hook

    def explain(self, value: Any, kind: Any, path: KeyPath) -> None:
        """Raise for the first part of ``value`` that does not fit, innermost first."""
        self._explain_parts(value, self._variant(value, kind, path), path)
        try:
            msgspec.convert(value, kind, dec_hook=self._hook)
        except msgspec.ValidationError as error:
            self._fail(error, value, kind, path)

    def _explain_parts(self, value: Any, kind: Any, path: KeyPath) -> None:
        if isinstance(value, dict) and _is_struct(kind):
            self._explain_struct(value, kind, path)
        elif isinstance(value, dict) and get_origin(kind) is dict:
            for key, item in value.items():
                self.explain(item, get_args(kind)[1], (*path, key))
        elif isinstance(value, list) and get_origin(kind) in (tuple, list):
            for i, item in enumerate(value):
                self.explain(item, get_args(kind)[0], (*path, i))

    def _explain_struct(self, value: dict[str, Any], kind: Any, path: KeyPath) -> None:
        fields = _fields(kind)
        if kind.__struct_config__.forbid_unknown_fields:
            self._check_known(value, kind, path)
        for name, field in fields.items():
            if name in value:
                self.explain(value[name], field.type, (*path, name))
            elif field.required:
                self._fail_missing(name, field, path)

    def _check_known(self, value: dict[str, Any], kind: Any, path: KeyPath) -> None:
        known = tuple(_fields(kind))
        for key in value:
            if key in known or key == kind.__struct_config__.tag_field:
                continue
            moved = self._tombstones.get((kind, key))
            raise ConfigError(
                f"key {key_text((*path, key))!r} was renamed"
                if moved
                else f"unknown key {key_text((*path, key))!r}",
                where=self._document.where_key(*path, key),
                expected="" if moved else f"one of {', '.join(known) or 'none'}",
                remedy=moved or closest(key, known),
            )

    def _fail_missing(self, name: str, field: msgspec.structs.FieldInfo, path: KeyPath) -> NoReturn:
        raise ConfigError(
            f"key {key_text((*path, name))!r} is missing",
            where=self._document.where(*path),
            expected=f"{name}: {_described(field.type)}",
            remedy=f"Add the key {name!r} here.",
        )

    def _variant(self, value: Any, kind: Any, path: KeyPath) -> Any:
        """Return the member of a union that ``value`` means to be."""
        kind = _bare(kind)
        if get_origin(kind) not in (Union, types.UnionType):
            return kind
        members = [_bare(member) for member in get_args(kind)]
        structs = [member for member in members if _is_struct(member)]
        if not (isinstance(value, dict) and structs):
            origins = (list, tuple) if isinstance(value, list) else (dict,)
            return next((member for member in members if get_origin(member) in origins), None)
        if len(structs) == 1:
            return structs[0]
        return self._tagged(value, structs, path)

    def _tagged(self, value: dict[str, Any], structs: list[Any], path: KeyPath) -> Any:
        field = structs[0].__struct_config__.tag_field
        tags = {str(member.__struct_config__.tag): member for member in structs}
        tag = value.get(field)
        if isinstance(tag, str) and tag in tags:
            return tags[tag]
        raise ConfigError(
            f"{key_text((*path, field))} is {_shown(tag)}",
            where=self._document.where(*path, field),
            expected=f"one of {', '.join(tags)}",
            remedy=closest(str(tag), tuple(tags)),
        )

    def _fail(self, error: Exception, value: Any, kind: Any, path: KeyPath) -> NoReturn:
        where = self._document.where(*path)
        cause = error.__cause__
        if isinstance(cause, EdgeError):
            raise ConfigError(
                cause.what,
                where=where,
                expected=cause.expected,
                remedy=cause.remedy or _CORRECT,
            ) from error
        choices = _choices(kind)
        raise ConfigError(
            f"{key_text(path) or 'the document'} is {_shown(value)}",
            where=where,
            expected=f"one of {', '.join(choices)}" if choices else _expectation(error),
            remedy=closest(str(value), choices) if choices else _CORRECT,
        ) from error


def _fields(kind: Any) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _bare(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _choices(kind: Any) -> tuple[str, ...]:
    """Return the values of a Literal, also inside a union."""
    kind = _bare(kind)
    if get_origin(kind) is Literal:
        return tuple(str(choice) for choice in get_args(kind))
    return ()


def _described(kind: Any) -> str:
    bare = _bare(kind)
    if choices := _choices(bare):
        return f"one of {', '.join(choices)}"
    if _is_struct(bare) or get_origin(bare) is dict:
        return "a mapping of keys"
    if get_origin(bare) in (tuple, list):
        return "a list"
    names = {int: "`int`", float: "`float`", str: "`str`", bool: "`bool`"}
    return _WORDS.get(names.get(bare, ""), "a value")


def _expectation(error: Exception) -> str:
    """Turn ``Expected `int` >= 1, got `str``` into ``a whole number >= 1``."""
    text = re.sub(r" - at `.*", "", str(error))
    text = re.sub(r", got .*", "", text).removeprefix("Expected ")
    for name, words in _WORDS.items():
        text = text.replace(name, words).replace(name[1:-1] + " |", words + " |")
    return text.replace("| null`", "or nothing").replace("`", "")


def _shown(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping of keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
