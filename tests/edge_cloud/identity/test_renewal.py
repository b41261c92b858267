"""A running device renews its certificate in time, and never by a clock that is not set."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest

from edge_runtime.backoff import Backoff
from edge_runtime.sync.identity.folder import IdentityFolder, Validity
from edge_runtime.sync.identity.renewal import Renewal
from edge_runtime.testing import FakeClock
from edge_simulator.secured import SecuredCloud

DAY_S = 86_400.0


class Device:
    """An enrolled device with a clock of its own."""

    def __init__(self, cloud: SecuredCloud, clock: FakeClock) -> None:
        self.folder = cloud.enroll("pump-1")
        self.clock = clock
        self.renewal = Renewal(self.folder, clock, backoff=Backoff(60, 3600, jitter=lambda: 1.0))

    @property
    def validity(self) -> Validity:
        validity = self.folder.validity()
        assert validity is not None
        return validity


@pytest.fixture
def device(cloud: SecuredCloud, clock: FakeClock) -> Device:
    return Device(cloud, FakeClock(clock.now_ns()))


def test_a_young_certificate_is_left_alone(device: Device) -> None:
    """Before two thirds of its life nothing is asked; the next look is within the hour."""
    before = device.validity
    device.clock.advance(59 * DAY_S)

    assert 0 < device.renewal.step() <= 3600
    assert device.validity == before


def test_it_is_renewed_at_two_thirds(
    device: Device, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Sixty days later the device has a certificate for the next ninety, and says so."""
    caplog.set_level(logging.INFO)
    before = device.validity
    for each in (device.clock, clock):
        each.advance(60 * DAY_S)

    device.renewal.step()

    assert device.validity.not_after_s == pytest.approx(before.not_after_s + 60 * DAY_S, abs=2)
    assert "identity.renewed" in caplog.messages


def test_the_next_look_is_before_the_next_renewal(tmp_path: Path) -> None:
    """A certificate for an hour and a half is not left for an hour again."""
    clock = FakeClock(time.time_ns())
    with SecuredCloud(tmp_path, clock=clock, days=5400 / DAY_S) as cloud:
        device = Device(cloud, FakeClock(clock.now_ns()))
        for each in (device.clock, clock):
            each.advance(5400 * 2 / 3)

        wait_s = device.renewal.step()

        left_s = device.validity.not_after_s - device.clock.now_ns() / 1e9
    assert 5390 < left_s <= 5400
    assert wait_s == pytest.approx(left_s - 2000, abs=2)


def test_a_clock_that_was_never_set_renews_nothing(device: Device) -> None:
    """In 1970 no certificate is old."""
    before = device.validity
    device.clock.jump(-device.clock.now_ns() / 1e9)

    assert device.renewal.step() > 0
    assert device.validity == before


def test_a_clock_far_ahead_costs_nothing_but_a_renewal(device: Device) -> None:
    """Ten years ahead the certificate looks expired: it is renewed, never thrown away."""
    device.clock.jump(3650 * DAY_S)

    device.renewal.step()

    assert device.folder.is_enrolled
    assert device.validity.not_after_s > 0


def test_a_cloud_that_does_not_answer_is_asked_again_later(
    device: Device, cloud: SecuredCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait doubles, the log says it once, and the old certificate stays."""
    before = device.validity
    cloud.close()
    device.clock.advance(60 * DAY_S)

    waits = [device.renewal.step() for _ in range(3)]

    assert waits == [60, 120, 240]
    assert caplog.messages.count("identity.not_renewed") == 1
    assert device.validity == before


def test_it_ends_when_told(device: Device) -> None:
    """The thread waits for hours, and not for its end."""
    thread = threading.Thread(target=device.renewal.run)
    thread.start()

    device.renewal.stop()
    thread.join(20)

    assert not thread.is_alive()


def test_without_an_identity_there_is_nothing_to_renew(tmp_path: Path) -> None:
    """A folder that is empty, or damaged, makes no noise."""
    folder = IdentityFolder(tmp_path)
    (tmp_path / "device.json").write_bytes(b"\xff")

    assert Renewal(folder, FakeClock()).step() > 0
