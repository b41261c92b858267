"""Real-time mode: models behind the Open Inference Protocol v2.

The core takes a `Request` to an `Answer` and knows no protocol: ``request``, ``served``,
``sequences``, ``repository``, ``lane``. HTTP is a shell around it: ``codec``, ``http``,
``shell``, ``server``. The numbers are those of the one `Pipeline`.
"""

from edge_runtime.modes.realtime.config import (
    Limits,
    ServeConfig,
    ServedConfig,
    TLSConfig,
    load_serve,
)
from edge_runtime.modes.realtime.server import RealtimeServer

__all__ = ["Limits", "RealtimeServer", "ServeConfig", "ServedConfig", "TLSConfig", "load_serve"]
