"""The model of a new device: a bundle of the user's, or one that comes with a package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_runtime import registry
from edge_runtime.backends import backend_of
from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError, MissingExtra, ModelError

__all__ = ["backend_here", "model_beside"]


@contextmanager
def model_beside(model: str, folder: Path) -> Iterator[Path]:
    """Yield the path of a bundle as it is to stand in a YAML file in ``folder``.

    A bundle that comes with a package is copied to ``bundles``, so that the device
    keeps it when the package is upgraded or removed. One that is there already is
    taken as it is; a copy is removed again where the body fails.

    Args:
        model: A path, or a name in the entry points ``edge_runtime.bundles``.
        folder: Where the YAML file will lie.

    Raises:
        ConfigError: It is neither.
    """
    if Path(model).exists() or (folder / model).exists():
        yield Path(model)
        return
    copy = Path("bundles") / _named(model).name
    if (folder / copy).exists():
        yield copy
        return
    _copy(_named(model), folder / copy)
    try:
        yield copy
    except BaseException:
        shutil.rmtree(folder / copy)
        raise


def backend_here(bundle: Bundle) -> str | None:
    """Return the backend to name where the one that the bundle prefers is not installed.

    It is named once, in the configuration: a device does not change its runtime
    because somebody has installed another one. None leaves it to the bundle, also where
    no runtime is installed yet.
    """
    kinds = dict.fromkeys(artefact.backend for artefact in bundle.spec.artefacts)
    found = [_installed(kind) for kind in kinds]
    return None if found[0] else next(filter(None, found), None)


def _installed(kind: str) -> str | None:
    """Return the backend for a kind of file if it works here."""
    try:
        backend = backend_of(None, kind)
        backend.probe()
    except (MissingExtra, ModelError):
        return None
    return backend.name


def _named(name: str) -> Path:
    known = registry.names("bundles")
    if name not in known:
        raise ConfigError(
            f"the model is {name!r}",
            where="device init",
            expected=f"the folder or zip file of a bundle, or one of {', '.join(known)}",
            remedy=registry.closest(name, known),
        )
    path: Path = registry.create("bundles", name, {}).path
    return path


def _copy(bundle: Path, place: Path) -> None:
    """Copy so that the place is whole or not there, whenever this is stopped."""
    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(bundle, part)
    part.rename(place)
