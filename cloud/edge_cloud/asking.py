"""Ask one device something and wait for its answer."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from edge_runtime.errors import WireError
from edge_runtime.ports import Clock, Connected, Message, Transport
from edge_runtime.sync.messages import Answer, Command, decode, encode
from edge_runtime.sync.topics import Topics

__all__ = ["ask"]

_AGAIN_NS = 1_000_000_000


def ask(
    transport: Transport,
    device: str,
    name: str,
    options: Mapping[str, str],
    *,
    timeout_s: float,
    clock: Clock,
    topics: Topics | None = None,
) -> Answer | None:
    """Send a command, once a second until it is answered; the device does it once.

    Args:
        transport: Not open yet; it is closed on return.
        device: Whom to ask.
        name: The command.
        options: Its options.
        timeout_s: How long to wait; also the command's deadline.
        clock: For the deadline and for waiting.
        topics: The topic tree.

    Returns:
        The answer, or None if none came in time: then nobody knows whether it was done.
    """
    topics = topics or Topics()
    deadline_ns = clock.now_ns() + round(timeout_s * 1e9)
    command = Command(f"ask-{secrets.token_hex(8)}", name, dict(options), deadline_ns)
    question = Message(topics.dn(device, "cmd"), encode(command))
    transport.open([topics.up(device, "evt")], None)
    try:
        return _answer_to(transport, question, command.id, timeout_s, clock)
    finally:
        transport.close()


def _answer_to(
    transport: Transport, question: Message, identity: str, timeout_s: float, clock: Clock
) -> Answer | None:
    end_ns = clock.monotonic_ns() + round(timeout_s * 1e9)
    again_ns = end_ns
    while (now_ns := clock.monotonic_ns()) < end_ns:
        event = transport.receive(max(min(again_ns, end_ns) - now_ns, 0) / 1e9)
        if isinstance(event, Message):
            answer = _read(event.payload)
            if answer is not None and answer.id == identity:
                return answer
        elif isinstance(event, Connected) or clock.monotonic_ns() >= again_ns:
            transport.publish(question)
            again_ns = clock.monotonic_ns() + _AGAIN_NS
    return None


def _read(payload: bytes) -> Answer | None:
    """Read an answer; what others send to that topic is passed over."""
    try:
        return decode(payload, Answer)
    except WireError:
        return None
