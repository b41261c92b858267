"""What to do about a worker that died, told by the end of its log."""

from __future__ import annotations

import re

__all__ = ["hint_of"]

# The first that fits counts; Source: facts measured with the pinned versions.
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"[Uu]nknown option: -P",
        "The interpreter is older than Python 3.11: name a newer one.",
    ),
    (
        r"[Ll]owering tensor list ops|[Ss]elect TF ops|flex",
        "A recurrent layer with a free batch cannot be lowered: give the model a fixed batch, "
        "Input(batch_shape=(1, …)), or export one step of it with its state as input and output.",
    ),
    (
        r"Lambda layer|safe_mode|unsafe deserialization",
        "Replace the Lambda layer by a layer of Keras or by a registered class: a Lambda is code.",
    ),
    (
        r"Could not locate (class|function)|Unknown layer|get_config|register_keras_serializable",
        "The model uses a class of your own: rewrite it with layers of Keras, or export a "
        "SavedModel where the class is known: model.export(folder).",
    ),
    (
        r"[Uu]nable to create node|MissingShapeCalculator|MissingConverter|Unable to find a shape",
        "A step of the pipeline has no ONNX converter: replace it, or do it in features of the "
        "bundle.",
    ),
    (
        r"InconsistentVersionWarning|_pickle\.|UnpicklingError|No module named '(?!sklearn)",
        "The pickle needs other versions or modules than the worker has: fit the model with the "
        "worker's scikit-learn (edge-runtime convert env show sklearn) and save it again.",
    ),
    (
        r"MemoryError|bad_alloc|SIGKILL|[Oo]ut of memory",
        "It ran out of memory: close other programs, or raise --limit-mb.",
    ),
    (
        r"SIGXCPU|SIGALRM|wall time",
        "It took too long: raise --limit-s, or convert a smaller model.",
    ),
    (
        r"SIGSEGV|SIGABRT|SIGBUS|SIGILL",
        "The framework's converter crashed; the tool and your files are unharmed. Recurrent layers "
        "with --precision int8 are known for it: use --precision float32.",
    ),
)
_OTHERWISE = "Read the log above; see edge-runtime convert paths for what is known to work."


def hint_of(log: str) -> str:
    """Return what to do about a death with such a log."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, log)), _OTHERWISE)
