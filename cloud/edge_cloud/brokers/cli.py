"""``edge-runtime broker-config``: what a broker needs to know of this cloud."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edge_cloud.brokers import aws, emqx
from edge_cloud.brokers.folder import write_emqx, write_mosquitto
from edge_cloud.brokers.mosquitto import Listener
from edge_cloud.config import CloudConfig, load_cloud
from edge_cloud.identity.authority import Authority
from edge_cloud.identity.cli import identity_of
from edge_cloud.identity.devices import Devices
from edge_cloud.links import roles_of
from edge_cloud.store import Store
from edge_cloud.verbs import make_folder
from edge_runtime.sync.topics import Topics

__all__ = ["BrokerConfig"]


class BrokerConfig:
    """Write listener, TLS, access list and limits for a broker."""

    name = "broker-config"
    help = "write a broker's listener, TLS, access list and limits"
    example = "edge-runtime broker-config mosquitto --config cloud.yaml -o broker"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument("kind", choices=tuple(_WRITERS), help="what the broker is")
        parser.add_argument("--config", type=Path, required=True, help="cloud YAML")
        parser.add_argument(
            "-o", "--output", type=Path, required=True, metavar="FOLDER", help="where the files go"
        )
        parser.add_argument(
            "--as",
            type=Path,
            dest="seen_as",
            metavar="FOLDER",
            help="where the broker will find the files, if they are moved there",
        )
        parser.add_argument("--port", type=int, default=8883, help="TLS port (default 8883)")
        parser.add_argument("--bind", metavar="ADDRESS", help="listen there alone")
        parser.add_argument(
            "--loopback-port",
            type=int,
            metavar="PORT",
            help="mosquitto: a plain port too, for programs of the broker's own machine",
        )
        parser.add_argument(
            "--data",
            type=Path,
            metavar="FOLDER",
            help="mosquitto: where it keeps sessions (the same folder)",
        )
        parser.add_argument(
            "--arn",
            default="arn:aws:iot:*:*",
            help="aws: arn:aws:iot:REGION:ACCOUNT (default: any)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Write the files and say which."""
        config = load_cloud(args.config)
        files = [str(path) for path in _WRITERS[args.kind](args, config)]
        text = msgspec.json.encode({"files": files}).decode() if args.json else "\n".join(files)
        sys.stdout.write(text + "\n")
        return 0


def _mosquitto(args: argparse.Namespace, config: CloudConfig) -> list[Path]:
    seen_as = _seen_as(args)
    listener = Listener(
        folder=seen_as,
        data=(args.data or seen_as).absolute(),
        port=args.port,
        bind=args.bind,
        loopback_port=args.loopback_port,
    )
    return write_mosquitto(
        args.output,
        listener,
        names=identity_of(config).names,
        roles=roles_of(config),
        authority=Authority(config.authority),
        devices=Devices(Store(config.store)),
        topics=Topics(config.root),
    )


def _seen_as(args: argparse.Namespace) -> Path:
    folder: Path = args.seen_as or args.output
    return folder.absolute()


def _emqx(args: argparse.Namespace, config: CloudConfig) -> list[Path]:
    return write_emqx(
        args.output,
        emqx.configuration(_seen_as(args), port=args.port, bind=args.bind),
        names=identity_of(config).names,
        roles=roles_of(config),
        authority=Authority(config.authority),
        devices=Devices(Store(config.store)),
        topics=Topics(config.root),
    )


def _aws(args: argparse.Namespace, config: CloudConfig) -> list[Path]:
    topics = Topics(config.root)
    make_folder(args.output)
    policies = {"device": aws.device_policy(topics, arn=args.arn)}
    policies |= {
        role: aws.role_policy(rules, role, arn=args.arn) for role, rules in roles_of(config).items()
    }
    files = []
    for name, policy in policies.items():
        files.append(args.output / f"{name}-policy.json")
        files[-1].write_bytes(msgspec.json.format(msgspec.json.encode(policy)) + b"\n")
    return files


_WRITERS = {"mosquitto": _mosquitto, "emqx": _emqx, "aws": _aws}
