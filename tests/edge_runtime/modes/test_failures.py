"""A model that fails ends neither its device nor the streams beside it."""

from __future__ import annotations

import shutil
import threading
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_runtime.backends import process
from edge_runtime.config import load_device
from edge_runtime.modes import failures
from edge_runtime.modes.edge import EdgeDevice
from edge_runtime.modes.vitals import Crash
from edge_runtime.sources.csv import CsvSource

from .conftest import Backlog, replayed  # isort: skip

Events = list[tuple[str, dict[str, object]]]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch, misbehaving_here: str) -> None:
    monkeypatch.setattr(failures, "_WAIT_S", (0.0, 0.0))


def _run(odd_device: Any, **options: Any) -> tuple[EdgeDevice, Events]:
    events: Events = []
    device = EdgeDevice(
        load_device(odd_device.yaml),
        on_event=lambda name, facts: events.append((name, dict(facts))),
        **options,
    )
    for pace in options.get("paces", {}).values():
        pace.device = device
    device.run(drain_s=0.0)
    return device, events


class WhileServed:
    """A pace that waits while the model is being opened again."""

    def __init__(self) -> None:
        self.device: EdgeDevice | None = None
        self._never = threading.Event()

    def wait(self, index: int, time_ns: int, timeout_s: float) -> int:
        device = self.device
        assert device is not None
        if device._inbox.is_empty and not device._failures._states["odd"].is_away:
            return 8
        self._never.wait(min(timeout_s, 0.005))
        return 0


@pytest.mark.parametrize("do", ["fail", "count_fail", "wait", "wide"])
def test_a_failure_on_frames_that_are_answered_at_once_costs_none_by_itself(
    odd_device: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, do: str
) -> None:
    """Whatever fails: they are answered one by one from where the stream stood."""
    happened = odd_device.folder / "happened"
    odd_device.base("1", do=do, after=10**9)
    undisturbed = Backlog(monkeypatch, "odd").run(odd_device.declare())
    shutil.rmtree(odd_device.folder / "state")
    odd_device.base("1", do=do, after=20, once=str(happened))

    found = Backlog(monkeypatch, "odd").run(odd_device.declare(extra="record: {}\nwatchdog_s: 1"))

    assert happened.exists()
    assert [record.message for record in caplog.records].count("model.failed_at_once") == 1
    assert found == undisturbed
    assert odd_device.kept("odd") == odd_device.all_windows
    assert "model.failed" not in caplog.messages
    assert replayed(load_device(odd_device.yaml).recording)["odd"].is_equal


@pytest.mark.usefixtures("one_by_one")
def test_one_failure_costs_one_frame(odd_device: Any) -> None:
    """The model is opened again at once; what it did not answer is counted, not a window more."""
    odd_device.base("1", do="fail", after=100, once=str(odd_device.folder / "happened"))
    odd_device.declare()

    device, _ = _run(odd_device)

    odd = device.status().streams["odd"]
    lost = odd.discarded["model_failed"]
    assert 1 <= lost <= 8
    assert odd.estimates + lost == odd_device.windows
    assert len(odd_device.kept("odd")) == odd.estimates
    assert odd_device.kept("calm") == odd_device.all_windows


def test_a_model_that_always_fails_is_counted_and_the_rest_goes_on(odd_device: Any) -> None:
    """Without a base before it, the factory base is tried again and again; nothing else suffers."""
    odd_device.base("1", do="fail")
    odd_device.declare()

    device, _ = _run(odd_device)

    status = device.status().streams
    assert status["odd"].estimates == 0
    assert status["odd"].discarded["model_failed"] == odd_device.windows
    assert status["odd"].position == odd_device.rows
    assert odd_device.kept("calm") == odd_device.all_windows
    assert odd_device.record().quarantine == {}


def test_a_base_that_always_fails_gives_way_to_the_one_before(odd_device: Any) -> None:
    """After five failures in a row the base is in quarantine, and its factory base answers."""
    factory = odd_device.base("1", do="ok")
    bad = odd_device.base("2", do="fail")
    odd_device.declare()
    odd_device.commit(bad)

    device, events = _run(odd_device, paces={"odd": WhileServed()})

    record, odd = odd_device.record(), device.status().streams["odd"]
    assert record.active == factory.digest
    assert "it was told to" in record.quarantine[bad.digest]
    assert odd.base == factory.digest
    assert odd.estimates > 0
    assert odd.estimates + odd.discarded["model_failed"] == odd_device.windows
    assert [facts["base"] for name, facts in events if name == "base.activated"] == [factory.digest]
    assert odd_device.kept("calm") == odd_device.all_windows


@pytest.mark.slow
def test_children_that_die_again_and_again_give_a_base_up(
    odd_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``isolation: process`` a base that ends child after child gives way as well."""
    monkeypatch.setattr(process, "_BACK_OFF_S", (0.0, 0.0))
    factory = odd_device.base("1", do="ok")
    bad = odd_device.base("2", do="crash")
    odd_device.declare(", isolation: process")
    odd_device.commit(bad)

    device, _ = _run(odd_device, paces={"odd": WhileServed()})

    odd = device.status().streams["odd"]
    assert odd_device.record().active == factory.digest
    assert bad.digest in odd_device.record().quarantine
    assert odd.estimates > 0
    assert odd.estimates + odd.discarded["model_failed"] == odd_device.windows
    assert odd_device.kept("calm") == odd_device.all_windows


def test_two_crashes_of_a_base_put_the_one_before_in_its_place(odd_device: Any) -> None:
    """What the supervisor saw decides at the next start; the first crash alone does not."""
    factory = odd_device.base("1", do="ok")
    bad = odd_device.base("2", do="ok")
    odd_device.declare()
    odd_device.commit(bad)

    _run(odd_device, crashes={"odd": Crash(bad.digest, 1, "was killed by SIGSEGV")})
    assert odd_device.record().active == bad.digest
    _run(odd_device, crashes={"odd": Crash(bad.digest, 2, "was killed by SIGSEGV")})

    record = odd_device.record()
    assert record.active == factory.digest
    assert record.quarantine == {bad.digest: "crash: the device was killed by SIGSEGV 2 times"}


def test_a_factory_base_that_crashes_stays(odd_device: Any) -> None:
    """There is nothing behind the factory base: it is started again, and said to fail."""
    factory = odd_device.base("1", do="ok")
    odd_device.declare()

    device, _ = _run(odd_device, crashes={"odd": Crash(factory.digest, 9, "hung in a call")})

    assert odd_device.record().active == factory.digest
    assert device.status().streams["odd"].estimates == odd_device.windows


def test_crashes_of_another_base_do_not_count(odd_device: Any) -> None:
    """A base that has been replaced since is not mistaken for the present one."""
    odd_device.base("1", do="ok")
    good = odd_device.base("2", do="ok")
    odd_device.declare()
    odd_device.commit(good)

    _run(odd_device, crashes={"odd": Crash("0" * 64, 5, "hung in a call")})

    assert odd_device.record().active == good.digest


@pytest.mark.usefixtures("one_by_one")
def test_a_hung_call_is_interrupted_where_the_runtime_can_be(odd_device: Any) -> None:
    """A model that waits until it is told to stop fails, is counted, and the other goes on."""
    odd_device.base("1", do="wait", after=50, once=str(odd_device.folder / "happened"))
    odd_device.declare(extra="watchdog_s: 1")

    device, _ = _run(odd_device)

    odd = device.status().streams["odd"]
    assert odd.discarded["model_failed"] >= 1
    assert odd.estimates + odd.discarded["model_failed"] == odd_device.windows
    assert odd_device.kept("calm") == odd_device.all_windows


def test_no_thread_mends_a_device_that_has_ended(
    odd_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device whose recording ends while a model is away leaves no thread behind."""
    monkeypatch.setattr(failures, "_WAIT_S", (1000.0, 1000.0))
    odd_device.base("1", do="fail")
    odd_device.declare()

    _run(odd_device)

    assert [one.name for one in threading.enumerate() if one.name == "mend"] == []


def test_a_frame_of_a_wrong_shape_is_counted(
    odd_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that changes its sample type in the middle costs those samples alone."""
    read = CsvSource.read

    def odd_read(self: CsvSource, timeout_s: float) -> Any:
        frame = read(self, timeout_s)
        if frame is not None and frame.stream == "odd" and frame.index == 80:
            wide = np.repeat(frame.samples, 2, axis=1)
            return msgspec.structs.replace(frame, samples=wide)
        return frame

    odd_device.base("1", do="ok")
    odd_device.declare()
    monkeypatch.setattr(CsvSource, "read", odd_read)

    device, _ = _run(odd_device)

    odd = device.status().streams["odd"]
    assert odd.discarded["wrong_shape"] == 8
    assert odd.position == odd_device.rows
    assert odd_device.kept("calm") == odd_device.all_windows
