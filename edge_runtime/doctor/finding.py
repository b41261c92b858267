"""What the doctor says about one thing."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding", "State"]

State = Literal["ok", "warning", "problem", "unknown"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        topic: Such as ``clock`` or ``storage``.
        state: ``warning`` may hurt later, ``problem`` hurts now, ``unknown`` could
            not be found out here.
        what: What is.
        remedy: What to do; empty where nothing is to be done.
    """

    topic: str
    state: State
    what: str
    remedy: str = ""
