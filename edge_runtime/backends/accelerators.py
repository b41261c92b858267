"""Accelerators by name: ONNX Runtime's execution providers, and TFLite delegates.

The processor stays behind an accelerator for the operators it does not know.
That the accelerator itself took a part of the model is verified each time a
model is opened: one that is absent, or takes nothing, is an error, never a
silent fallback.

A name may carry options: ``openvino:device_type=GPU``, ``edgetpu:device=usb``.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from edge_runtime.errors import ConfigError, MissingExtra, ModelError
from edge_runtime.ports import SessionOptions
from edge_runtime.registry import closest

__all__ = [
    "DELEGATES",
    "PROVIDERS",
    "check_accelerator",
    "delegates_here",
    "open_interpreter",
    "open_onnx",
    "providers_here",
]

log = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
_SUFFIX = "ExecutionProvider"
# In every wheel: the processor itself, and a client for models served by Azure.
_NO_ACCELERATORS = (CPU, "AzureExecutionProvider")
_OWN_BUILD = "Build ONNX Runtime with it: no wheel on PyPI has it."
# Wheels bring their libraries too, where the dynamic linker does not look.
_NVIDIA = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


class _Provider(msgspec.Struct, frozen=True):
    """An execution provider's full name, and how to get it."""

    name: str
    remedy: str


class _Delegate(msgspec.Struct, frozen=True):
    """File names of a delegate's library by system, and how to get it."""

    linux: str
    remedy: str
    darwin: str | None = None
    windows: str | None = None

    @property
    def file(self) -> str | None:
        """Name of the library on this system."""
        return {"darwin": self.darwin, "win32": self.windows}.get(sys.platform, self.linux)


def _wheel(package: str, needs: str) -> str:
    return f"pip uninstall onnxruntime && pip install {package}; it needs {needs}."


PROVIDERS: Mapping[str, _Provider] = MappingProxyType(
    {
        "cann": _Provider(
            "CANNExecutionProvider", _wheel("onnxruntime-cann", "Huawei's CANN toolkit")
        ),
        "coreml": _Provider("CoreMLExecutionProvider", "Use the onnxruntime wheel for macOS."),
        "cuda": _Provider(
            "CUDAExecutionProvider",
            _wheel('"onnxruntime-gpu[cuda,cudnn]"', "an NVIDIA driver, CUDA and cuDNN"),
        ),
        "dml": _Provider(
            "DmlExecutionProvider", _wheel("onnxruntime-directml", "Windows and DirectX 12")
        ),
        "dnnl": _Provider("DnnlExecutionProvider", _OWN_BUILD),
        "migraphx": _Provider(
            "MIGraphXExecutionProvider", _wheel("onnxruntime-migraphx", "AMD's ROCm")
        ),
        "nnapi": _Provider("NnapiExecutionProvider", _OWN_BUILD),
        "openvino": _Provider(
            "OpenVINOExecutionProvider",
            _wheel("onnxruntime-openvino", "an x86-64 processor, or an Intel GPU or NPU"),
        ),
        "qnn": _Provider(
            "QNNExecutionProvider",
            _wheel("onnxruntime-qnn", "a Qualcomm NPU and its libraries"),
        ),
        "rknpu": _Provider("RknpuExecutionProvider", _OWN_BUILD),
        "tensorrt": _Provider(
            "TensorrtExecutionProvider",
            _wheel('"onnxruntime-gpu[cuda,cudnn]"', "an NVIDIA driver, CUDA, cuDNN and TensorRT"),
        ),
        "vitisai": _Provider("VitisAIExecutionProvider", _OWN_BUILD),
        "webgpu": _Provider("WebGpuExecutionProvider", _OWN_BUILD),
        "xnnpack": _Provider("XnnpackExecutionProvider", _OWN_BUILD),
    }
)
"""Execution providers of ONNX Runtime by short name."""

DELEGATES: Mapping[str, _Delegate] = MappingProxyType(
    {
        "armnn": _Delegate("libarmnnDelegate.so", "Install Arm NN (armnn-delegate)."),
        "edgetpu": _Delegate(
            "libedgetpu.so.1",
            "Install Coral's Edge TPU runtime (libedgetpu1-std); "
            "the model must be compiled with edgetpu_compiler.",
            darwin="libedgetpu.1.dylib",
            windows="edgetpu.dll",
        ),
        "ethosu": _Delegate("libethosu_delegate.so", "Install it from the board's Linux image."),
        "gpu": _Delegate(
            "libtensorflowlite_gpu_delegate.so",
            "Build //tensorflow/lite/delegates/gpu of TensorFlow: the wheel of "
            "ai-edge-litert has GPU support for its CompiledModel alone.",
            darwin="libtensorflowlite_gpu_delegate.dylib",
        ),
        "vx": _Delegate("libvx_delegate.so", "Install it from the board's Linux image."),
    }
)
"""Delegates with TensorFlow Lite's plug-in interface, by short name."""

_TFLITE = ("litert", "tflite-runtime")


def check_accelerator(backend: str, accelerator: str | None) -> None:
    """Check that a backend knows an accelerator by that name; nothing is opened.

    A backend of another package judges the name itself.

    Raises:
        ConfigError: It does not, or the options after the name are no pairs.
    """
    if accelerator is None or backend not in ("onnx", "reference", *_TFLITE):
        return
    name, _ = _parse(accelerator)
    known = {"onnx": tuple(PROVIDERS), "reference": ()}.get(backend, tuple(DELEGATES))
    is_raw = name.endswith(_SUFFIX) if backend == "onnx" else _is_library(name)
    if name in known or (is_raw and known):
        return
    raise ConfigError(
        f"accelerator is {name!r}",
        where=f"backend {backend!r}",
        expected=_expected(known, backend),
        remedy=_other_backend(name) or closest(name, known),
    )


# --- ONNX Runtime ---------------------------------------------------------------------


def open_onnx(runtime: Any, model: bytes, settings: Any, options: SessionOptions) -> Any:
    """Return an ``InferenceSession`` on the accelerator, or on the processor for None.

    Args:
        runtime: The module ``onnxruntime``.
        model: A complete ``.onnx`` file.
        settings: The runtime's own ``SessionOptions``.
        options: Which accelerator.

    Raises:
        ConfigError: The accelerator's name is unknown.
        MissingExtra: This build of onnxruntime does not have it.
        ModelError: It cannot start here, cannot open the model, or takes no part of it.
    """
    if options.accelerator is None:
        return _session(runtime, model, settings, [CPU])
    check_accelerator("onnx", options.accelerator)
    name, values = _parse(options.accelerator)
    provider = PROVIDERS[name].name if name in PROVIDERS else name
    if provider not in runtime.get_available_providers():
        raise _not_built_in(name, provider, runtime)
    if provider in _NVIDIA:
        _load_libraries(runtime)
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = _session(runtime, model, settings, [(provider, values), *_behind(provider)])
    except Exception as error:
        raise _failed(name, "onnx", str(error)) from error
    _check_taken(session, name, provider, runtime)
    return session


def providers_here(runtime: Any) -> tuple[str, ...]:
    """Return the accelerators this build of onnxruntime has, by short name where there is one."""
    short = {provider.name: name for name, provider in PROVIDERS.items()}
    available: list[str] = runtime.get_available_providers()
    return tuple(short.get(one, one) for one in available if one not in _NO_ACCELERATORS)


def _session(runtime: Any, model: bytes, settings: Any, providers: list[Any]) -> Any:
    # With its fallback on, a damaged model makes it print to standard output.
    return runtime.InferenceSession(model, settings, providers=providers, enable_fallback=0)


def _behind(provider: str) -> list[str]:
    return [] if provider == CPU else [CPU]


def _load_libraries(runtime: Any) -> None:
    """Load CUDA and cuDNN from their wheels, or from where the system has them."""
    if not hasattr(runtime, "preload_dlls"):
        return  # onnxruntime before 1.21 finds the system's only
    with contextlib.redirect_stdout(io.StringIO()) as said:
        runtime.preload_dlls()
    if said.getvalue():
        log.debug("accelerator.libraries", extra={"said": said.getvalue()})


def _check_taken(session: Any, name: str, provider: str, runtime: Any) -> None:
    """Make sure that the provider is in use: ONNX Runtime leaves out what it cannot start."""
    if provider not in session.get_providers():
        why = _why_not_started(runtime, provider) or "its libraries or its device are missing"
        raise _failed(name, "onnx", f"it could not start: {why}")
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return  # onnxruntime before 1.24 does not tell
    parts = [part.ep_name for part in session.get_provider_graph_assignment_info()]
    taken = parts.count(provider)
    if parts and not taken:
        raise _failed(name, "onnx", f"it takes none of the model's {len(parts)} operators")
    log.info(
        "accelerator.taken",
        extra={"accelerator": name, "parts": taken, "parts_on_cpu": len(parts) - taken},
    )


def _why_not_started(runtime: Any, provider: str) -> str | None:
    """Ask the dynamic linker what a provider's library lacks: the runtime only logs it."""
    folder = Path(runtime.__file__).parent / "capi"
    stem = provider.removesuffix(_SUFFIX).lower()
    try:
        shared = folder / "libonnxruntime_providers_shared.so"
        ctypes.CDLL(str(shared), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{stem}.so"), os.RTLD_LAZY)
    except OSError as error:
        return str(error)
    return None


def _not_built_in(name: str, provider: str, runtime: Any) -> MissingExtra:
    here = ", ".join(providers_here(runtime)) or "none"
    remedies = [known.remedy for known in PROVIDERS.values() if known.name == provider]
    return MissingExtra(
        f"accelerator {name!r} needs {provider}, which this onnxruntime "
        f"({runtime.__version__}) was built without",
        where="backend 'onnx'",
        expected=f"an accelerator of this machine: {here}",
        remedy=remedies[0] if remedies else _OWN_BUILD,
    )


# --- TFLite ---------------------------------------------------------------------------


def open_interpreter(
    backend: str, interpreter_type: Any, model: bytes, options: SessionOptions
) -> Any:
    """Return an ``Interpreter`` with the accelerator's delegate, or without one for None.

    Its tensors are not allocated yet.

    Raises:
        ConfigError: The accelerator's name is unknown.
        MissingExtra: Its library is not on this machine.
        ModelError: It cannot start here, refuses the model, or takes no part of it.
    """
    arguments = {"model_content": model, "num_threads": options.threads}
    if options.accelerator is None:
        return interpreter_type(**arguments)
    check_accelerator(backend, options.accelerator)
    name, values = _parse(options.accelerator)
    # Loaded first without: what is wrong with the model is not the delegate's fault.
    operators = _operators(interpreter_type(**arguments))
    delegate = _delegate(backend, interpreter_type, name, values)
    try:
        interpreter = interpreter_type(**arguments, experimental_delegates=[delegate])
    except Exception as error:
        raise _failed(name, backend, str(error)) from error
    # Each part of the model that a delegate takes becomes one more operator.
    if _operators(interpreter) == operators:
        raise _failed(name, backend, f"it takes none of the model's {operators} operators")
    log.info("accelerator.taken", extra={"accelerator": name})
    return interpreter


def delegates_here() -> tuple[str, ...]:
    """Return the delegates whose library is on this machine, by short name."""
    return tuple(name for name, one in DELEGATES.items() if one.file and _is_installed(one.file))


def _delegate(backend: str, interpreter_type: Any, name: str, values: Mapping[str, str]) -> Any:
    library = name if _is_library(name) else DELEGATES[name].file
    if library is None or not _is_installed(library):
        raise _no_library(name, library, backend)
    load = sys.modules[interpreter_type.__module__].load_delegate
    try:
        return load(library, dict(values))
    except Exception as error:
        raise _failed(name, backend, str(error) or "its library said no") from error


def _operators(interpreter: Any) -> int:
    # There is no public way to learn what a delegate took.
    describe = getattr(interpreter, "_get_ops_details")  # noqa: B009 - private on purpose
    return len(describe())


def _is_library(name: str) -> bool:
    return "/" in name or name.endswith((".so", ".dylib", ".dll"))


def _is_installed(library: str) -> bool:
    if Path(library).is_file():
        return True
    return any((folder / library).exists() for folder in _library_folders())


def _library_folders() -> list[Path]:
    """Return where the dynamic linker looks, near enough."""
    named = os.environ.get("LD_LIBRARY_PATH", "") + ":" + os.environ.get("DYLD_LIBRARY_PATH", "")
    triplet = f"{platform.machine()}-linux-gnu"
    usual = ["/usr/local/lib", "/usr/lib", "/lib", "/usr/lib64", "/opt/homebrew/lib"]
    usual += [f"/usr/lib/{triplet}", f"/lib/{triplet}", f"/usr/local/lib/{triplet}"]
    return [Path(folder) for folder in [*named.split(":"), *usual] if folder]


def _no_library(name: str, library: str | None, backend: str) -> MissingExtra:
    known = DELEGATES.get(name)
    return MissingExtra(
        f"accelerator {name!r} needs the library {library}, which is not on this machine"
        if library
        else f"accelerator {name!r} does not exist for {sys.platform}",
        where=f"backend {backend!r}",
        expected=f"a delegate of this machine: {', '.join(delegates_here()) or 'none'}",
        remedy=known.remedy if known else "Correct the path to the delegate's library.",
    )


# --- both -----------------------------------------------------------------------------


def _parse(accelerator: str) -> tuple[str, dict[str, str]]:
    """Part ``name:key=value,key=value``."""
    name, _, rest = accelerator.partition(":")
    pairs = [pair.partition("=") for pair in rest.split(",") if pair]
    if not name or not all(key and is_pair for key, is_pair, _ in pairs):
        raise ConfigError(
            f"accelerator is {accelerator!r}",
            expected="NAME, or NAME:key=value,key=value",
            remedy="Such as cuda, or openvino:device_type=GPU.",
        )
    return name, {key: value for key, _, value in pairs}


def _failed(name: str, backend: str, why: str) -> ModelError:
    return ModelError(
        f"accelerator {name!r} does not run the model: {' '.join(why.split())[:600]}",
        where=f"backend {backend!r}",
        expected="an accelerator that takes at least a part of the model",
        remedy="See what this machine has: edge-runtime doctor; or leave the accelerator out.",
    )


def _expected(known: tuple[str, ...], backend: str) -> str:
    if not known:
        return "none: it computes on the processor alone"
    raw = "a provider's full name" if backend == "onnx" else "the path of a delegate's library"
    return f"one of {', '.join(known)}, or {raw}"


def _other_backend(name: str) -> str | None:
    if name in DELEGATES:
        return f"{name!r} is a TFLite delegate: choose backend litert."
    if name in PROVIDERS or name.endswith(_SUFFIX):
        return f"{name!r} is one of ONNX Runtime's: choose backend onnx."
    return None
