"""The published test vectors: our code against them, and a reader that knows the document alone."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_cloud.store import Store
from edge_runtime.errors import WireError
from edge_runtime.sync.frames import RowFrame, decode_frame, encode_frame
from edge_runtime.sync.messages import decode, encode, unknown_fields
from edge_runtime.sync.topics import Topics
from edge_runtime.types import Table

from .conftest import load_module

FOLDER = Path(__file__).parent
independent = load_module(FOLDER / "independent.py")
maker = load_module(FOLDER.parents[1] / "tools" / "make_vectors.py")


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


MESSAGES, FRAMES, TOPICS = read("messages.json"), read("frames.json"), read("topics.json")


def name_of(vector: Any) -> str:
    return str(vector["name"])


def test_the_files_are_what_the_generator_writes() -> None:
    """Code that drifts from the vectors fails here; bodies are compared unpacked."""
    made = json.loads(json.dumps(maker.vectors(), default=maker._plain))

    for name, content in made.items():
        assert _comparable(content) == _comparable(read(name)), name


def _comparable(content: Any) -> Any:
    """Replace the payload of every valid frame by its meaning: zlib's builds differ."""
    if isinstance(content, dict) and "columns" in content.get("value", {}):
        return {**content, "payload": maker.unpacked(bytes.fromhex(content["payload"]))}
    if isinstance(content, dict) and "refusal" in content:
        return {name: value for name, value in content.items() if name != "payload"}
    if isinstance(content, dict):
        return {name: _comparable(value) for name, value in content.items()}
    return [_comparable(one) for one in content] if isinstance(content, list) else content


@pytest.mark.parametrize("vector", MESSAGES["valid"], ids=name_of)
def test_a_message_means_what_the_vector_says(vector: Any) -> None:
    """Bytes become the message, and the message becomes the bytes, unknown fields included."""
    payload, kind = bytes.fromhex(vector["payload"]), maker.TYPES[vector["type"]]

    message = decode(payload, kind)

    assert msgspec.json.decode(msgspec.json.encode(message)) == vector["value"]
    if payload[:1] != b"{":
        assert encode(message, beyond=unknown_fields(payload, kind)) == payload


@pytest.mark.parametrize("vector", MESSAGES["valid"], ids=name_of)
def test_the_document_suffices_for_messages(vector: Any) -> None:
    """A reader without our code finds every field of the vector."""
    vector = copy.deepcopy(vector)
    found = independent.as_json(independent.unpack(bytes.fromhex(vector["payload"])))

    if vector["type"] == "Ack":
        assert found.pop("crc32") == independent.ack_checksum(found)
        vector["value"].pop("crc32", None)
    assert found.items() >= vector["value"].items()


@pytest.mark.parametrize("vector", MESSAGES["invalid"], ids=name_of)
def test_a_bad_message_is_refused_for_its_reason(vector: Any) -> None:
    """The vector says what is wrong, and so does the error."""
    with pytest.raises(WireError) as caught:
        decode(bytes.fromhex(vector["payload"]), maker.TYPES[vector["type"]])

    assert caught.value.what == vector["refusal"]


@pytest.mark.parametrize("vector", FRAMES["valid"], ids=name_of)
def test_a_frame_means_what_the_vector_says(vector: Any) -> None:
    """Bytes become the rows, and the rows become the bytes, but for what zlib chooses."""
    payload = bytes.fromhex(vector["payload"])

    frame = decode_frame(payload)

    assert maker.meaning(frame) == vector["value"]
    again = encode_frame(built(vector["value"]), json=payload[:1] == b"{")
    assert maker.unpacked(again) == maker.unpacked(payload)


@pytest.mark.parametrize("vector", FRAMES["valid"], ids=name_of)
def test_the_document_suffices_for_frames(vector: Any) -> None:
    """A reader without our code finds the header and every bit of every column."""
    assert independent.read_frame(bytes.fromhex(vector["payload"])) == vector["value"]


@pytest.mark.parametrize("vector", FRAMES["invalid"], ids=name_of)
def test_a_bad_frame_is_refused_for_its_reason(vector: Any) -> None:
    """The vector says what is wrong, and so does the error."""
    with pytest.raises(WireError) as caught:
        decode_frame(bytes.fromhex(vector["payload"]))

    assert caught.value.what == vector["refusal"]


def test_the_example_of_the_document_is_the_vector() -> None:
    """Every byte that the page walks through stands in the payload."""
    page = (FOLDER.parents[1] / "docs" / "reference" / "protocol.md").read_text()
    example = page.split("### An example")[1].split("```")[1]
    payload = next(one["payload"] for one in FRAMES["valid"] if one["name"] == "integers")

    shown = re.findall(r"\b(?:[0-9a-f]{2})+\b", re.sub(r"\d+ bytes", "", example))

    assert len(payload) // 2 == 242
    assert len(shown) > 40
    assert [piece for piece in shown if piece not in payload] == []


def test_topics_are_taken_apart_as_the_vectors_say() -> None:
    """Valid ones have their parts, others are refused."""
    topics = Topics()

    parsed = [msgspec.to_builtins(topics.parse(one["topic"])) for one in TOPICS["valid"]]

    assert parsed == [one["value"] for one in TOPICS["valid"]]
    for topic in TOPICS["invalid"]:
        with pytest.raises(WireError):
            topics.parse(topic)


def test_a_cloud_answers_as_the_vectors_say(tmp_path: Path) -> None:
    """Known, early and lost rows get the acknowledgement that the document promises."""
    store = Store(tmp_path / "store")

    answers = [store.ingest([frame_of_step(step)])[0] for step in read("delivery.json")]

    expected = [(step["upto"], step["must_resume"]) for step in read("delivery.json")]
    assert [(ack.upto, ack.must_resume) for ack in answers] == expected
    store.close()


def frame_of_step(step: Any) -> RowFrame:
    seq0, n = step.get("frame") or step["gap"]
    table = Table({"x": np.arange(n)}) if "frame" in step else Table({})
    kind = "estimate" if "frame" in step else "gap"
    return RowFrame("pump-1", "main", 3, 7, seq0, n, kind, table)


def built(value: dict[str, Any]) -> RowFrame:
    """Make a frame of what a vector says."""
    header = {name: one for name, one in value.items() if name != "columns"}
    known = {name: one for name, one in header.items() if name in RowFrame.__struct_fields__}
    beyond = {name: one for name, one in header.items() if name not in known}
    columns = {name: array_of(one) for name, one in value["columns"].items()}
    return RowFrame(table=Table(columns), beyond=beyond, **known)


def array_of(column: dict[str, Any]) -> np.ndarray:
    if "texts" in column:
        return np.array(column["texts"], column["dtype"]).reshape(-1, *column["shape"])
    flat = np.frombuffer(bytes.fromhex(column["hex"]), column["dtype"])
    return flat.reshape(-1, *column["shape"])
