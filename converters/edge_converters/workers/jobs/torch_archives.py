"""What a ``.pt2`` archive would have PyTorch run, read from its bytes before it is opened.

``torch.export.load`` resolves names, evaluates sizes, opens pickles and loads compiled
code as the archive says. Without trust only names of PyTorch's own operators and sizes
made of symbols pass. Source: ``torch/_export/serde/serialize.py`` and
``torch/export/pt2_archive`` of PyTorch 2.13.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from edge_converters.workers.refusal import Refusal

__all__ = ["check_archive", "check_operators"]

# Where the program lies, in archives of today and of older versions.
_PROGRAM = re.compile(r"models/[^/]+\.json$|serialized_exported_program\.json$")
_COMPILED = "data/aotinductor/"
# Only names that begin so are looked up.
_RESOLVED = re.compile(r"torch|_operator|math|#")
_NAMESPACES = ("aten", "prim", "prims", "higher_order")
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)")
_CALLED = re.compile(
    rf"torch\.ops\.({'|'.join(_NAMESPACES)})\.((?!__)\w+|__(and|or|xor|lshift|rshift)__)(\.(?!_)\w+)?"
    r"|torch\._?sym_\w+|math\.[a-z]\w*"
    r"|_operator\.(add|and_|eq|floordiv|ge|getitem|gt|le|lt|mod|mul|ne|neg|not_|or_|pow|sub|truediv)"
)
# Such as Mul(Integer(16), Symbol('s77', positive=True, integer=True)): nothing in lower
# case is called, nothing has attributes, no text holds code.
_SIZE = re.compile(r"([A-Z]\w*|'[\w.]+'|[a-z]+=(?=True|False|\d)|[-\d(), ])+")


def check_archive(model: str, *, is_trusted: bool) -> None:
    """Stop at an archive that would run something besides operators.

    Args:
        model: A ``.pt2`` file.
        is_trusted: Whether it may.

    Raises:
        Refusal: It may not, its operators are not PyTorch's own, or it cannot be read.
    """
    names, program = _read(model)
    found = list(_told(program))
    check_operators(value for key, value in found if key == "target")
    if is_trusted:
        return
    for what in _code_in(names, found):
        raise Refusal(
            f"the archive holds {what}: opening it can run any code",
            "operators of PyTorch, sizes and plain tensors alone",
            "Export it again with torch.export.save; or, if you made it, say so: --trust.",
            exit_code=3,
        )


def check_operators(targets: Iterable[str]) -> None:
    """Stop at operators that somebody registered beside PyTorch's own.

    Args:
        targets: What nodes call, such as ``torch.ops.aten.relu.default``.

    Raises:
        Refusal: There are some; by name.
    """
    parts = [one for one in map(_OPERATOR.match, targets) if one]
    own = sorted({f"{one[1]}::{one[2]}" for one in parts if one[1] not in _NAMESPACES})
    if own:
        raise Refusal(
            f"the model uses {', '.join(own)[:200]}, which are no operators of PyTorch",
            "operators of PyTorch itself",
            "Write that step with PyTorch's own operators, or do it in the features of the bundle.",
        )


def _read(model: str) -> tuple[list[str], list[Any]]:
    try:
        with zipfile.ZipFile(model) as archive:
            names = archive.namelist()
            found = [json.loads(archive.read(one)) for one in names if _PROGRAM.search(one)]
    except (zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise Refusal(
            f"the archive cannot be read: {error}"[:300],
            "a complete file of torch.export.save",
            "Export it again; compare its size with its origin's.",
        ) from error
    return names, found


def _told(value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in a program with the key that it, or its list, stands under."""
    waiting = [("", value)]
    while waiting:
        key, one = waiting.pop()
        if isinstance(one, dict):
            waiting.extend(one.items())
        elif isinstance(one, list):
            waiting.extend((key, inner) for inner in one)
        elif isinstance(one, str):
            yield key, one


def _code_in(names: Sequence[str], found: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield what would be run, in words."""
    yield from (f"compiled code, {one}" for one in names if _COMPILED in one)
    for key, value in found:
        if key == "target" and _RESOLVED.match(value) and not _CALLED.fullmatch(value):
            yield f"a call of {value[:100]}"
        elif key == "expr_str" and not _SIZE.fullmatch(value):
            yield f"the size {value[:100]!r}"
        elif key == "guards_code":
            yield f"the condition {value[:100]!r}"
