"""``edge-runtime cloud ca|enroll|revoke|devices``: who may connect."""

from __future__ import annotations

import argparse
import datetime
import re
from pathlib import Path
from typing import Any

from edge_cloud.brokers.folder import reload_broker, write_revocations
from edge_cloud.config import CloudConfig, IdentityConfig, load_cloud
from edge_cloud.identity.authority import Authority
from edge_cloud.identity.devices import Device, Devices
from edge_cloud.identity.enrolment import Enrolment
from edge_cloud.links import BRIDGE, HOME_ASSISTANT, roles_of
from edge_cloud.store import Store
from edge_cloud.verbs import Verbs, make_folder, tell, verb, with_config
from edge_runtime.errors import ConfigError
from edge_runtime.sync.board_times import forget_times
from edge_runtime.sync.identity.folder import write_private
from edge_runtime.sync.identity.keys import certificate_of, new_key, pem_of
from edge_runtime.sync.identity.token import ClaimToken
from edge_runtime.sync.topics import Topics

__all__ = ["add_device_verbs", "add_identity", "identity_of"]

_CARRIED_DAYS = 397.0
"""Life of a certificate that a person carries, once a year as with the broker's own."""

_UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


def add_identity(verbs: Verbs) -> None:
    """Add ``ca``, ``enroll`` and ``revoke``."""
    _add_authority(verbs)
    enroll = with_config(
        verb(
            verbs,
            "enroll",
            "invite a device: print a claim token, once",
            "enroll cloud.yaml pump-1 --serial 10000000a1b2c3d4",
            _enroll,
        )
    )
    enroll.add_argument("device", help="device id")
    enroll.add_argument("--serial", required=True, help="of the one machine that may use it")
    enroll.add_argument(
        "--expires", type=_duration_s, default="24h", metavar="TIME", help="such as 30m, 24h, 7d"
    )
    revoke = with_config(
        verb(verbs, "revoke", "shut a device out, at once", "revoke cloud.yaml pump-1", _revoke)
    )
    revoke.add_argument("device", help="device id")


def _add_authority(verbs: Verbs) -> None:
    ca = verbs.add_parser("ca", help="certificate authority", description="certificate authority")
    of_ca = ca.add_subparsers(required=True, metavar="VERB")
    with_config(
        verb(
            of_ca,
            "init",
            "make the authority that signs every certificate of this cloud",
            "ca init cloud.yaml",
            _init,
        )
    )
    issue = with_config(
        verb(
            of_ca,
            "issue",
            "make key and certificate for the bridge or Home Assistant on another machine",
            f"ca issue cloud.yaml {HOME_ASSISTANT} -o homeassistant",
            _issue,
        )
    )
    issue.add_argument("name", choices=(BRIDGE, HOME_ASSISTANT), help="who will show it")
    issue.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the files go"
    )


def add_device_verbs(verbs: Verbs) -> None:
    """Add ``devices list``."""
    with_config(
        verb(
            verbs,
            "list",
            "show every device: state, certificate, when it was last seen",
            "devices list cloud.yaml",
            _list,
        )
    )


def identity_of(config: CloudConfig) -> IdentityConfig:
    """Return the part about identity.

    Raises:
        ConfigError: There is none.
    """
    if config.identity is None:
        raise ConfigError(
            "the cloud has no identity",
            where="identity",
            expected="the names by which devices reach it",
            remedy="Add to the YAML: identity: {names: [cloud.example]}.",
        )
    return config.identity


def _init(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    identity_of(config)
    authority = _create(config)
    text = f"wrote {authority.folder}: keep ca.key safe and in a backup; it signs everybody"
    return tell(args, {"folder": str(authority.folder), "sha256": authority.digest.hex()}, text)


def _create(config: CloudConfig) -> Authority:
    return Authority.create(config.authority, f"edge-runtime {identity_of(config).names[0]}")


def _authority(config: CloudConfig) -> Authority:
    """Return the cloud's authority, made now if this is the first that needs it."""
    if not (config.authority / "ca.key").exists():
        return _create(config)
    return Authority(config.authority)


def _issue(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    _check_let_in(config, args.name)
    authority, devices = Authority(config.authority), Devices(Store(config.store))
    was_revoked = args.name in devices.revoked()
    make_folder(args.output, 0o700)
    key = new_key()
    issued = Enrolment(authority, devices, days=_CARRIED_DAYS).admit(key.public_key(), args.name)
    files = [args.output / name for name in (f"{args.name}.key", f"{args.name}.pem", "ca.pem")]
    write_private(files[0], pem_of(key))
    write_private(files[1], issued.certificate.encode(), mode=0o644)
    write_private(files[2], authority.path.read_bytes(), mode=0o644)
    ends = certificate_of(issued.certificate, str(files[1])).not_valid_after_utc
    ends_ns = round(ends.timestamp()) * 10**9
    result: dict[str, Any] = {"files": list(map(str, files)), "not_after_ns": ends_ns}
    lines = [*result["files"], f"{args.name} may connect with these until {_date(ends_ns)}."]
    if was_revoked:
        lines.append(_serve_again(config, devices, result))
    return tell(args, result, "\n".join(lines))


def _check_let_in(config: CloudConfig, name: str) -> None:
    if config.homeassistant is None:
        raise ConfigError(
            f"the broker's access list has no {name!r}",
            where="homeassistant",
            expected="a cloud that says that Home Assistant is a client of its broker",
            remedy="Add to the YAML: homeassistant: {}; and run broker-config again.",
        )


def _enroll(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    identity = identity_of(config)
    token = ClaimToken.draw(_authority(config).digest)
    devices = Devices(Store(config.store))
    was_revoked = args.device in devices.revoked()
    expires_ns = devices.invite(
        args.device, token.digest, serial=args.serial, expires_s=args.expires
    )
    result = {
        "device": args.device,
        "token": token.text,
        "url": identity.url,
        "expires_ns": expires_ns,
    }
    command = f"edge-runtime device enroll {args.device}.yaml"
    lines = [
        f"{args.device} may enroll once, on machine {args.serial}, until {_date(expires_ns)}:",
        f"  {command} --url {identity.url} --token {token.text}",
        "The token is not shown again.",
    ]
    if was_revoked:
        lines.append(_serve_again(config, devices, result))
    return tell(args, result, "\n".join(lines))


def _serve_again(config: CloudConfig, devices: Devices, result: dict[str, Any]) -> str:
    """Let the broker deny a name no more that was revoked; note and return what was done."""
    result["broker"] = _tell_broker(config, devices)
    return (
        f"Its old certificates stay revoked; {result['broker']}. It must have read that list "
        "before the new one is shown: restart it where in doubt."
    )


def _revoke(args: argparse.Namespace) -> int:
    config = load_cloud(args.config)
    devices = Devices(Store(config.store))
    certificates = devices.revoke(args.device)
    forget_times(config.store, args.device)
    told = _tell_broker(config, devices)
    result = {"device": args.device, "certificates": certificates, "broker": told}
    text = f"{args.device} is out: {certificates} certificates revoked, ingest refuses it; {told}"
    return tell(args, result, text)


def _tell_broker(config: CloudConfig, devices: Devices) -> str:
    """Pass on who is out, as far as the configuration says where to; return what was done."""
    identity = identity_of(config)
    if identity.broker_folder is None:
        return "the broker does not know yet: run broker-config again, and reload it"
    write_revocations(
        identity.broker_folder,
        roles=roles_of(config),
        authority=Authority(config.authority),
        devices=devices,
        topics=Topics(config.root),
    )
    if identity.broker_pid_file is None:
        return "the broker's files are written: reload it"
    return f"the broker (process {reload_broker(identity.broker_pid_file)}) was told"


def _list(args: argparse.Namespace) -> int:
    devices = Devices(Store(load_cloud(args.config).store)).all()
    return tell(args, devices, "\n".join(map(_line, devices)) or "no device was enrolled")


def _line(device: Device) -> str:
    certificate = "no certificate"
    if device.not_after_ns is not None:
        certificate = f"certificate until {_date(device.not_after_ns)}"
    seen = "never seen"
    if device.seen_ns is not None:
        seen = f"{'online' if device.is_online else 'offline'} since {_date(device.seen_ns)}"
    # What was issued for a link of the cloud is of no machine, and nobody looks for it.
    whose = f"{seen}, machine {device.serial}" if device.serial else "a link of the cloud"
    return f"{device.device}: {device.state}, {certificate}, {whose}"


def _date(time_ns: int) -> str:
    instant = datetime.datetime.fromtimestamp(time_ns // 10**9, datetime.UTC)
    return instant.strftime("%Y-%m-%d %H:%M UTC")


def _duration_s(text: str) -> float:
    match = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 30m, 24h or 7d")
    return int(match[1]) * _UNITS_S[match[2]]
