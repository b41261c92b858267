"""A bare model file on the command line: admitted in a child process, and described."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edge_runtime.errors import BundleError, ConfigError
from edge_runtime.types import TensorSpec
from edge_runtime.update.bare import Findings, ModelAdmission, ModelQuestion, admit_model

__all__ = ["check_model", "model_options"]

_DEFAULT = ModelQuestion()
_EXPECTED = {
    "crash": "a model that leaves its process alive",
    "memory": f"at most {_DEFAULT.limit_mb} MiB, or what --limit-mb says",
    "time": f"an end within {_DEFAULT.limit_s:g} s, or what --limit-s says",
}
_REMEDY = "Do not use this file; fetch it again, or convert the model anew."


def model_options(parser: argparse._ArgumentGroup) -> None:
    """Add what says which file is judged, and how."""
    parser.add_argument("--model", type=Path, metavar="FILE", help="a .tflite, .onnx or .npz file")
    parser.add_argument("--backend", help="model runtime; the default for the file by default")
    parser.add_argument(
        "--constant",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="value of a further input, such as sr=16000; may be repeated",
    )
    parser.add_argument(
        "--shape", metavar="N[,N…]", help="shape of one window's features, for free axes"
    )
    parser.add_argument(
        "--limit-mb",
        type=int,
        default=_DEFAULT.limit_mb,
        metavar="MB",
        help=f"memory the model may take (default {_DEFAULT.limit_mb})",
    )
    parser.add_argument(
        "--limit-s",
        type=float,
        default=_DEFAULT.limit_s,
        metavar="S",
        help=f"time the model may take (default {_DEFAULT.limit_s:g})",
    )


def check_model(args: argparse.Namespace) -> int:
    """Admit a file and print what was found.

    Raises:
        BundleError: It is refused.
        ConfigError: The options make no sense.
    """
    verdict = admit_model(args.model, _question(args))
    if verdict.findings is None:
        raise _refusal(args.model, verdict)
    if args.json:
        text = msgspec.json.encode(verdict.findings).decode()
    else:
        text = "\n".join([str(args.model), *_lines(verdict.findings)])
    sys.stdout.write(text + "\n")
    return 0


def _question(args: argparse.Namespace) -> ModelQuestion:
    pairs = [text.partition("=") for text in args.constant]
    try:
        return ModelQuestion(
            backend=args.backend,
            constants={name: float(value) for name, _, value in pairs},
            shape=tuple(map(int, args.shape.split(","))) if args.shape else None,
            limit_mb=args.limit_mb,
            limit_s=args.limit_s,
        )
    except ValueError as error:
        raise ConfigError(
            str(error),
            where="--constant or --shape",
            expected="--constant NAME=NUMBER and --shape N,N,N",
            remedy="Write --constant sr=16000 or --shape 576, for instance.",
        ) from error


def _refusal(path: Path, verdict: ModelAdmission) -> BundleError:
    word = verdict.reason.partition(":")[0]
    expected = verdict.expected or _EXPECTED.get(word, "a model that this machine can run")
    return BundleError(
        verdict.reason, where=str(path), expected=expected, remedy=verdict.remedy or _REMEDY
    )


def _lines(found: Findings) -> list[str]:
    rows = [("runtime", f"{found.backend} {found.version}")]
    rows += [("input", _tensor(one)) for one in found.inputs]
    rows += [("output", _tensor(one)) for one in found.outputs]
    rows += [("state", _state(found))]
    rows += [("constant", f"{name} = {value:g}") for name, value in found.state.constants.items()]
    rows += [
        ("precision", found.precision or "unknown"),
        ("repeats", "the same question gets the same answer"),
        ("batch", _BATCHES[found.batch]),
        ("latency", f"{found.latency_us:.0f} µs a call, one thread"),
        ("memory", f"{found.peak_rss_mb:.0f} MiB at most, runtime included"),
        ("file", f"{found.size_bytes} bytes, SHA-256 {found.digest}"),
    ]
    return [f"  {name:10} {text}" for name, text in rows]


_BATCHES = {
    "equal": "32 rows are answered like single ones, to the byte",
    "different": "32 rows are answered otherwise than single ones: only block 1 is safe",
    "not asked": "row by row, because the model keeps state",
}
_STATES = {
    "stateless": "none",
    "variables": "variable tensors, which can be saved and set",
    "resources": "resource variables: only a new interpreter resets them, nobody can save them",
}


def _state(found: Findings) -> str:
    if found.state_kind != "explicit":
        return _STATES[found.state_kind]
    pairs = ", ".join(f"{one.output} → {one.input}" for one in found.state.tensors)
    return f"explicit, guessed by name: {pairs}"


def _tensor(tensor: TensorSpec) -> str:
    text = f"{tensor.name} {tensor.dtype}{list(tensor.shape)}"
    if tensor.scale is None:
        return text
    return f"{text}, scale {tensor.scale:g}, zero point {tensor.zero_point}"
