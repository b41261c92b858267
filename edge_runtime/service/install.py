"""Install a device as a systemd service of its own user, and remove it again."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from edge_runtime.config import DeviceConfig
from edge_runtime.errors import ConfigError
from edge_runtime.service.unit import needs_of, shown_at_home, unit_name, unit_of

__all__ = ["check_root", "install", "uninstall"]

_UNITS = Path("/etc/systemd/system")
_LIMIT_S = 60.0

Say = Callable[[str], object]


def check_root(verb: str) -> None:
    """Stop before a change that only root may make.

    Raises:
        ConfigError: This process does not run as root.
    """
    if os.geteuid() != 0:
        raise ConfigError(
            f"user {pwd.getpwuid(os.geteuid()).pw_name} may not change services",
            where=f"device {verb}",
            expected="root",
            remedy="Type sudo before it; `device install --print` needs no rights.",
        )


def install(
    config: DeviceConfig,
    path: Path,
    *,
    program: Path,
    user: str,
    say: Say,
    units: Path = _UNITS,
    starts: bool = True,
) -> Path:
    """Make user and state folder, write the unit, enable and start it; return the unit's path.

    Whatever is there already is kept; running it again brings the unit up to date.

    Args:
        config: The device, checked.
        path: Its YAML file.
        program: ``edge-runtime`` to start.
        user: Who it runs as; made if there is none of that name.
        say: Takes a line for every step.
        units: Folder of the units.
        starts: Whether to start it now, and not only at the next boot.

    Raises:
        ConfigError: No systemd, a step failed, or the user may not read what it needs.
    """
    _check_systemd()
    _make_user(user, say)
    _make_state(Path(config.state), user, say)
    _check_readable(config, path, program, user)
    groups = [need.group for need in needs_of(config) if need.group and _has_group(need.group)]
    unit = units / unit_name(config.device)
    text = unit_of(config, path, program=program, user=user, groups=groups)
    unit.write_text(text)
    unit.chmod(0o644)
    say(f"wrote {unit}")
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", unit.name)
    if starts:
        # A restart also starts what does not run, and lets a new unit take effect.
        _run("systemctl", "restart", unit.name)
    say(f"{'started' if starts else 'enabled'} {unit.name}; its log: journalctl -u {unit.name} -f")
    return unit


def uninstall(device: str, *, say: Say, units: Path = _UNITS) -> None:
    """Stop and remove a device's unit; its configuration, state and user stay.

    Raises:
        ConfigError: No systemd, or there is no such unit.
    """
    _check_systemd()
    unit = units / unit_name(device)
    if not unit.exists():
        known = sorted(one.name for one in units.glob("edge-runtime-*.service"))
        raise ConfigError(
            f"there is no {unit}",
            where="device uninstall",
            expected=f"one of {', '.join(known)}" if known else "an installed device",
            remedy="Give the device's name as it stands in its YAML file.",
        )
    _run("systemctl", "disable", "--now", unit.name)
    unit.unlink()
    _run("systemctl", "daemon-reload")
    say(f"removed {unit}; configuration, state and user are left as they are")


def _check_systemd() -> None:
    if shutil.which("systemctl") is None:
        raise ConfigError(
            "there is no systemctl here",
            where="device install",
            expected="a system that runs systemd",
            remedy="Start `edge-runtime run --stay DEVICE.yaml` with your own service manager.",
        )


def _make_user(user: str, say: Say) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        _run(
            "useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            "/nonexistent",
            "--shell",
            "/usr/sbin/nologin",
            user,
        )
        say(f"made user {user}")


def _make_state(state: Path, user: str, say: Say) -> None:
    """Let the user own the folder and what a first try as root may have left in it."""
    if not state.exists():
        state.mkdir(parents=True, mode=0o700)
        say(f"made {state}")
    elif any(state.iterdir()) and not (state / "state.db").exists():
        raise ConfigError(
            f"{state} holds files that are not a device's",
            where="state",
            expected="a folder of the device's own, because its user will own all that is in it",
            remedy="Name another folder, such as /var/lib/edge-runtime/NAME.",
        )
    entry = pwd.getpwnam(user)
    for path in (state, *state.rglob("*")):
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def _check_readable(config: DeviceConfig, path: Path, program: Path, user: str) -> None:
    """Stop before a service is started that its user cannot read."""
    shown = shown_at_home(config, path, program)
    for one in (program, path, *config.files):
        if not _may_read(user, one, shown):
            raise ConfigError(
                f"user {user} may not read {one}",
                where="device install",
                expected="everything the device needs, readable by the user it runs as",
                remedy=f"Let others read it, or move it to /etc/edge-runtime; "
                f"secrets: chown {user} {one}. Or install with --user of its owner.",
            )


def _may_read(user: str, path: Path, shown: Sequence[Path]) -> bool:
    """Tell whether the user may; what the unit shows lies in homes that are open to all there."""
    entry = pwd.getpwnam(user)
    groups = {entry.pw_gid, *(one.gr_gid for one in grp.getgrall() if user in one.gr_mem)}
    resolved = path.resolve()
    return entry.pw_uid == 0 or (
        all(_has_mode(parent, entry.pw_uid, groups, 1) for parent in _closed(resolved, shown))
        and _has_mode(resolved, entry.pw_uid, groups, 4)
    )


def _closed(path: Path, shown: Sequence[Path]) -> list[Path]:
    """Return the folders on the way to a path that the user must be able to pass."""
    hidden = {parent for one in shown if path.is_relative_to(one) for parent in one.parents}
    return [parent for parent in path.parents if parent not in hidden]


def _has_mode(path: Path, uid: int, groups: set[int], bit: int) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
    return bool(found.st_mode >> shift & bit)


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _run(*command: str) -> None:
    done = _completed(command)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ConfigError(
            f"`{' '.join(command)}` ended with code {done.returncode}: {said[-1][:200]}",
            where="device install",
            expected="code 0",
            remedy="Do what it says, and install again; what was done before stays.",
        )


def _completed(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the system's own tools, no shell
            list(command), capture_output=True, text=True, timeout=_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(list(command), 127, "", str(error))
