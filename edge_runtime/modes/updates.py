"""Does what the update agents ask for: on which thread, and in which order."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from edge_runtime.errors import EdgeError
from edge_runtime.modes.serving import Serving
from edge_runtime.pipeline import Pipeline
from edge_runtime.ports import Message
from edge_runtime.spec import Layer
from edge_runtime.sync.messages import BlobChunk, Job, encode
from edge_runtime.sync.topics import Topics
from edge_runtime.update.actions import (
    Action,
    ActivateBase,
    ActivateLayers,
    Admit,
    Report,
    Request,
)
from edge_runtime.update.admission import Admission, admit
from edge_runtime.update.agent import UpdateAgent

__all__ = ["Updates"]

log = logging.getLogger(__name__)

_TICK_NS = 1_000_000_000
