"""The folder that ``broker-config`` writes, and that a revocation writes again in part."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_cloud.brokers import emqx, mosquitto
from edge_cloud.brokers.access import Rule
from edge_cloud.identity.authority import Authority
from edge_cloud.identity.devices import Devices
from edge_cloud.verbs import make_folder
from edge_runtime.errors import ConfigError
from edge_runtime.sync.identity.folder import write_private
from edge_runtime.sync.topics import Topics

__all__ = ["reload_broker", "write_emqx", "write_mosquitto", "write_revocations"]

_PUBLIC = 0o644
# Who reads it is the broker's own user, to whom the folder belongs.
_FOLDER = 0o750


def write_mosquitto(
    folder: Path,
    listener: mosquitto.Listener,
    *,
    names: Sequence[str],
    roles: Mapping[str, Sequence[Rule]],
    authority: Authority,
    devices: Devices,
    topics: Topics,
) -> list[Path]:
    """Write everything Mosquitto needs; return the files.

    Args:
        folder: Where to.
        listener: Where it listens, and where it will find the files.
        names: By which devices reach the broker.
        roles: What each of the cloud's own links may do, by client id.
        authority: Signs its certificate.
        devices: Says who is out.
        topics: The topic tree.
    """
    files = _write_credentials(folder, names, authority)
    acl = mosquitto.access_list(
        topics, roles, devices.revoked(), has_loopback=listener.loopback_port is not None
    )
    return [
        *files,
        _write(folder / "mosquitto.conf", mosquitto.configuration(listener)),
        # Mosquitto wants nobody else to read it.
        _write(folder / mosquitto.ACL_NAME, acl, mode=0o600),
        _write_list(folder, authority, devices),
    ]


def write_emqx(
    folder: Path,
    configuration: str,
    *,
    names: Sequence[str],
    roles: Mapping[str, Sequence[Rule]],
    authority: Authority,
    devices: Devices,
    topics: Topics,
) -> list[Path]:
    """Write everything EMQX needs; return the files.

    Args:
        folder: Where to.
        configuration: Of the listener.
        names: By which devices reach the broker.
        roles: What each of the cloud's own links may do, by client id.
        authority: Signs its certificate.
        devices: Says who is out.
        topics: The topic tree.
    """
    files = _write_credentials(folder, names, authority)
    return [
        *files,
        _write(folder / "emqx.conf", configuration),
        _write(folder / emqx.ACL_NAME, emqx.access_list(topics, roles, devices.revoked())),
    ]


def write_revocations(
    folder: Path,
    *,
    roles: Mapping[str, Sequence[Rule]],
    authority: Authority,
    devices: Devices,
    topics: Topics,
) -> list[Path]:
    """Write again what says who is out, for the kind of broker whose files are there.

    Args:
        folder: What ``broker-config`` wrote.
        roles: What each of the cloud's own links may do, by client id.
        authority: Signs the list of revoked certificates.
        devices: Says who is out.
        topics: The topic tree.

    Raises:
        ConfigError: Nothing that ``broker-config`` wrote is there.
    """
    acl = folder / mosquitto.ACL_NAME
    if acl.is_file():
        has_loopback = "# Without a name" in acl.read_text()
        text = mosquitto.access_list(topics, roles, devices.revoked(), has_loopback=has_loopback)
        return [_write(acl, text, mode=0o600), _write_list(folder, authority, devices)]
    if (folder / emqx.ACL_NAME).is_file():
        text = emqx.access_list(topics, roles, devices.revoked())
        return [_write(folder / emqx.ACL_NAME, text)]
    raise ConfigError(
        "the folder holds no access list",
        where=str(folder),
        expected="what edge-runtime broker-config wrote",
        remedy="Write it: edge-runtime broker-config mosquitto --config CLOUD.yaml -o FOLDER.",
    )


def reload_broker(pid_file: Path) -> int:
    """Tell a broker to read its files again (SIGHUP); return its process id.

    Raises:
        ConfigError: The file names no process that can be told.
    """
    try:
        pid = int(pid_file.read_text())
        os.kill(pid, signal.SIGHUP)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the broker cannot be told: {error}",
            where=str(pid_file),
            expected="the process id of a running broker, and the right to signal it",
            remedy="Reload it yourself, such as with systemctl reload mosquitto.",
        ) from error
    return pid


def _write_credentials(folder: Path, names: Sequence[str], authority: Authority) -> list[Path]:
    make_folder(folder, _FOLDER)
    shown = authority.server(folder, names)
    return [
        _write(folder / "ca.pem", authority.path.read_text()),
        shown.certificate,
        shown.key,
    ]


def _write_list(folder: Path, authority: Authority, devices: Devices) -> Path:
    pem = authority.revocations(devices.revoked_certificates()).decode()
    return _write(folder / mosquitto.REVOKED_NAME, pem)


def _write(path: Path, text: str, *, mode: int = _PUBLIC) -> Path:
    write_private(path, text.encode(), mode=mode)
    return path
