"""A machine is known by what decides its speed."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.distributions import installed_version
from edge_runtime.machine import Machine, cores, memory_mb, processor, rss_mb


def test_this_machine_is_described() -> None:
    """Everything that is shown or hashed is there."""
    machine = Machine.here()

    assert machine.processor == processor()
    assert machine.runtimes["numpy"] == installed_version("numpy")
    assert 1 <= cores() <= machine.cores
    assert memory_mb() > rss_mb() > 0


def test_the_key_is_the_same_tomorrow() -> None:
    """Equal machines have equal keys, whatever the order of their packages."""
    one = Machine("cpu", 4, "aarch64", ("asimd",), {"numpy": "2", "onnxruntime": "1"})
    other = Machine("cpu", 4, "aarch64", ("asimd",), {"onnxruntime": "1", "numpy": "2"})

    assert one.key == other.key


@pytest.mark.parametrize(
    "change",
    [
        {"processor": "another"},
        {"cores": 2},
        {"architecture": "x86_64"},
        {"vectors": ("asimd", "asimddp")},
        {"runtimes": {"numpy": "3"}},
        {"runtimes": {}},
    ],
)
def test_any_change_changes_the_key(change: dict[str, object]) -> None:
    """A measurement on another machine, or with another runtime, is another one."""
    machine = Machine("cpu", 4, "aarch64", ("asimd",), {"numpy": "2"})

    assert msgspec.structs.replace(machine, **change).key != machine.key
