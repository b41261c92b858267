"""``edge-runtime convert``: from a trained model to a bundle that has proven itself."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from edge_converters import show
from edge_converters.contracts import Limits, Outcome, Request
from edge_converters.conversion import convert
from edge_converters.doctor import examine
from edge_converters.paths import NETWORKS, PATHS
from edge_converters.recipes import load_recipe, replayed
from edge_converters.report import encode_report
from edge_converters.reporting import report_of, write_report
from edge_converters.workers.borrowed import borrow, borrowed, give_back
from edge_converters.workers.environments import ENVIRONMENTS, Environment, environment, sync
from edge_runtime.cli.progress import Steps
from edge_runtime.cli.quantities import count, seconds, whole
from edge_runtime.cli.table import table
from edge_runtime.errors import ConfigError, EdgeError

__all__ = ["Convert"]

_QUIET_S = 2.0
_INCONCLUSIVE = 4
_USAGE = "convert MODEL -o BUNDLE, convert paths, convert doctor, convert env …"


class Convert:
    """Convert a model; or show paths, health and environments of the tool."""

    name = "convert"
    help = "turn a trained model into a proven bundle, or say plainly why not"
    example = "edge-runtime convert tests/data/models/ic_resnet8_float.onnx -o resnet8"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument(
            "words",
            nargs="+",
            metavar="MODEL",
            help="a model; or: paths, doctor, env list, env sync NAME, env use NAME PYTHON, "
            "env show NAME",
        )
        parser.add_argument("-o", "--output", type=Path, metavar="BUNDLE", help="folder to write")
        _add_data(parser.add_argument_group("what it is made and judged with"))
        _add_wanted(parser.add_argument_group("what it becomes"))
        _add_told(parser.add_argument_group("what the model does not tell"))
        _add_limits(parser.add_argument_group("trust and limits"))
        parser.add_argument(
            "--report", type=Path, metavar="FOLDER", help="OUTPUT-report by default"
        )
        parser.add_argument("--quiet", action="store_true", help="show no progress")
        parser.add_argument("--json", action="store_true", help="print JSON, errors too")

    def run(self, args: argparse.Namespace) -> int:
        """Do it; 4 if the data cannot tell, 3 if the model is not trusted."""
        verbs: dict[str, Callable[[argparse.Namespace], int]] = {
            "paths": _paths,
            "doctor": _doctor,
            "env": _env,
        }
        verb = verbs.get(args.words[0], _convert)
        if not args.json:
            return verb(args)
        try:
            return verb(args)
        except EdgeError as error:
            _print(_json(_told(error)))
            raise


# --- arguments ----------------------------------------------------------------------

_Group = Any  # argparse's type for this is private


def _add_data(group: _Group) -> None:
    add = group.add_argument
    add("--calib", type=Path, metavar="DATA", help=".npz or .npy of windows that set the ranges")
    add("--eval", type=Path, metavar="DATA", help=".npz with inputs and labels for the verdict")
    add("--metric", choices=("accuracy", "auc", "f1", "mae"), help="what it is judged by")
    add("--max-drop", type=_share, default=0.005, metavar="X", help="what may be lost (0.005)")
    add("--prefer", choices=("size", "latency"), default="size", help="what is better (size)")
    add("--explain", metavar="OP", help="show what operators of this name or kind do in int8")
    add("--replay", type=Path, metavar="RECIPE", help="do what recipe.json of a bundle says")
    add(
        "--refresh",
        type=Path,
        metavar="BUNDLE",
        help="what devices have of this network: keep its spec, precision and, if they fit, scales",
    )


def _add_wanted(group: _Group) -> None:
    add = group.add_argument
    add("--target", default="desktop", metavar="BOARD", help="what must run it (desktop)")
    add(
        "--bench",
        type=Path,
        action="append",
        default=[],
        metavar="RESULT",
        help="what tune --json printed on that board, or a folder of it; a cloud's store, or"
        " what cloud boards --json printed; may be repeated",
    )
    add("--to", metavar="FORMATS", help="tflite, onnx, or both with a comma")
    add(
        "--precision",
        metavar="PRECISIONS",
        help="of float32, float16, dynamic, int8, mixed; or as-is: no byte is changed",
    )
    add(
        "--stream",
        type=count,
        metavar="N",
        help="cut a recurrent network into a cell of N samples with its state outside",
    )


def _add_told(group: _Group) -> None:
    add = group.add_argument
    add("--spec", type=Path, metavar="YAML", help="a bundle.yaml whose artefacts are replaced")
    add("--sidecar", type=Path, metavar="JSON", help="of microWakeWord; NAME.json by default")
    add("--name", help="model line; the file's name by default")
    add("--bundle-version", metavar="VERSION", help="of the bundle (1, or one more than before)")
    add("--labels", metavar="A,B,…", help="names of the outputs, in order")
    add("--rate-hz", type=float, default=1.0, metavar="HZ", help="samples a second (1)")
    add("--shape", metavar="N[,N…]", help="of one window's features, for free axes")
    add("--warm-up", type=whole, metavar="N", help="windows that decide its state (100)")
    add(
        "--constant",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a further input, such as sr=16000; may be repeated",
    )


def _add_limits(group: _Group) -> None:
    default = Limits()
    add = group.add_argument
    add(
        "--trust",
        action="store_true",
        help="open a pickle, module or Lambda layer: it can run any code",
    )
    add("--force", action="store_true", help="take calibration data that look like noise")
    add("--limit-mb", type=count, default=default.memory_mb, metavar="MB", help="of every worker")
    add("--limit-s", type=seconds, default=default.seconds, metavar="S", help="of every worker")


def _share(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


# --- converting ---------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> int:
    request = _request(args)
    if args.replay is not None:
        request = replayed(load_recipe(args.replay), request)
    progress = Steps(float("inf") if args.quiet else _QUIET_S)
    try:
        outcome = convert(request, progress.tell)
    finally:
        progress.end()
    report = args.report or request.output.with_name(f"{request.output.name}-report")
    write_report(outcome, report)
    if args.json:
        _print(encode_report(report_of(outcome)).decode())
    else:
        _print(show.outcome_text(outcome, str(request.output)))
        if args.explain:
            _print(_explained(outcome, args.explain))
    return _INCONCLUSIVE if outcome.choice.verdict == "inconclusive" else 0


def _explained(outcome: Outcome, operator: str) -> str:
    """Show the operators of that name or kind."""
    rows = [one for one in outcome.operators if operator in (one.name, one.kind)]
    if rows:
        return show.operators_text(rows)
    kinds = ", ".join(sorted({one.kind for one in outcome.operators})) or "none: nothing was tried"
    return f"there is no operator {operator}; there are {kinds}"


def _request(args: argparse.Namespace) -> Request:
    if len(args.words) != 1 or args.output is None:
        raise ConfigError(
            f"convert {' '.join(args.words)}" + ("" if args.output else " without -o"),
            where="the command line",
            expected=_USAGE,
            remedy="Name one model, and the folder of the bundle with -o.",
        )
    asked = {
        "model": args.words[0],
        "output": args.output,
        "calib": args.calib,
        "eval": args.eval,
        "metric": args.metric,
        "max_drop": args.max_drop,
        "prefer": args.prefer,
        "target": args.target,
        "bench": args.bench,
        "formats": _listed(args.to),
        "precisions": _listed(args.precision),
        "hop": args.stream,
        "spec": args.spec,
        "refresh": args.refresh,
        "sidecar": args.sidecar,
        "name": args.name,
        "version": args.bundle_version,
        "labels": _listed(args.labels),
        "rate_hz": args.rate_hz,
        "warm_up": args.warm_up,
        "shape": _numbers("--shape", _listed(args.shape)) or None,
        "constants": _constants(args.constant),
        "is_trusted": args.trust,
        "is_forced": args.force,
        "limits": Limits(args.limit_mb, args.limit_s),
    }
    try:
        return msgspec.convert(asked, Request, dec_hook=lambda _, value: value)
    except msgspec.ValidationError as error:
        raise ConfigError(
            str(error),
            where="the command line",
            expected="values as in edge-runtime convert --help",
            remedy="Correct the option it names.",
        ) from error


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _numbers(option: str, parts: list[str]) -> list[int]:
    try:
        return [int(part) for part in parts]
    except ValueError as error:
        raise ConfigError(
            str(error), where=option, expected="whole numbers", remedy="Write 576, or 49,10,1."
        ) from error


def _constants(pairs: list[str]) -> dict[str, float]:
    parts = [text.partition("=") for text in pairs]
    try:
        return {name: float(value) for name, _, value in parts}
    except ValueError as error:
        raise ConfigError(
            str(error),
            where="--constant",
            expected="NAME=NUMBER",
            remedy="Write --constant sr=16000, for instance.",
        ) from error


# --- what else there is to see ------------------------------------------------------


def _paths(args: argparse.Namespace) -> int:
    _print(_json([*PATHS, *NETWORKS]) if args.json else show.paths_text())
    return 0


def _doctor(args: argparse.Namespace) -> int:
    found = examine()
    rows = [("ok" if one.is_ready else "-", one.name, one.purpose, one.found) for one in found]
    _print(_json(found) if args.json else table(("", "what", "for", "found"), rows))
    return 0


# How many words each verb of ``env`` takes, itself included.
_ENV_WORDS = {"list": 1, "sync": 2, "use": 3, "show": 2}


def _env(args: argparse.Namespace) -> int:
    verbs = {"list": _env_list, "sync": _env_sync, "use": _env_use, "show": _env_show}
    words = args.words[1:]
    if not words or len(words) != _ENV_WORDS.get(words[0]):
        raise ConfigError(
            f"convert env {' '.join(words)}",
            where="the command line",
            expected="env list, env sync NAME, env use NAME PYTHON or env show NAME",
            remedy=f"The names are {', '.join(ENVIRONMENTS)}.",
        )
    return verbs[words[0]](args)


def _env_list(args: argparse.Namespace) -> int:
    rows = [
        (one.name, _state_of(one), f"{one.size_mb} MB", one.purpose)
        for one in ENVIRONMENTS.values()
    ]
    named = [dict(zip(("name", "state", "size", "purpose"), row, strict=True)) for row in rows]
    _print(_json(named) if args.json else table(("name", "state", "size", "for"), rows))
    return 0


def _state_of(one: Environment) -> str:
    named = borrowed(one.name)
    return str(named.python) if named is not None else "ready" if one.is_ready else "-"


def _env_use(args: argparse.Namespace) -> int:
    named = borrow(args.words[2], args.words[3])
    facts = {"name": args.words[2], "python": str(named.python), "packages": named.versions}
    _print(_json(facts) if args.json else f"{args.words[2]} is {named}")
    return 0


def _env_sync(args: argparse.Namespace) -> int:
    made = sync(args.words[2], _say_nothing if args.quiet else _say)
    give_back(made.name)
    facts = {"name": made.name, "folder": str(made.folder), "packages": made.pins}
    _print(_json(facts) if args.json else f"{made.name} is ready in {made.folder}")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text} …\n")


def _say_nothing(_: str) -> None:
    """Stand in for a listener."""


def _env_show(args: argparse.Namespace) -> int:
    one = environment(args.words[2])
    if args.json:
        _print(_json({"name": one.name, "is_ready": one.is_ready, "packages": one.pins}))
    else:
        _print("\n".join(f"{name}=={version}" for name, version in one.pins.items()))
    return 0


def _told(error: EdgeError) -> dict[str, object]:
    parts = {name: getattr(error, name) for name in ("what", "where", "expected", "remedy")}
    return {"error": {"kind": type(error).__name__, **parts}, "exit_code": error.exit_code}


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")
