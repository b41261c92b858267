"""Options of the webhook, checked when they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError

__all__ = ["WebhookConfig"]

Seconds = Annotated[float, Meta(gt=0, le=3600)]


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a webhook.

    Attributes:
        url: Where rows are posted to, http or https.
        estimates: Whether estimates are sent, or decisions alone.
        aside: Whether samples that came too late, or with wild stamps, are sent.
        secret_file: File with the key that signs every body, mode 0600.
        ca_file: Certificates to trust in place of the system's, PEM.
        every_s: Shortest time between two posts; what comes meanwhile goes together.
        batch: Most rows in a post.
        timeout_s: Longest time for a post, from connecting to the answer.
        attempts: How often a post is tried before its rows are dropped.
        queue: Rows that may wait; when full, the oldest gives way (``drop_oldest``).
        close_s: Longest time that closing waits for what is left.
    """

    url: str
    estimates: bool = False
    aside: bool = False
    secret_file: Path | None = None
    ca_file: Path | None = None
    every_s: Annotated[float, Meta(ge=0, le=3600)] = 1.0
    batch: Annotated[int, Meta(ge=1, le=10_000)] = 100
    timeout_s: Seconds = 10.0
    attempts: Annotated[int, Meta(ge=1, le=100)] = 8
    queue: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    close_s: Annotated[float, Meta(ge=0, le=60)] = 5.0

    def __post_init__(self) -> None:
        if not _is_usable(self.url):
            raise ConfigError(
                # Without its path and query: they may hold a key.
                f"url begins with {self.url.partition('?')[0][:20]!r}",
                expected="http://HOST[:PORT]/PATH or https://…, without user, password or #",
                remedy="Correct url; secrets belong into secret_file.",
            )

    @property
    def parts(self) -> SplitResult:
        """The parts of the URL."""
        return urlsplit(self.url)


def _is_usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_there = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and " " not in url
    is_open = parts.username is None and parts.password is None and not parts.fragment
    return parts.scheme in ("http", "https") and is_there and is_plain and is_open
