"""The device profile: how each bundle runs best on this machine, as ``tune`` measured it.

One JSON file for each bundle and machine, ``<digest>-<machine>.json``. The name
of the machine covers the versions of the runtimes: what was measured with others
is not used. A file that cannot be read is as good as none.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.errors import ConfigError
from edge_runtime.machine import Machine
from edge_runtime.ports import Choice

__all__ = [
    "Found",
    "Goal",
    "Measured",
    "Profile",
    "explain_choice",
    "find_choice",
    "find_profile",
    "profiles_folder",
    "read_profile",
    "write_profile",
]

log = logging.getLogger(__name__)

Goal = Literal["latency", "cpu", "batch"]
"""What a choice is best for: one window's time, its processor time, or rows a second."""

_ENVIRONMENT = "EDGE_RUNTIME_PROFILES"
_LARGEST_BYTES = 1 << 20


class Measured(msgspec.Struct, frozen=True):
    """One way to run a bundle that answered within its tolerance, and what it took.

    Attributes:
        choice: Everything that has to be set to run it so.
        precision: Of the artefact.
        median_us: Time of one window.
        cpu_us: Processor time of one window, all threads together.
        engine_us: Time of the model's call alone; 0 in profiles of before it was kept.
        sha256: Of the artefact; empty in those.
    """

    choice: Choice
    precision: str
    median_us: float
    cpu_us: float
    engine_us: float = 0.0
    sha256: str = ""


class Profile(msgspec.Struct, frozen=True):
    """What was measured for one bundle on one machine.

    Attributes:
        bundle: Digest of the bundle.
        ref: Its name and version, for people.
        machine: Where it was measured.
        goal: What the order is by.
        ranked: Every way that may be chosen, best first; at least one.
        made_ns: When.
        board: Kind of machine, as in ``device init --board``; empty in profiles of before it
            was kept.
    """

    bundle: str
    ref: str
    machine: Machine
    goal: Goal
    ranked: tuple[Measured, ...]
    made_ns: int
    board: str = ""


class _File(msgspec.Struct, frozen=True):
    """A profile on disk. The hash tells a flipped bit from another number of threads."""

    sha256: str
    profile: msgspec.Raw


class Found(msgspec.Struct, frozen=True):
    """A choice, and where it comes from.

    Attributes:
        choice: How to run the bundle.
        why: One line for people.
        is_tuned: Whether a profile decided anything.
    """

    choice: Choice
    why: str
    is_tuned: bool = False


def find_choice(bundle: Bundle, explicit: Choice, folder: Path | None = None) -> Choice:
    """Return how to run a bundle here: what was said, else what was measured, else the default.

    Args:
        bundle: What is to be run.
        explicit: What a person asked for; None, and a field's default, say nothing.
        folder: A device's own profiles; the user's are looked at after it.

    Returns:
        ``explicit``, completed by the best measured way that agrees with it.
    """
    return explain_choice(bundle, explicit, folder).choice


def explain_choice(bundle: Bundle, explicit: Choice, folder: Path | None = None) -> Found:
    """Return `find_choice`'s answer with the reason for it; never raises for a bad profile."""
    profile, stale = _lookup(bundle.digest, [folder, profiles_folder()])
    if profile is None:
        why = "what was measured is of other runtimes or damaged" if stale else "never measured"
        return Found(explicit, f"as configured or by default; {why} (edge-runtime tune)")
    for place, measured in enumerate(profile.ranked):
        if _agrees(measured.choice, explicit):
            why = f"tuned for {profile.goal}: {measured.median_us:.0f} µs a window"
            if place:
                why += f", place {place + 1} because the configuration asks for it"
            return Found(_completed(explicit, measured.choice), why, is_tuned=True)
    return Found(explicit, "as configured; tune did not measure or admit that (edge-runtime tune)")


def find_profile(digest: str, folder: Path | None = None) -> Profile | None:
    """Return what was measured for a base here; a device's own folder comes before the user's."""
    return _lookup(digest, [folder, profiles_folder()])[0]


def read_profile(folder: Path, digest: str, machine: Machine | None = None) -> Profile | None:
    """Return the profile of a bundle on a machine, by default this one; None without a sound one.

    A file that is there and unsound is logged.
    """
    path = _path(folder, digest, machine or Machine.here())
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ValueError(f"more than {_LARGEST_BYTES} bytes")
        profile = _decoded(path.read_bytes())
        if profile.bundle != digest or not profile.ranked:
            raise ValueError("it is of another bundle, or empty")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("profile.unusable", extra={"path": str(path), "why": str(error)})
        return None
    return profile


def write_profile(profile: Profile, folder: Path | None = None) -> Path:
    """Write a profile, whole or not at all, and return its path.

    Args:
        profile: What was measured.
        folder: Where; None for the user's own.

    Raises:
        ConfigError: There is no such folder and it cannot be made, or the disk says no.
    """
    folder = folder or profiles_folder()
    if folder is None:
        raise _cannot_write("no folder for profiles", "the user has no home")
    path = _path(folder, profile.bundle, profile.machine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(path, _encoded(profile))
    except OSError as error:
        raise _cannot_write(str(path), error.strerror or str(error)) from error
    return path


def profiles_folder() -> Path | None:
    """Return the user's own folder of profiles; None for a user without a home.

    ``EDGE_RUNTIME_PROFILES``, else ``edge-runtime/profiles`` in ``XDG_STATE_HOME``
    or ``~/.local/state``.
    """
    if named := os.environ.get(_ENVIRONMENT):
        return Path(named)
    if state := os.environ.get("XDG_STATE_HOME"):
        return Path(state) / "edge-runtime" / "profiles"
    try:
        return Path.home() / ".local" / "state" / "edge-runtime" / "profiles"
    except RuntimeError:
        return None


def _lookup(digest: str, folders: list[Path | None]) -> tuple[Profile | None, bool]:
    """Return the first sound profile, or whether there are files of other machines."""
    is_stale = False
    for folder in folders:
        # Describing the machine takes milliseconds; most bundles were never measured.
        if folder is None or not any(folder.glob(f"{digest[:16]}-*.json")):
            continue
        is_stale = True
        if profile := read_profile(folder, digest):
            return profile, False
    return None, is_stale


def _agrees(measured: Choice, explicit: Choice) -> bool:
    """Whether a measured way is one of those that were asked for."""
    names = ("backend", "artefact", "threads", "accelerator")
    asked = {name: getattr(explicit, name) for name in names}
    return all(want is None or getattr(measured, name) == want for name, want in asked.items())


def _completed(explicit: Choice, measured: Choice) -> Choice:
    """Let what was asked for stand where it differs from the default."""
    default = Choice()
    asked = {
        name: getattr(explicit, name)
        for name in Choice.__struct_fields__
        if getattr(explicit, name) != getattr(default, name)
    }
    return msgspec.structs.replace(measured, **asked)


def _encoded(profile: Profile) -> bytes:
    body = msgspec.json.encode(profile)
    return msgspec.json.encode(_File(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))) + b"\n"


def _decoded(content: bytes) -> Profile:
    file = msgspec.json.decode(content, type=_File)
    if hashlib.sha256(file.profile).hexdigest() != file.sha256:
        raise ValueError("it was damaged or edited")
    return msgspec.json.decode(file.profile, type=Profile)


def _path(folder: Path, digest: str, machine: Machine) -> Path:
    return folder / f"{digest[:16]}-{machine.key}.json"


def _write_whole(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            # The service that runs the device may be another user than the one who tunes.
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _cannot_write(where: str, why: str) -> ConfigError:
    return ConfigError(
        f"the profile cannot be written: {why}",
        where=where,
        expected="a folder that may be written",
        remedy=f"Name one: --profiles DIR, or {_ENVIRONMENT}=DIR.",
    )
