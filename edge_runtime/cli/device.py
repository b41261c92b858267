"""``edge-runtime device``: set up a device, and run it as a service."""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edge_runtime.boards import BOARDS, Board, board_here
from edge_runtime.bundle import load_bundle
from edge_runtime.config import load_device
from edge_runtime.config.check import check_device, check_file
from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.registry import closest
from edge_runtime.service import check_root, install, uninstall, unit_of
from edge_runtime.service.draft import (
    Draft,
    asked,
    broker_of,
    draft_text,
    option_of,
    required_options,
)
from edge_runtime.service.models import backend_here, model_beside
from edge_runtime.sync.identity.folder import IdentityFolder
from edge_runtime.sync.identity.serials import machine_serial
from edge_runtime.sync.identity.token import ClaimToken

__all__ = ["Device"]

_USER = "edge-runtime"
_EXAMPLES = {
    "enroll": "enroll oven-1.yaml --url https://cloud.example:8443 --token er1.…",
    "init": "init --sensor bme280 --model bundles/oven -o oven-1.yaml",
    "install": "install oven-1.yaml --print",
    "uninstall": "uninstall oven-1",
}


class Device:
    """Draft a device's YAML; enroll it; install it as a systemd service; remove it again."""

    name = "device"
    help = "set up a device: draft its YAML, enroll it, install it as a service"
    example = "edge-runtime device init --sensor mpu6050 --model bundles/fan -o fan-1.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        verbs = parser.add_subparsers(required=True, metavar="VERB")
        _configure_init(_verb(verbs, "init", "draft the YAML of a device; asks what is not given"))
        _configure_enroll(_verb(verbs, "enroll", "make a key and have the cloud sign for it"))
        _configure_install(_verb(verbs, "install", "install a device as a systemd service"))
        gone = _verb(verbs, "uninstall", "stop and remove the service; data and YAML stay")
        gone.add_argument("device", help="name of the device, as in its YAML")
        gone.set_defaults(verb=_uninstall)

    def run(self, args: argparse.Namespace) -> int:
        """Do what the verb says, a line for every step."""
        steps: list[str] = []
        facts = args.verb(args, steps.append if args.json else _say)
        if args.json:
            sys.stdout.write(json.dumps({**facts, "steps": steps}) + "\n")
        return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  edge-runtime device {_EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


# --- init -----------------------------------------------------------------------------


def _configure_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="device id; this machine's name by default")
    parser.add_argument("--board", help=f"one of {', '.join(BOARDS)}; found out by default")
    parser.add_argument("--sensor", metavar="KIND", help="kind of source, see plugins")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="options",
        help="an option of the source; give it again for more",
    )
    parser.add_argument(
        "--model",
        metavar="BUNDLE",
        help="folder or zip file of the model, or the name of one that comes along, see plugins",
    )
    parser.add_argument("--broker", metavar="HOST[:PORT]", help="MQTT broker; empty for none")
    parser.add_argument("--ca-file", type=Path, help="certificates to trust: encrypts the link")
    parser.add_argument("--state", type=Path, help="folder for everything the device keeps")
    parser.add_argument("-o", "--output", type=Path, help="file to write, NAME.yaml by default")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    parser.set_defaults(verb=_init)


def _init(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, object]:
    draft = _drafted(args)
    output: Path = args.output or Path(f"{draft.name}.yaml")
    if output.exists() and not args.force:
        raise ConfigError(
            f"{output} exists",
            where="device init",
            expected="a new file",
            remedy="Choose another with -o, or replace it with --force.",
        )
    with model_beside(str(draft.bundle), output.parent) as bundle:
        # What is installed here says nothing about another board.
        is_here = draft.board == board_here()
        backend = backend_here(load_bundle(output.parent / bundle)) if is_here else None
        draft = msgspec.structs.replace(draft, bundle=bundle, backend=backend)
        _write_checked(output, draft_text(draft))
    say(f"wrote {output}: {draft.board.title}, {draft.source} → {draft.bundle}")
    say(f"try it:      {_program()} run {output}")
    if draft.broker and not draft.ca_file and not is_loopback(draft.broker[0]):
        say(f"enroll it:   {_program()} device enroll {output} --url URL --token TOKEN")
    say(f"install it:  sudo {_program()} device install {output.resolve()}")
    return {"path": str(output), "device": draft.name, "board": draft.board.name}


def _write_checked(output: Path, text: str) -> None:
    """Write the YAML; where it does not check out, leave everything as it was."""
    before = output.read_bytes() if output.exists() else None
    output.write_text(text)
    try:
        check_device(load_device(output))
    except EdgeError:
        if before is None:
            output.unlink()
        else:
            output.write_bytes(before)
        raise


def _drafted(args: argparse.Namespace) -> Draft:
    given = {key: getattr(args, key) for key in ("name", "board", "sensor", "model", "broker")}
    # Whoever names sensor and model is done: everything else has a default.
    is_talking = sys.stdin.isatty() and not args.json and not (args.sensor and args.model)
    given["board"] = given["board"] or (None if is_talking else board_here().name)
    answers = asked(given, _ask if is_talking else _do_not_ask)
    options = dict(option_of(text) for text in args.options)
    if is_talking:
        options |= _asked_options(answers["sensor"], options)
    broker = answers["broker"]
    return Draft(
        name=answers["name"],
        board=_board(answers["board"]),
        source=answers["sensor"],
        options=options,
        bundle=Path(answers["model"]),
        broker=broker_of(broker, has_tls=True if args.ca_file else None) if broker else None,
        state=args.state or Path("state") / answers["name"],
        ca_file=args.ca_file,
    )


def _asked_options(sensor: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for the options that the source cannot do without."""
    missing = [pair for pair in required_options(sensor).items() if pair[0] not in given]
    return dict(option_of(f"{key}={_ask(f'{sensor}.{key} ({kind})', '')}") for key, kind in missing)


def _ask(question: str, default: str) -> str:
    try:
        answer = input(f"{question}{f' [{default}]' if default else ''}: ").strip()
    except EOFError:
        sys.stdout.write("\n")
        answer = ""
    return answer or _do_not_ask(question, default)


def _do_not_ask(question: str, default: str) -> str:
    """Take the default where nobody can be asked; say what is missing where there is none."""
    if default or question.startswith("MQTT"):
        return default
    raise ConfigError(
        f"nobody can be asked: {question}",
        where="device init",
        expected="--sensor KIND and --model BUNDLE",
        remedy="Give them as flags, or run it in a terminal.",
    )


def _board(name: str) -> Board:
    if name not in BOARDS:
        raise ConfigError(
            f"there is no board named {name!r}",
            where="device init",
            expected=f"one of {', '.join(BOARDS)}",
            remedy=closest(name, tuple(BOARDS)),
        )
    return BOARDS[name]


# --- enroll ---------------------------------------------------------------------------


def _configure_enroll(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="device YAML")
    parser.add_argument("--url", required=True, help="https://HOST:PORT of the cloud")
    token = parser.add_mutually_exclusive_group(required=True)
    token.add_argument("--token", help="claim token; others on this machine may see it")
    token.add_argument("--token-file", type=Path, help="file with the claim token, mode 0600")
    parser.add_argument("--serial", help="of this machine; read from the board by default")
    parser.set_defaults(verb=_enroll)


def _enroll(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, object]:
    # Most devices enroll once in their life, and the library for it is large.
    from edge_runtime.sync.identity.enrolment import enroll

    config = load_device(args.config)
    folder = IdentityFolder(config.identity)
    validity = enroll(
        folder,
        ClaimToken.parse(_token(args)),
        url=args.url,
        device=config.device,
        serial=args.serial or _serial(),
    )
    until = datetime.datetime.fromtimestamp(validity.not_after_s, datetime.UTC)
    say(f"{config.device} is enrolled until {until:%Y-%m-%d %H:%M} UTC: {folder.path}")
    say("a running device renews it by itself")
    return {
        "device": config.device,
        "folder": str(folder.path),
        "not_after_s": validity.not_after_s,
    }


def _token(args: argparse.Namespace) -> str:
    path: Path | None = args.token_file
    if path is None:
        return str(args.token)
    check_file(path, "token_file", "device enroll", is_secret=True)
    return path.read_text()


def _serial() -> str:
    serial = machine_serial()
    if serial is None:
        raise ConfigError(
            "this machine has no serial number",
            where="device enroll",
            expected="/proc/device-tree/serial-number or /etc/machine-id",
            remedy="Say one with --serial, the same as at edge-runtime cloud enroll.",
        )
    return serial


# --- install and uninstall --------------------------------------------------------------


def _configure_install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="device YAML")
    parser.add_argument("--user", default=_USER, help=f"who it runs as (default {_USER})")
    parser.add_argument("--no-start", action="store_true", help="start it at the next boot only")
    parser.add_argument("--print", action="store_true", help="show the unit and change nothing")
    parser.set_defaults(verb=_install)


def _install(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, object]:
    path: Path = args.config.resolve()
    config = load_device(path)
    check_device(config)
    if args.print:
        text = unit_of(config, path, program=_program(), user=args.user)
        say(text.rstrip("\n"))
        return {"device": config.device, "unit": text}
    check_root("install")
    unit = install(
        config, path, program=_program(), user=args.user, say=say, starts=not args.no_start
    )
    return {"device": config.device, "unit": str(unit)}


def _uninstall(args: argparse.Namespace, say: Callable[[str], object]) -> dict[str, object]:
    check_root("uninstall")
    uninstall(args.device, say=say)
    return {"device": args.device}


def _program() -> Path:
    """Return the ``edge-runtime`` that belongs to this interpreter."""
    beside = Path(sys.executable).parent / "edge-runtime"
    found = str(beside) if beside.exists() else shutil.which("edge-runtime")
    return Path(found or sys.argv[0]).absolute()
