"""Sources of the kernel and of serial ports keep their contract, on stand-ins that deliver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from edge_runtime import registry
from edge_runtime.ports import LiveSource
from edge_runtime.sources.iio import IioConfig, IioSource
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import check_live_source
from edge_runtime.testing.iio import FakeIio
from edge_runtime.testing.serial import FakeSerial

NEED = StreamSpec((ChannelSpec("x"), ChannelSpec("y")), 100.0)


@contextmanager
def _iio(folder: Path) -> Iterator[Callable[[], LiveSource]]:
    axes = {"x": "le:s13/16>>0", "y": "be:u12/16>>4"}
    kernel = FakeIio(folder, elements=axes, rates_hz=(100.0,))
    config = IioConfig(device="adxl345", root=kernel.root, nodes=kernel.nodes)
    with kernel.playing(100.0, block=4):
        yield lambda: IioSource(config, kernel=kernel)
    kernel.close()


@contextmanager
def _serial(folder: Path) -> Iterator[Callable[[], LiveSource]]:
    port = FakeSerial(folder)
    lines = {"kind": "delimited", "fields": ["x", "y"]}

    def make() -> LiveSource:
        options = {"port": str(port.port), "format": lines}
        source: LiveSource = registry.create("sources", "serial", options)
        return source

    with port.playing(100.0, lambda number: b"%d,%d\n" % (number, -number)):
        yield make
    port.close()


LIVE: Mapping[str, Callable[[Path], AbstractContextManager[Callable[[], LiveSource]]]] = {
    "iio": _iio,
    "serial": _serial,
}


@pytest.mark.parametrize("kind", sorted(LIVE))
def test_live_source_keeps_its_contract(tmp_path: Path, kind: str) -> None:
    """A live source delivers, counts what it misses, and is woken by a close."""
    with LIVE[kind](tmp_path) as make:
        check_live_source(make, NEED)
