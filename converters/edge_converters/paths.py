"""Every way from a kind of model to a kind of file: what works, and why the rest does not."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_converters.contracts import Format, Kind, Precision
from edge_runtime.errors import BundleError

__all__ = [
    "NETWORKS",
    "PATHS",
    "Network",
    "Route",
    "formats_of",
    "route",
    "usual_formats_of",
]


class Route(msgspec.Struct, frozen=True):
    """One way.

    Attributes:
        source: What comes in.
        format: What comes out.
        state: Whether it works here.
        worker: Environment it needs; empty for none beside this one.
        how: How it goes, or why it does not.
        remedy: What to do instead; empty where it works.
        is_usual: Whether it is gone without being asked for with ``--to``.
    """

    source: Kind
    format: Format
    state: Literal["works", "refused"]
    worker: str
    how: str
    remedy: str = ""
    is_usual: bool = True


_FORMATS: tuple[Format, ...] = ("onnx", "tflite")
_ONNX_ONLY = "Convert it to ONNX: --to onnx."

PATHS: tuple[Route, ...] = (
    Route("onnx", "onnx", "works", "", "folded, pinned to IR 10; float or quantised"),
    Route("tflite", "tflite", "works", "", "taken as it is, or quantised"),
    Route("sklearn", "onnx", "works", "sklearn", "skl2onnx; IsolationForest by our own emitter"),
    Route("keras", "tflite", "works", "keras", "TensorFlow's converter with a batch of one"),
    Route("savedmodel", "tflite", "works", "keras", "TensorFlow's converter"),
    Route(
        "onnx",
        "tflite",
        "refused",
        "",
        "the converters measured change layouts or do not allocate",
        "Ship the ONNX file, or convert to TFLite from the framework the model was trained in.",
    ),
    Route(
        "tflite",
        "onnx",
        "works",
        "keras",
        "tf2onnx, from float files; with --to onnx",
        is_usual=False,
    ),
    Route(
        "keras",
        "onnx",
        "works",
        "keras",
        "tf2onnx; chains of layers with a GRU, or with --stream, by our own emitter",
        is_usual=False,
    ),
    Route("savedmodel", "onnx", "works", "keras", "as from Keras", is_usual=False),
    Route(
        "sklearn", "tflite", "refused", "sklearn", "TFLite has no operator for trees", _ONNX_ONLY
    ),
    Route("torch-export", "onnx", "works", "torch", "torch.onnx, by torch.export's graph"),
    Route("torch-module", "onnx", "works", "torch", "torch.export, then as torch-export; --trust"),
    Route("torch-pickle", "onnx", "works", "torch", "a whole module, as torch-module; --trust"),
    *(
        Route(
            source,
            "tflite",
            "refused",
            "torch",
            "its converter unrolls recurrent nets and fails on some convolutions",
            _ONNX_ONLY,
        )
        for source in ("torch-export", "torch-module", "torch-pickle")
    ),
    *(
        Route(
            "torch-weights",
            form,
            "refused",
            "torch",
            "the file holds weights by name, and no network",
            "Write a function that builds the network and loads them, and convert that: "
            "package.module:function --trust --shape N,N; or save a .pt2: "
            "torch.export.save(torch.export.export(network, inputs), 'model.pt2').",
        )
        for form in _FORMATS
    ),
    *(
        Route(
            "torch-script",
            form,
            "refused",
            "torch",
            "the file is TorchScript, which torch.export does not take",
            "Export the network that it was scripted from: "
            "torch.export.save(torch.export.export(network, inputs), 'model.pt2').",
        )
        for form in _FORMATS
    ),
    *(
        Route(
            booster,
            form,
            "refused",
            "",
            "boosters of their own file formats are not here yet",
            "Fit scikit-learn's HistGradientBoosting and save it with joblib.",
        )
        for booster in ("xgboost", "lightgbm")
        for form in _FORMATS
    ),
)


class Network(msgspec.Struct, frozen=True):
    """What a network may be like, and what can be made of it.

    Attributes:
        network: Its outputs and its state.
        format: Of its file.
        state: Whether there are integers for it.
        precisions: What there is.
        how: What becomes integers, or why nothing does.
        remedy: What to do instead; empty where it works.
    """

    network: str
    format: Format
    state: Literal["works", "refused"]
    precisions: tuple[Precision, ...]
    how: str
    remedy: str = ""


_ALL: tuple[Precision, ...] = ("float32", "float16", "dynamic", "int8", "mixed")
_CUT = "Cut it into an ONNX cell where its source can become ONNX: --stream N; or keep it float."

NETWORKS: tuple[Network, ...] = (
    *(
        Network(
            "without state, one output or several",
            form,
            "works",
            _ALL,
            "every output passes the gate; the first one decides, and is judged",
        )
        for form in _FORMATS
    ),
    Network(
        "recurrent, window by window",
        "onnx",
        "works",
        _ALL,
        "GRU, LSTM and RNN have int8 weights and float arithmetic",
    ),
    Network(
        "recurrent, window by window",
        "tflite",
        "refused",
        ("float32", "as-is"),
        "its loop is a graph of its own, which no tool quantises",
        _CUT,
    ),
    Network(
        "cell with explicit state",
        "onnx",
        "works",
        _ALL,
        "of one step: integer products, float gates and state; of several: int8 weights",
    ),
    Network(
        "cell with explicit state",
        "tflite",
        "refused",
        (),
        "sessions of TFLite files have one input, and take no state as tensors",
        "Ship the ONNX cell: leave --to out.",
    ),
    Network(
        "cell with state in resource variables",
        "tflite",
        "refused",
        ("float32", "as-is"),
        "its variables begin in a graph of their own, which no tool quantises",
        "Quantise it where it was trained, and take the file over: --precision as-is.",
    ),
    Network(
        "with branches or loops (If, Loop, Scan)",
        "onnx",
        "refused",
        ("float32", "float16", "as-is"),
        "what stands in a branch or loop is not looked into",
        "Export it without; or choose --precision float16.",
    ),
)


def formats_of(source: Kind) -> tuple[Format, ...]:
    """Return what a kind of model can become."""
    return tuple(one.format for one in PATHS if one.source == source and one.state == "works")


def usual_formats_of(source: Kind) -> tuple[Format, ...]:
    """Return what a kind of model becomes where nobody says."""
    return tuple(
        one.format
        for one in PATHS
        if one.source == source and one.state == "works" and one.is_usual
    )


def route(source: Kind, form: Format, where: str) -> Route:
    """Return the way from a kind of model to a kind of file.

    Raises:
        BundleError: There is none; with why, and what to do instead.
    """
    found = next(one for one in PATHS if (one.source, one.format) == (source, form))
    if found.state == "refused":
        works = ", ".join(formats_of(source)) or "nothing yet"
        raise BundleError(
            f"{source} to {form} is refused: {found.how}",
            where=where,
            expected=f"a path that works; {source} becomes {works}",
            remedy=found.remedy,
        )
    return found
