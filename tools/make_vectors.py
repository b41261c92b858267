"""Write the test vectors of the sync protocol into ``tests/vectors``.

Each vector is an input, the bytes on the wire in hex, and what they mean, or the
refusal they must meet. What zlib writes differs between its builds, so that a frame is
compared with its body unpacked.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_runtime.errors import WireError
from edge_runtime.sync.frames import RowFrame, decode_frame, encode_frame
from edge_runtime.sync.messages import (
    Ack,
    Answer,
    Answers,
    BlobChunk,
    BlobRequest,
    BoardTimes,
    CloudState,
    Command,
    FileTime,
    Job,
    JobReport,
    Last,
    LastRow,
    Life,
    Signed,
    decode,
    encode,
)
from edge_runtime.sync.topics import Topics
from edge_runtime.types import Table

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "vectors"
INCARNATION = 2**63 - 1
T0_NS = 1_700_000_000_000_000_000
SIGNED = Signed(b"statement", "0123456789abcdef", bytes(range(64)))

MESSAGES = {
    "ack": Ack("pump-1", INCARNATION, 3, "main", 700),
    "ack-resume": Ack("pump-1", 7, 3, "main", 500, must_resume=True),
    "life-birth": Life(
        "pump-1",
        3,
        INCARNATION,
        is_online=True,
        base={"main": "ab" * 32},
        effective={"main": "cd" * 8},
        runtime="0.1.0",
        streams={"main": Answers("fan@1.0.0", ("ok", "worn"), ("worn",), "")},
    ),
    "life-times": Life(
        "pump-1",
        3,
        INCARNATION,
        is_online=True,
        base={"main": "ab" * 32},
        board_times={
            "main": BoardTimes(
                "ab" * 32,
                "raspberry-pi-4",
                "0123456789ab",
                "Raspberry Pi 4 Model B Rev 1.4",
                T0_NS,
                (FileTime("cd" * 32, "litert", 412.5),),
            )
        },
    ),
    "life-will": Life("pump-1", 3, INCARNATION, is_online=False),
    "last": Last("pump-1", T0_NS, {"main": LastRow(T0_NS, {"nox": 82.5}, ("high",), ("stuck",))}),
    "job": Job("j-1", "pump-1", "main", "turbine", T0_NS, SIGNED, (SIGNED,), "ab" * 32),
    "job-report": JobReport("j-1", "pump-1", "main", "refused", "clamp: too large", "", {"s": 0.5}),
    "blob-request": BlobRequest("pump-1", "ab" * 32, 8, 8),
    "blob-chunk": BlobChunk("ab" * 32, 8, 80, b"\x00\x01\xfe\xff"),
    "command": Command("c-1", "log-level", {"level": "debug"}, T0_NS),
    "answer": Answer("c-1", "pump-1", "done", {"level": "debug", "before": "info"}, "", T0_NS),
    "answer-refused": Answer("c-2", "pump-1", "refused", {}, "no command 'dance'", T0_NS),
    "cloud-online": CloudState(is_online=True, made_ns=T0_NS),
}
TYPES = {type(message).__name__: type(message) for message in MESSAGES.values()}

BAD_MESSAGES: dict[str, tuple[str, object]] = {
    "another version": ("Ack", {**msgspec.structs.asdict(MESSAGES["ack"]), "v": 2}),
    "a checksum of other fields": ("Ack", {**MESSAGES["ack"].sealed(), "upto": 701}),
    "a field is missing": ("Ack", {"device": "pump-1", "v": 1}),
    "a name breaks the grammar": ("BlobRequest", ["pump"]),
    "an upper-case device": (
        "Ack",
        {"device": "Pump", "incarnation": 1, "epoch": 1, "stream": "main", "upto": 1},
    ),
    "a negative number": (
        "Ack",
        {"device": "pump", "incarnation": 1, "epoch": -1, "stream": "main", "upto": 1},
    ),
    "a digest of another length": (
        "BlobRequest",
        {"device": "pump", "sha256": "ab", "first": 0, "n": 1},
    ),
    "too many chunks at once": (
        "BlobRequest",
        {"device": "pump", "sha256": "ab" * 32, "first": 0, "n": 65},
    ),
}


def frames() -> dict[str, RowFrame]:
    """Return frames that use every filter, dtype and limit worth showing."""
    steps = T0_NS + np.arange(4) * 10**9
    columns: dict[str, dict[str, np.ndarray]] = {
        "integers": {"index": np.arange(5), "time_ns": T0_NS + np.array([0, 10, 20, 30, 41])},
        "small-integers": {
            "u8": np.array([0, 255, 7], "u1"),
            "i16": np.array([-32768, 32767, 0], "<i2"),
            "u64": np.array([2**64 - 1, 0, 2**63], "<u8"),
            "flag": np.array([True, False, True]),
        },
        "decimals": {
            "celsius": np.array([21.5, 21.4, 21.7, -0.5]),
            "bar32": np.array([1.25, 1.5, 1.75, 2.0], "<f4"),
        },
        "raw-floats": {
            "x": np.array([np.nan, np.inf, -np.inf, -0.0]),
            "third": np.array([1 / 3, 2 / 3, 1e300, 5e-324]),
            "half": np.array([1.5, -2.0, 0.1, 65504.0], "<f2"),
        },
        "texts": {"label": np.array(["ok", "worn", "ok", "größer"])},
        "axes": {
            "end_ns": steps,
            "score": np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7], [0.25, 0.75]]),
            "image": np.arange(24, dtype="u1").reshape(4, 2, 3),
        },
        "decisions": {
            "index": np.array([639, 1279]),
            "label": np.array(["unbalance", "unbalance"]),
            "edge": np.array(["start", "end"]),
        },
    }
    made = {name: _frame(name, Table(table)) for name, table in columns.items()}
    made["gap"] = RowFrame("pump-1", "main", 3, 7, 100, 2**40, "gap", Table({}), reason="quota")
    made["thinned"] = RowFrame(
        "pump-1", "main", 3, 7, 498, 11, "estimate", Table({"x": np.arange(3)}), every=4
    )
    made["unknown-header-fields"] = msgspec.structs.replace(
        made["integers"], beyond={"site": "hall 3", "tags": [1, 2]}
    )
    return made


def _frame(name: str, table: Table) -> RowFrame:
    kind = "decision" if name == "decisions" else "estimate"
    stream = "main-decisions" if name == "decisions" else "main"
    return RowFrame(
        "pump-1", stream, 3, 7, 500, len(table), kind, table, clock="ntp", made_ns=T0_NS
    )


def meaning(frame: RowFrame) -> dict[str, Any]:
    """Return a frame as JSON: the header, and of each column its text or its bytes in hex."""
    header = {
        name: getattr(frame, name)
        for name in (
            *("device", "stream", "epoch", "incarnation", "seq0", "n"),
            *("kind", "reason", "clock", "made_ns", "every"),
        )
    }
    columns = {
        name: {
            "dtype": values.dtype.str,
            "shape": list(values.shape[1:]),
            **(
                {"texts": values.reshape(-1).tolist()}
                if values.dtype.kind == "U"
                else {"hex": values.tobytes().hex()}
            ),
        }
        for name, values in frame.table.columns.items()
    }
    return {**frame.beyond, **header, "columns": columns}


def unpacked(payload: bytes) -> Any:
    """Return a frame's envelope and header with its body inflated and without the checksum."""
    if payload[:1] == b"{":
        return json.loads(payload)
    envelope = msgspec.msgpack.decode(payload)
    frame = envelope["frame"]
    body = frame["body"]
    return {"v": envelope["v"], **frame, "body": zlib.decompress(body) if body else b""}


def _broken_frames() -> dict[str, bytes]:
    good = encode_frame(frames()["integers"])
    envelope = msgspec.msgpack.decode(good)
    return {
        "checksum": good.replace(b"estimate", b"estimatf"),
        "cut": good[:-3],
        "another version": _sealed(envelope["frame"], v=2),
        "more rows than columns hold": _sealed(envelope["frame"] | {"n": 6}),
        "no rows": _sealed(envelope["frame"] | {"n": 0}),
        "a gap with columns": _sealed(envelope["frame"] | {"kind": "gap"}),
        "an unknown kind": _sealed(envelope["frame"] | {"kind": "image"}),
        "a body that unfolds to more": _sealed(
            envelope["frame"] | {"body": zlib.compress(bytes(100))}
        ),
        "a column twice": _sealed(
            envelope["frame"] | {"columns": [envelope["frame"]["columns"][0]] * 2}
        ),
        "a filter nobody knows": _sealed(
            envelope["frame"]
            | {"columns": [[*envelope["frame"]["columns"][0][:3], "magic", 5, 0, 0, 1]]}
        ),
        "no map": b"\x93\x01\x02\x03",
    }


def _sealed(frame: dict[str, Any], v: int = 1) -> bytes:
    inner = msgspec.msgpack.encode(frame)
    return msgspec.msgpack.encode({"crc32": zlib.crc32(inner), "frame": frame, "v": v})


def message_vectors() -> dict[str, Any]:
    """Return the vectors of all messages."""
    valid = [_message(name, encode(message), message) for name, message in MESSAGES.items()]
    state = MESSAGES["cloud-online"]
    valid.append(_message("unknown-field", encode(state, beyond={"region": "north"}), state))
    readable = b'{"is_online":true,"made_ns":1700000000000000000,"v":1}'
    valid.append(_message("readable", readable, state))
    invalid = [
        _refused(name, msgspec.msgpack.encode(value), kind)
        for name, (kind, value) in BAD_MESSAGES.items()
    ]
    return {"valid": valid, "invalid": invalid}


def _message(name: str, payload: bytes, message: msgspec.Struct) -> dict[str, Any]:
    kind = type(message).__name__
    return {
        "name": name,
        "type": kind,
        "value": msgspec.to_builtins(message),
        "payload": payload.hex(),
    }


def _refused(name: str, payload: bytes, kind: str) -> dict[str, Any]:
    try:
        decode(payload, TYPES[kind])
    except WireError as error:
        return {"name": name, "type": kind, "payload": payload.hex(), "refusal": error.what}
    raise AssertionError(f"{name} is not refused")


def frame_vectors() -> dict[str, Any]:
    """Return the vectors of all frames."""
    valid = [
        {"name": name, "value": meaning(frame), "payload": encode_frame(frame).hex()}
        for name, frame in frames().items()
    ]
    readable = frames()["decimals"]
    payload = encode_frame(readable, json=True)
    valid.append({"name": "readable", "value": meaning(readable), "payload": payload.hex()})
    return {"valid": valid, "invalid": [_refused_frame(*one) for one in _broken_frames().items()]}


def _refused_frame(name: str, payload: bytes) -> dict[str, str]:
    try:
        decode_frame(payload)
    except WireError as error:
        return {"name": name, "payload": payload.hex(), "refusal": error.what}
    raise AssertionError(f"{name} is not refused")


def topic_vectors() -> dict[str, Any]:
    """Return topics taken apart, and topics that are none of ours."""
    topics = Topics()
    good = [
        *(topics.up("pump-1", leaf) for leaf in ("life", "last", "blob", "evt", "job/j-1")),
        topics.tel("pump-1", "main-decisions"),
        *(topics.dn("pump-1", leaf) for leaf in ("ack", "job", "blob", "cmd")),
        topics.all_cloud,
    ]
    bad = ["er/2/d/pump-1/up/life", "er/1/d/Pump/up/life", "er/1/d/p/up/tel/a/b", "er/1/d/p/life"]
    return {
        "valid": [
            {"topic": topic, "value": msgspec.to_builtins(topics.parse(topic))} for topic in good
        ],
        "invalid": bad,
    }


# What a cloud answers to frames of one stream, [seq0, n] each, given what came before.
DELIVERY = [
    {"says": "the first rows", "frame": [0, 10], "upto": 10, "must_resume": False},
    {"says": "the same again", "frame": [0, 10], "upto": 10, "must_resume": False},
    {"says": "half of it is known", "frame": [5, 10], "upto": 15, "must_resume": False},
    {"says": "too early", "frame": [20, 10], "upto": 15, "must_resume": True},
    {"says": "what was missing", "frame": [15, 5], "upto": 20, "must_resume": False},
    {"says": "now it fits", "frame": [20, 10], "upto": 30, "must_resume": False},
    {"says": "rows are lost", "gap": [30, 1000], "upto": 1030, "must_resume": False},
    {"says": "and on", "frame": [1030, 1], "upto": 1031, "must_resume": False},
]


def vectors() -> dict[str, Any]:
    """Return the content of every file, by its name."""
    return {
        "messages.json": message_vectors(),
        "frames.json": frame_vectors(),
        "topics.json": topic_vectors(),
        "delivery.json": DELIVERY,
    }


def main() -> int:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in vectors().items():
        text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
        (FOLDER / name).write_text(text + "\n")
        print(FOLDER / name)
    return 0


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value))


if __name__ == "__main__":
    sys.exit(main())
