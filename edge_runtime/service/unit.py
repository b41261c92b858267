"""The systemd unit of a device, hardened to what its configuration needs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from edge_runtime.config import DeviceConfig
from edge_runtime.errors import ConfigError

__all__ = ["Needs", "needs_of", "shown_at_home", "unit_name", "unit_of"]

_MEMORY_BESIDE_MODELS_MB = 512
_HOMES = (Path("/home"), Path("/root"))
_SESSIONS = Path("/run/user")
_UNQUOTED = frozenset("%$\"'\\ \t\n;")


class Needs(msgspec.Struct, frozen=True):
    """What a source or sink opens.

    Attributes:
        devices: Entries of ``DeviceAllow=``.
        group: Whose members may open it on Debian and Raspberry Pi OS.
        modules: What the kernel must have loaded for the names among the devices to count.
    """

    devices: tuple[str, ...] = ()
    group: str | None = None
    modules: tuple[str, ...] = ()


# Major numbers where they are fixed (Linux, admin-guide/devices.txt): systemd looks a name up
# once, at the start of the service, and forbids for good what has no driver by then, such as
# an adapter that is plugged in later.
_VIDEO, _I2C, _ALSA = "char-81 rw", "char-89 rw", "char-116 rw"
_TTYS, _TTYACM, _TTYUSB, _TTYAMA = "char-4 rw", "char-166 rw", "char-188 rw", "char-204 rw"
_BUS = Needs((_I2C,), "i2c")
_NEEDS: Mapping[str, Needs] = {
    "bme280": _BUS,
    "mpu6050": _BUS,
    "iio": Needs(("char-iio rw",), modules=("industrialio",)),
    "serial": Needs((_TTYUSB, _TTYACM, _TTYAMA, _TTYS), "dialout"),
    "microphone": Needs((_ALSA,), "audio"),
    "camera": Needs((_VIDEO, "char-media rw"), "video", ("mc",)),
    "gpio": Needs(("char-gpiochip rw",), "gpio"),
}


def needs_of(config: DeviceConfig) -> tuple[Needs, ...]:
    """Return what the sources and sinks of a device open, each once."""
    kinds = [stream.source.get("kind") for stream in config.streams.values()]
    kinds += [sink.get("kind") for sink in config.sinks]
    return tuple({kind: _NEEDS[kind] for kind in map(str, kinds) if kind in _NEEDS}.values())


def unit_name(device: str) -> str:
    """Return the name of a device's unit."""
    return f"edge-runtime-{device}.service"


def unit_of(
    config: DeviceConfig, path: Path, *, program: Path, user: str, groups: Iterable[str] = ()
) -> str:
    """Return the text of the unit file.

    It starts without waiting for a network or a clock, because the device does not
    need them. It is restarted for ever: a service that gives up at night helps nobody.

    Args:
        config: The device.
        path: Its YAML file.
        program: ``edge-runtime`` to start.
        user: Who it runs as.
        groups: Groups that exist here, of those it needs.

    Raises:
        ConfigError: A path cannot stand in a unit file.
    """
    sections = {
        "Unit": _unit_section(config),
        "Service": [
            *_start(path, program, user, groups),
            *_limits(config),
            *_hardening(config, path, program),
        ],
        "Install": ["WantedBy=multi-user.target"],
    }
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections.items())


def _unit_section(config: DeviceConfig) -> list[str]:
    loads = [f"modprobe@{name}.service" for need in needs_of(config) for name in need.modules]
    return [
        f"Description=edge-runtime device {config.device}",
        "Documentation=man:systemd.service(5)",
        *(f"Wants={load}" for load in loads),
        " ".join(("After=local-fs.target systemd-udevd.service", *loads)),
        "# Try for ever: RestartSec keeps a loop from wearing out the card.",
        "StartLimitIntervalSec=0",
    ]


def _start(path: Path, program: Path, user: str, groups: Iterable[str]) -> list[str]:
    lines = [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_word(program)} run --stay {_word(path)}",
        f"User={user}",
        f"Group={user}",
    ]
    joined = " ".join(sorted(set(groups)))
    if joined:
        lines.append(f"SupplementaryGroups={joined}")
    return [
        *lines,
        "Restart=always",
        "RestartSec=15",
        "# A first load on a slow board, and one more try of the supervisor's own.",
        "TimeoutStartSec=300",
        "TimeoutStopSec=30",
        "WatchdogSec=120",
        "StandardOutput=journal",
        "StandardError=journal",
        f"SyslogIdentifier={program.name}",
    ]


def _limits(config: DeviceConfig) -> list[str]:
    in_children = [
        stream.model.memory_mb
        for stream in config.streams.values()
        if stream.model.isolation == "process"
    ]
    return [
        f"MemoryMax={_MEMORY_BESIDE_MODELS_MB + sum(in_children)}M",
        "TasksMax=128",
        "OOMPolicy=continue",
        "LimitCORE=0",
    ]


def _hardening(config: DeviceConfig, path: Path, program: Path) -> list[str]:
    return [
        "UMask=0077",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        *_places(config, path, program),
        "PrivateTmp=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectProc=invisible",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "RemoveIPC=yes",
        "SystemCallArchitectures=native",
        "# Live sources ask the kernel whether the clock is synchronised. ProtectClock= refuses",
        "# the question too; setting the clock takes a capability, and there are none.",
        "SystemCallFilter=@system-service adjtimex clock_adjtime clock_adjtime64",
        "# A runtime that asks for more is told so, and goes on.",
        "SystemCallErrorNumber=EPERM",
        *_devices(config),
    ]


def _places(config: DeviceConfig, path: Path, program: Path) -> list[str]:
    """Show of the homes what the device needs, and let it write its state."""
    state = Path(config.state).resolve()
    lines = [f"ReadWritePaths={_word(state)}"]
    shown = shown_at_home(config, path, program)
    if not shown and not _is_at_home(state):
        return [*lines, "ProtectHome=yes"]
    # Empty homes with these places in them: they need not be open to others for that.
    # ProtectHome=tmpfs would do it too, but leaves them writable.
    lines.append(f"TemporaryFileSystem={' '.join(f'{home}:ro' for home in (*_HOMES, _SESSIONS))}")
    lines += [f"BindReadOnlyPaths={_word(one)}" for one in shown]
    return [*lines, f"BindPaths={_word(state)}"] if _is_at_home(state) else lines


def shown_at_home(config: DeviceConfig, path: Path, program: Path) -> tuple[Path, ...]:
    """Return what the service sees of people's homes, read only; a folder stands for all in it.

    Args:
        config: The device.
        path: Its YAML file.
        program: ``edge-runtime`` to start.
    """
    options = [stream.source for stream in config.streams.values()]
    named = _absolute_paths([*options, *config.sinks])
    wanted = {path, *_program_folders(program), *config.files, *named}
    at_home = sorted(one for one in wanted if _is_at_home(one) and one.exists())
    return tuple(one for one in at_home if not set(one.parents) & set(at_home))


def _program_folders(program: Path) -> tuple[Path, ...]:
    """Return the environment, the interpreter it was made from, and, in a clone, the sources."""
    return program.parent.parent, Path(sys.base_prefix), Path(__file__).resolve().parents[2]


def _absolute_paths(value: object) -> Iterator[Path]:
    """Yield what of the options of plug-ins is an absolute path, at any depth."""
    if isinstance(value, str) and value.startswith("/"):
        yield Path(value)
    elif isinstance(value, Mapping):
        yield from _absolute_paths(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _absolute_paths(one)


def _devices(config: DeviceConfig) -> list[str]:
    """Open no device node but those that are needed; accelerators bring nodes of their own."""
    if any(stream.model.accelerator for stream in config.streams.values()):
        return ["DevicePolicy=auto"]
    needed = sorted({device for need in needs_of(config) for device in need.devices})
    if not needed:
        return ["PrivateDevices=yes"]
    return ["DevicePolicy=closed", *(f"DeviceAllow={device}" for device in needed)]


def _is_at_home(path: Path) -> bool:
    return any(home in path.parents for home in _HOMES)


def _word(path: Path) -> str:
    text = str(path)
    if _UNQUOTED & set(text):
        raise ConfigError(
            f"the path {text!r} has a space, a quote, a dollar or a percent sign",
            where="device install",
            expected="a path that can stand in a unit file as it is",
            remedy="Move it, for example to /etc/edge-runtime or /opt/edge-runtime.",
        )
    return text
