"""Environments are locked by hashes, found by them, and never half made."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path

import pytest

from edge_converters.workers import environments
from edge_converters.workers.environments import (
    ENVIRONMENTS,
    Environment,
    environment,
    sync,
)
from edge_runtime.errors import ConfigError, ModelError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody's own environments are touched."""
    monkeypatch.setenv("EDGE_RUNTIME_WORKERS", str(tmp_path / "workers"))
    return tmp_path / "workers"


@pytest.mark.parametrize("one", ENVIRONMENTS.values(), ids=lambda one: one.name)
def test_every_package_is_locked_by_version_and_hash(one: Environment) -> None:
    """And no lock file names a host."""
    text = one.lock.read_text()
    entries = re.split(r"\n(?=\S)", text.strip())

    assert one.pins
    assert all(re.match(r"[\w.-]+==\S+", entry) for entry in entries)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_another_lock_is_another_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was installed from an older lock is never taken for a newer one."""
    one = ENVIRONMENTS["sklearn"]
    before = one.folder
    changed = tmp_path / "sklearn.txt"
    changed.write_text(one.lock.read_text() + "\n")
    monkeypatch.setattr(environments, "_LOCKS", tmp_path)

    assert one.folder != before
    assert one.folder.name.startswith("sklearn-")


def test_an_unknown_environment_is_a_mistake_of_the_caller() -> None:
    """With the names there are."""
    with pytest.raises(ConfigError, match="keras, sklearn, torch, verify-legacy"):
        environment("caffe")


def test_a_full_disk_is_said_before_anything_is_fetched(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how much it needs."""
    huge = Environment("sklearn", "huge", size_mb=1 << 40)
    monkeypatch.setitem(ENVIRONMENTS, "sklearn", huge)

    with pytest.raises(ModelError, match="MB are free"):
        sync("sklearn")
    assert not cache.exists()


def test_an_interpreter_without_packages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """tflite-runtime ended with Python 3.11."""
    old = Environment("verify-legacy", "old", 1, ((3, 7), (3, 8)))
    monkeypatch.setitem(ENVIRONMENTS, "verify-legacy", old)

    with pytest.raises(ConfigError, match=r"Python 3\.7 to 3\.8"):
        sync("verify-legacy")


@pytest.mark.parametrize(
    ("machine", "version"), [("aarch64", (3, 11)), ("x86_64", (3, 12)), ("x86_64", (3, 13))]
)
def test_pytorch_on_linux_is_the_build_for_processors_alone(
    monkeypatch: pytest.MonkeyPatch, machine: str, version: tuple[int, int]
) -> None:
    """Where its lock has none, gigabytes of CUDA do not come instead; and it is said what does."""
    monkeypatch.setattr(environments.sys, "platform", "linux")
    monkeypatch.setattr(environments.sys, "version_info", (*version, 0, "final", 0))
    monkeypatch.setattr(environments.platform, "machine", lambda: machine)

    with pytest.raises(ConfigError, match=r"expected Python 3\.11 on x86_64") as raised:
        sync("torch")

    assert "convert env use torch PYTHON" in raised.value.remedy


def test_no_lock_brings_cuda() -> None:
    """On Linux the version is one that no package with CUDA has."""
    text = ENVIRONMENTS["torch"].lock.read_text()

    assert re.findall(r"^torch==(\S+) ; (.*) \\$", text, re.M) == [
        ("2.13.0", "sys_platform == 'darwin'"),
        ("2.13.0+cpu", "sys_platform == 'linux'"),
    ]
    assert not any("nvidia" in name or "cuda" in name for name in ENVIRONMENTS["torch"].pins)


@pytest.mark.slow
def test_a_build_that_is_nowhere_to_be_found_says_where_to_look(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or which interpreter to take instead."""
    if (sys.platform, platform.machine(), sys.version_info[:2]) != ("linux", "x86_64", (3, 11)):
        pytest.skip("there is a lock for this machine in another way")
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(cache / "nothing"))

    with pytest.raises(ModelError, match="build for processors") as raised:
        sync("torch")

    assert "PIP_FIND_LINKS" in raised.value.remedy
    assert "env use torch PYTHON" in raised.value.remedy


@pytest.mark.slow
def test_without_a_network_nothing_is_left_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A half-made environment is never found, and the message says what is missing."""
    for name in ("PIP_NO_INDEX", "UV_NO_INDEX", "UV_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(cache / "nothing"))

    with pytest.raises(ModelError, match=r"could not be made(.|\n)*Connect this machine"):
        sync("sklearn")

    assert not ENVIRONMENTS["sklearn"].is_ready
    assert [one.name for one in cache.iterdir()] == [".sklearn.lock"]
