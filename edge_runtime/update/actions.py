"""What the update agent asks its caller to do."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edge_runtime.bundle import Bundle
from edge_runtime.spec import Layer
from edge_runtime.sync.messages import BlobRequest, JobReport

__all__ = ["Action", "ActivateBase", "ActivateLayers", "Admit", "Report", "Request", "Serving"]


class Request(msgspec.Struct, frozen=True):
    """Publish this request for chunks on ``up/blob``; losing it costs a time-out, no more."""

    message: BlobRequest


class Report(msgspec.Struct, frozen=True):
    """Publish this report on ``up/job/<id>``; an offer of the same job brings it again."""

    message: JobReport


class Admit(msgspec.Struct, frozen=True):
    """Prove an archive in a child process, off the network thread; answer `on_admitted`.

    Attributes:
        stream: Pipeline stream.
        digest: Of the bundle; goes back with the answer.
        path: Its verified archive.
    """

    stream: str
    digest: str
    path: Path


class ActivateLayers(msgspec.Struct, frozen=True):
    """Make this whole set live between two windows; answer `on_activated` or `on_failed`.

    Attributes:
        stream: Pipeline stream.
        layers: The complete set, in order; it replaces the one before.
        effective_id: What then runs; goes back with the answer.
    """

    stream: str
    layers: tuple[Layer, ...]
    effective_id: str


class ActivateBase(msgspec.Struct, frozen=True, eq=False):
    """Load this base and swap it in between two windows; answer `on_activated` or `on_failed`.

    Attributes:
        stream: Pipeline stream.
        bundle: Verified and admitted.
        layers: The layers that go live with it.
        effective_id: What then runs; goes back with the answer.
    """

    stream: str
    bundle: Bundle
    layers: tuple[Layer, ...]
    effective_id: str


Action = Request | Report | Admit | ActivateLayers | ActivateBase


class Serving(msgspec.Struct, frozen=True, eq=False):
    """What a stream starts with after a boot."""

    bundle: Bundle
    layers: tuple[Layer, ...]
