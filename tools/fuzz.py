"""Throw bytes at everything that reads bytes from outside, guided by coverage (atheris).

    python tools/fuzz.py frame --seconds 60

A target may raise `WireError` and nothing else, must answer within ten seconds and stay
below 400 MiB. What breaks that is written to ``crash-*`` here; put it into
``tests/vectors/frames`` once it is mended, and it is tried by the tests for ever.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

SEEDS = Path(__file__).resolve().parent.parent / "tests" / "vectors" / "frames"
MAX_BYTES = 98_304
RSS_LIMIT_MB = 400
INCONCLUSIVE = 4

Reader = Callable[[bytes], object]


def main() -> int:
    """Fuzz one target for a time; 1 if it broke, 4 if atheris is not installed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("target", choices=("frame", "raw", "message", "topic", "body"))
    parser.add_argument("--seconds", type=int, default=60)
    args = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: nothing was fuzzed")
        return INCONCLUSIVE
    with atheris.instrument_imports(include=["edge_runtime.sync"]):
        target = targets()[args.target]
    with tempfile.TemporaryDirectory() as found:
        write_seeds(Path(found), args.target)
        options = [
            f"-max_total_time={args.seconds}",
            f"-max_len={MAX_BYTES}",
            f"-rss_limit_mb={RSS_LIMIT_MB}",
            "-timeout=10",
            "-print_final_stats=1",
            found,
        ]
        atheris.Setup([sys.argv[0], *options], target)
        # Ends the process by itself, with 0 when the time is over.
        atheris.Fuzz()
    return 0


def write_seeds(folder: Path, target: str) -> None:
    """Start from the collection; for ``frame`` from what lies within the envelopes."""
    import msgspec

    for path in SEEDS.glob("*.bin"):
        content = path.read_bytes()
        if target == "frame":
            try:
                content = bytes(
                    msgspec.msgpack.decode(content, type=dict[str, msgspec.Raw])["frame"]
                )
            except (msgspec.MsgspecError, RecursionError, KeyError):
                continue
        (folder / path.stem).write_bytes(content)


def targets() -> dict[str, Reader]:
    """Return what is fuzzed; the imports happen here, so that they are instrumented."""
    import msgspec

    from edge_runtime.errors import WireError
    from edge_runtime.sync import messages
    from edge_runtime.sync.frames import decode_frame
    from edge_runtime.sync.identity import messages as bodies
    from edge_runtime.sync.topics import Topics

    structs = [getattr(messages, name) for name in messages.__all__ if name[0].isupper()]
    kinds = [kind for kind in structs if isinstance(kind, type)]
    requests = [bodies.EnrollRequest, bodies.RenewRequest, bodies.Issued, bodies.Authority]

    def within_a_valid_envelope(data: bytes) -> None:
        """Random bytes would all end at the checksum."""
        envelope = {"v": 1, "crc32": zlib.crc32(data), "frame": msgspec.Raw(data or b"\xc0")}
        decode_frame(msgspec.msgpack.encode(envelope))

    def one_of(choices: Sequence[type], read: Callable[..., object]) -> Reader:
        return lambda data: read(data[1:], choices[data[0] % len(choices)]) if data else None

    def guarded(read: Reader) -> Reader:
        def call(data: bytes) -> None:
            with contextlib.suppress(WireError):
                read(data)

        return call

    return {
        "frame": guarded(within_a_valid_envelope),
        "raw": guarded(decode_frame),
        "message": guarded(one_of(kinds, messages.decode)),
        "topic": guarded(lambda data: Topics().parse(data.decode("utf-8", "replace"))),
        "body": guarded(one_of(requests, bodies.decode_body)),
    }


if __name__ == "__main__":
    sys.exit(main())
