"""A bare model file on the command line: admitted in a child process, and described."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle, load_bundle, pack
from edge_runtime.cli.quantities import count, seconds, whole
from edge_runtime.errors import ConfigError
from edge_runtime.types import TensorSpec
from edge_runtime.update.bare import Findings, ModelQuestion, admit_model, refusal
from edge_runtime.update.derived import derive_bundle

__all__ = ["bundle_of", "check_model", "model_options", "question_of", "warm_up_option"]

_DEFAULT = ModelQuestion()


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
        type=count,
        default=_DEFAULT.limit_mb,
        metavar="MB",
        help=f"memory the model may take (default {_DEFAULT.limit_mb})",
    )
    parser.add_argument(
        "--limit-s",
        type=seconds,
        default=_DEFAULT.limit_s,
        metavar="S",
        help=f"time the model may take (default {_DEFAULT.limit_s:g})",
    )


def warm_up_option(parser: argparse._ArgumentGroup) -> None:
    """Add what nobody can read from a file, and a restart needs to know."""
    parser.add_argument(
        "--warm-up",
        type=whole,
        metavar="N",
        help="windows that decide its state, where that cannot be read (100)",
    )


@contextmanager
def bundle_of(args: argparse.Namespace) -> Iterator[tuple[Bundle, Path]]:
    """Give the bundle and where it lies: as named, or made of a bare model file.

    Raises:
        BundleError: It cannot be read, or the model is refused.
        ConfigError: Both are named, or neither.
    """
    if (args.bundle is None) == (args.model is None):
        raise ConfigError(
            "there is a bundle and a model" if args.bundle else "there is nothing to run",
            where="the command line",
            expected="a BUNDLE, or --model FILE",
            remedy="Name one of the two.",
        )
    if args.bundle is not None:
        yield load_bundle(args.bundle), args.bundle
        return
    derived = derive_bundle(args.model, question_of(args), warm_up=args.warm_up)
    for sentence in derived.assumed:
        sys.stderr.write(f"assumed: {sentence}\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bundle.zip"
        path.write_bytes(pack(derived.bundle))
        yield derived.bundle, path


def check_model(args: argparse.Namespace) -> int:
    """Admit a file and print what was found.

    Raises:
        BundleError: It is refused.
        ConfigError: The options make no sense.
    """
    verdict = admit_model(args.model, question_of(args))
    if verdict.findings is None:
        raise refusal(args.model, verdict)
    if args.json:
        text = msgspec.json.encode(verdict.findings).decode()
    else:
        text = "\n".join([str(args.model), *_lines(verdict.findings)])
    sys.stdout.write(text + "\n")
    return 0


def question_of(args: argparse.Namespace) -> ModelQuestion:
    """Return how a bare file is judged.

    Raises:
        ConfigError: The options make no sense.
    """
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
