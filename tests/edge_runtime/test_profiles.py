"""The device profile: what was said wins over what was measured, and that over the default."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import ConfigError
from edge_runtime.machine import Machine
from edge_runtime.ports import Choice
from edge_runtime.profiles import (
    Measured,
    Profile,
    _encoded,
    explain_choice,
    find_choice,
    profiles_folder,
    read_profile,
    write_profile,
)

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = load_bundle(ROOT / "examples/gas_turbine/bundles/turbine-nox-1.0.0")
LITERT = Choice("litert", "model_int8.tflite", 1, None, 128, 4)
ONNX = Choice("onnx", "model_int8.onnx", 2, None, 64)
TPU = Choice("litert", "model_int8.tflite", 1, "edgetpu", 1)


def _profile(bundle: Bundle = BUNDLE, machine: Machine | None = None) -> Profile:
    ranked = tuple(
        Measured(choice, "int8", 10.0 * place, 10.0 * place)
        for place, choice in enumerate([LITERT, ONNX, TPU], start=1)
    )
    return Profile(bundle.digest, bundle.ref, machine or Machine.here(), "latency", ranked, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A device's folder with a profile of the turbine."""
    write_profile(_profile(), tmp_path / "profiles")
    return tmp_path / "profiles"


def test_what_was_written_is_read(folder: Path) -> None:
    """A profile survives the disk as it was."""
    assert read_profile(folder, BUNDLE.digest) == _profile()


def test_the_best_is_found_where_nothing_was_said(folder: Path) -> None:
    """Without a word from the configuration the first place counts, and is explained."""
    found = explain_choice(BUNDLE, Choice(), folder)

    assert found.choice == LITERT
    assert found.is_tuned
    assert found.why == "tuned for latency: 10 µs a window"


@pytest.mark.parametrize(
    ("explicit", "expected"),
    [
        (Choice(backend="onnx"), ONNX),
        (Choice(threads=2), ONNX),
        (Choice(artefact="model_int8.onnx"), ONNX),
        (Choice(accelerator="edgetpu"), TPU),
        (Choice(block=8), msgspec.structs.replace(LITERT, block=8)),
    ],
)
def test_what_was_said_picks_among_what_was_measured(
    folder: Path, explicit: Choice, expected: Choice
) -> None:
    """A pinned backend gets the best way to run that backend."""
    assert find_choice(BUNDLE, explicit, folder) == expected


choices = st.builds(
    Choice,
    backend=st.sampled_from([None, "litert", "onnx", "reference"]),
    artefact=st.sampled_from([None, "model_int8.onnx", "other.tflite"]),
    threads=st.sampled_from([None, 1, 2, 7]),
    accelerator=st.sampled_from([None, "edgetpu", "cuda"]),
    block=st.sampled_from([32, 1, 8]),
    micro_batch=st.sampled_from([None, 5]),
)


@given(choices)
def test_what_was_said_always_stands(explicit: Choice) -> None:
    """No field that differs from its default is ever changed by a profile."""
    folder = profiles_folder()
    assert folder is not None
    write_profile(_profile(), folder)

    found = find_choice(BUNDLE, explicit)

    (folder / f"{BUNDLE.digest[:16]}-{Machine.here().key}.json").unlink()
    for name in Choice.__struct_fields__:
        said = getattr(explicit, name)
        if said != getattr(Choice(), name):
            assert getattr(found, name) == said


def test_an_unmeasured_wish_stands_alone(folder: Path) -> None:
    """What tune did not measure is run as said, without a mix of two choices."""
    found = explain_choice(BUNDLE, Choice(backend="onnx", threads=7), folder)

    assert found.choice == Choice(backend="onnx", threads=7)
    assert "did not measure" in found.why


def test_without_a_profile_the_default_counts(tmp_path: Path) -> None:
    """A bundle that was never tuned runs as configured."""
    found = explain_choice(BUNDLE, Choice(), tmp_path / "nowhere")

    assert found.choice == Choice()
    assert "never measured" in found.why


def test_another_runtime_invalidates_the_choice(tmp_path: Path) -> None:
    """After an upgrade the old figures are not used, and the reason is told."""
    here = Machine.here()
    before = msgspec.structs.replace(here, runtimes=here.runtimes | {"numpy": "0.1"})
    write_profile(_profile(machine=before), tmp_path)

    found = explain_choice(BUNDLE, Choice(), tmp_path)

    assert not found.is_tuned
    assert "of other runtimes" in found.why


def _damaged(content: bytes, how: str) -> bytes:
    return {
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "noise": bytes(range(256)),
        "another bundle": _encoded(msgspec.structs.replace(_profile(), bundle="0" * 64)),
        "nothing ranked": _encoded(msgspec.structs.replace(_profile(), ranked=())),
        "edited": content.replace(b'"threads":1', b'"threads":8'),
        "other fields": b'{"hello": 1}',
        "too large": content + b" " * (1 << 20),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "truncated",
        "empty",
        "noise",
        "another bundle",
        "nothing ranked",
        "edited",
        "other fields",
        "too large",
    ],
)
def test_a_damaged_profile_is_ignored_with_a_warning(
    folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A device starts with its defaults, and says why."""
    (path,) = folder.iterdir()
    path.write_bytes(_damaged(path.read_bytes(), how))

    with caplog.at_level(logging.WARNING):
        found = explain_choice(BUNDLE, Choice(), folder)

    assert found.choice == Choice()
    assert [record.message for record in caplog.records] == ["profile.unusable"]


@given(st.integers(0, 2000), st.integers(0, 255))
def test_no_damage_raises(place: int, byte: int) -> None:
    """Any byte of the file may be anything: the choice is what was stored, or the default."""
    folder = profiles_folder()
    assert folder is not None
    path = write_profile(_profile(), folder)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = byte
    path.write_bytes(content)

    found = find_choice(BUNDLE, Choice())

    path.unlink()
    assert found in (LITERT, Choice())


def test_a_failed_write_leaves_the_old_profile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is a message with a remedy; neither a half file nor a leftover stays."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = {path: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(ConfigError, match="No space left") as caught:
        write_profile(msgspec.structs.replace(_profile(), made_ns=2), folder)

    assert "--profiles" in caught.value.remedy
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_devices_own_profile_comes_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's profile counts only where the device has none."""
    users = tmp_path / "users"
    monkeypatch.setenv("EDGE_RUNTIME_PROFILES", str(users))
    theirs = msgspec.structs.replace(_profile(), ranked=_profile().ranked[1:])
    write_profile(theirs)

    assert find_choice(BUNDLE, Choice(), folder) == LITERT
    assert find_choice(BUNDLE, Choice(), tmp_path / "other") == ONNX


def test_the_users_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """EDGE_RUNTIME_PROFILES, then XDG_STATE_HOME, then the home folder."""
    monkeypatch.setenv("EDGE_RUNTIME_PROFILES", "/named")
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    monkeypatch.setenv("HOME", "/home/one")

    first = profiles_folder()
    monkeypatch.delenv("EDGE_RUNTIME_PROFILES")
    second = profiles_folder()
    monkeypatch.delenv("XDG_STATE_HOME")
    third = profiles_folder()

    assert [str(path) for path in (first, second, third)] == [
        "/named",
        "/xdg/edge-runtime/profiles",
        "/home/one/.local/state/edge-runtime/profiles",
    ]
