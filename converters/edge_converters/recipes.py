"""Recipes: what was decided, so that it can be done again to the byte."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from edge_converters.contracts import Candidate, Claim, Origin, Recipe, Request
from edge_converters.datasets import sha256_of
from edge_runtime.errors import ConfigError
from edge_runtime.version import __version__

__all__ = [
    "check_origin",
    "decode_recipe",
    "load_recipe",
    "recipe_of",
    "replayed",
    "write_recipe",
]

_TOOLS = ("numpy", "onnx", "onnxruntime", "onnxslim", "ai-edge-litert", "litert-quantizer")
# Places on this machine, and what decides no byte.
_LOCAL = (
    *("model", "output", "calib", "eval", "spec", "refresh", "sidecar", "bench"),
    *("limits", "is_trusted", "chosen", "origin"),
)


def recipe_of(request: Request, chosen: Candidate, claim: Claim, origin: Origin) -> Recipe:
    """Write down what a conversion was made of and what it decided."""
    asked = msgspec.structs.asdict(request)
    decided = {name: value for name, value in asked.items() if name not in _LOCAL}
    return Recipe(
        request=msgspec.to_builtins(decided),
        model_sha256=origin.sha256,
        calib_sha256=sha256_of(request.calib),
        eval_sha256=sha256_of(request.eval),
        spec_sha256=sha256_of(request.spec),
        sidecar_sha256=sha256_of(request.sidecar),
        format=chosen.format,
        precision=chosen.precision,
        claim=claim,
        quantised=chosen.quantised,
        refresh_sha256=sha256_of(request.refresh),
        tools=tools(),
        worker=origin.worker,
    )


def tools() -> dict[str, str]:
    """Return the versions of what decides bytes here."""
    found = {"edge-runtime": __version__}
    for name in _TOOLS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_recipe(recipe: Recipe) -> bytes:
    """Write a recipe; equal recipes give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(recipe, order="deterministic"), indent=2)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return decode_recipe(path.read_bytes(), str(path))
    except OSError as error:
        raise _no_recipe(str(path), error) from error


def decode_recipe(content: bytes, where: str) -> Recipe:
    """Read the bytes of a recipe.

    Raises:
        ConfigError: They are none.
    """
    try:
        return msgspec.json.decode(content, type=Recipe)
    except msgspec.DecodeError as error:
        raise _no_recipe(where, error) from error


def _no_recipe(where: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"is no recipe: {error}",
        where=where,
        expected="recipe.json of a bundle that edge-runtime convert made",
        remedy="Take the file from inside the bundle.",
    )


def replayed(recipe: Recipe, here: Request) -> Request:
    """Return what a recipe asks for, with the places of this machine.

    Args:
        recipe: What was done.
        here: Names the model, the data and the output; the rest of it does not count.

    Raises:
        ConfigError: The model, the data or the tools are others.
    """
    if Path(here.model).exists():
        # What a module by import path is, its worker tells when it has opened it.
        _check_same("the model", recipe.model_sha256, sha256_of(Path(here.model)), here.model)
    for what, expected, path in (
        ("--calib", recipe.calib_sha256, here.calib),
        ("--eval", recipe.eval_sha256, here.eval),
        ("--spec", recipe.spec_sha256, here.spec),
        ("--refresh", recipe.refresh_sha256, here.refresh),
        ("--sidecar", recipe.sidecar_sha256, here.sidecar),
    ):
        _check_same(what, expected, sha256_of(path), str(path))
    _check_tools(recipe)
    asked = recipe.request | {"model": here.model, "output": ""}
    request = msgspec.convert(asked, Request, dec_hook=lambda _, value: Path(value))
    local = {name: getattr(here, name) for name in _LOCAL}
    local["chosen"] = (recipe.format, recipe.precision, recipe.claim)
    local["origin"] = Origin(recipe.model_sha256, recipe.worker)
    return msgspec.structs.replace(request, **local)


def check_origin(expected: Origin | None, found: Origin, where: str) -> None:
    """Stop where a recipe began with something else.

    Raises:
        ConfigError: The model is another one, or other versions opened it.
    """
    if expected is None:
        return
    _check_same("the model", expected.sha256, found.sha256, where)
    if expected.worker != found.worker:
        raise ConfigError(
            f"it was opened by {found.worker}",
            where=where,
            expected=f"{expected.worker}, as when the recipe was made",
            remedy="Make that environment, or name such an interpreter; or convert anew.",
        )


def _check_same(what: str, expected: str | None, found: str | None, where: str) -> None:
    if expected != found:
        raise ConfigError(
            f"{what} is {found[:16] if found else 'not given'}",
            where=where,
            expected=f"SHA-256 {expected[:16]}…" if expected else "none, as when it was made",
            remedy="A recipe is played with the same files; convert anew for others.",
        )


def _check_tools(recipe: Recipe) -> None:
    found = tools()
    others = {name: one for name, one in recipe.tools.items() if found.get(name) != one}
    if others:
        told = ", ".join(
            f"{name} {one} ({found.get(name, 'missing')})" for name, one in others.items()
        )
        raise ConfigError(
            f"it was made with other versions than are here: {told}",
            where="--replay",
            expected="the same versions: they decide bytes",
            remedy="Install those versions, or convert anew.",
        )
