"""What a device says about itself."""

from __future__ import annotations

import numpy as np

from edge_runtime.modes.status import Made, stream_status
from edge_runtime.quality import MASK


def test_windows_are_counted_by_what_is_suspect_about_them() -> None:
    """A window with two flaws counts for both, and what is told once never changes."""
    made = Made()
    made.note_suspect(np.array([0, 1, 3], MASK))
    early = stream_status(made, None, {})

    made.note_suspect(np.array([2, 1 << 9], MASK))

    assert early.suspect == {"saturated": 2, "frozen": 1}
    assert stream_status(made, None, {}).suspect == {"saturated": 2, "frozen": 2, "bit_9": 1}
