"""A device that means ill, on a Mosquitto as ``broker-config`` sets it up.

Judged by what is delivered: Mosquitto grants subscriptions that it will never serve.
"""

from __future__ import annotations

import time

import pytest

from edge_cloud.links import BRIDGE, HOME_ASSISTANT
from edge_runtime.sync.messages import Ack, CloudState, encode

from .conftest import MARK, PATIENCE_S, Party, Scene

pytestmark = pytest.mark.mosquitto


@pytest.mark.parametrize(
    "topic",
    [
        "er/1/d/good/up/tel/main",
        "er/1/d/good/up/life",
        "er/1/d/good/dn/job",
        "er/1/d/evil/dn/ack",
        "er/1/all/cloud",
        "elsewhere",
        "$share/x/er/1/d/good/up/last",
    ],
)
def test_a_device_cannot_publish_as_another(scene: Scene, topic: str) -> None:
    """What a device sends to a topic that is not its own to write reaches nobody."""
    ingest = scene.ingest()
    good = scene.device("good", "er/1/d/good/dn/#", "er/1/all/cloud")
    evil = scene.device("evil", "er/1/d/evil/dn/#")

    evil.send(topic, b"forged")
    evil.send("er/1/d/evil/up/last", MARK)

    assert ingest.until_mark() == []
    for device in ("good", "evil"):
        ingest.send(f"er/1/d/{device}/dn/ack", MARK)
    assert good.until_mark() == []
    assert evil.until_mark() == []


def test_a_retained_message_cannot_be_planted_for_another(scene: Scene) -> None:
    """Who comes later finds nothing that another device has left under its name."""
    evil = scene.device("evil")
    evil.send("er/1/d/good/dn/job", b"forged", retain=True)
    evil.send("er/1/all/cloud", encode(CloudState(is_online=False)), retain=True)
    ingest = scene.ingest()
    evil.send("er/1/d/evil/up/last", MARK)
    ingest.until_mark()

    good = scene.device("good", "er/1/d/good/dn/#", "er/1/all/cloud")
    ingest.send("er/1/d/good/dn/ack", MARK)

    assert good.until_mark() == []


@pytest.mark.parametrize(
    "filter_",
    [
        "er/1/d/good/#",
        "er/1/d/+/dn/#",
        "er/1/d/+/up/#",
        "+/+/+/+/+/+",
        "#",
        "$share/x/er/1/d/good/#",
        "$share/x/#",
        "$SYS/#",
    ],
)
def test_a_device_cannot_read_anothers(scene: Scene, filter_: str) -> None:
    """Whatever it subscribes to, a device gets its own messages and those for all."""
    ingest = scene.ingest()
    good = scene.device("good")
    good.send("er/1/d/good/up/last", b"retained secret", retain=True)
    evil = scene.device("evil", filter_, "er/1/d/evil/dn/cmd")

    good.send("er/1/d/good/up/tel/main", b"secret")
    good.send("er/1/d/good/up/last", MARK)
    ingest.until_mark()
    ingest.send("er/1/d/good/dn/job", b"secret")
    ingest.send("er/1/d/evil/dn/cmd", MARK)

    assert evil.until_mark() == []
    good.send("er/1/d/good/up/last", b"", retain=True)


def test_a_device_hears_its_own_and_the_cloud(scene: Scene) -> None:
    """The rules leave what a device needs: acks, jobs, and whether an ingest is online."""
    ingest = scene.ingest()
    good = scene.device("good", "er/1/d/good/dn/#", "er/1/all/cloud")
    ack = encode(Ack("good", 1, 1, "main", 5))

    ingest.send("er/1/d/good/dn/ack", ack)
    ingest.send("er/1/all/cloud", encode(CloudState(is_online=True)))
    ingest.send("er/1/d/good/dn/ack", MARK)

    assert [topic for topic, _ in good.until_mark()] == ["er/1/d/good/dn/ack", "er/1/all/cloud"]


def test_a_session_cannot_be_taken_by_its_name(scene: Scene) -> None:
    """Who connects under another's name is known by its certificate, and ends no session."""
    ingest = scene.ingest()
    good = scene.device("good", "er/1/d/good/dn/#")
    connections = good.transport.stats().connections_total

    evil = scene.device("evil", "er/1/d/good/dn/#", client_id="good")
    evil.send("er/1/d/evil/up/last", MARK)
    ingest.until_mark()

    ingest.send("er/1/d/good/dn/ack", MARK)
    assert good.until_mark() == []
    assert good.transport.stats().connections_total == connections


def test_two_processes_with_one_identity_do_not_fight_without_end(scene: Scene) -> None:
    """A copied identity costs both sides connections, and ever fewer of them."""
    scene.ingest()
    first = scene.device("good")
    second = scene.device("good")
    backoffs = [each.transport._backoff for each in (first, second)]

    deadline = time.monotonic() + PATIENCE_S
    while min(each._failures for each in backoffs) < 3 and time.monotonic() < deadline:
        first.transport.receive(0.1)
        second.transport.receive(0.1)

    assert min(each._failures for each in backoffs) >= 3


def test_a_revoked_device_is_silenced_in_its_open_session(own_scene: Scene) -> None:
    """Told of a revocation, the broker delivers nothing more from or to that device."""
    cloud = own_scene.cloud
    ingest = own_scene.ingest()
    good = own_scene.device("good", "er/1/d/good/dn/#")
    evil = own_scene.device("evil", "er/1/d/evil/dn/#")
    evil.send("er/1/d/evil/up/last", MARK)
    ingest.until_mark()

    cloud.devices.revoke("evil")
    cloud.tell_broker()
    _until_silenced(evil, good, ingest)

    evil.send_and_settle("er/1/d/evil/up/last", b"still here")
    ingest.send("er/1/d/evil/dn/job", b"secret")
    good.send("er/1/d/good/up/last", MARK)
    ingest.send("er/1/d/good/dn/ack", MARK)
    assert good.until_mark() == []
    assert ingest.until_mark() == []
    assert evil.transport.receive(0.3) is None


def _until_silenced(evil: Party, good: Party, ingest: Party) -> None:
    """Wait until the broker has read its files again."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        evil.send_and_settle("er/1/d/evil/up/last", b"probe")
        good.send("er/1/d/good/up/last", MARK)
        if ingest.until_mark() == []:
            return
    raise TimeoutError("the revoked device is still heard")


@pytest.mark.parametrize(
    "topic",
    [
        "homeassistant/device/evil/config",
        "homeassistant/sensor/evil/config",
        "homeassistant/status",
        "er/1/ha/bridge",
        "er/1/ha/d/evil/state/main",
        "$share/x/er/1/ha/bridge",
    ],
)
def test_a_device_cannot_write_what_home_assistant_is_shown(scene: Scene, topic: str) -> None:
    """Neither Home Assistant nor the bridge hears what a device sends there."""
    bridge = scene.bridge("homeassistant/status", "er/1/d/+/up/last")
    house = scene.home_assistant("homeassistant/#", "er/1/ha/#")
    evil = scene.device("evil")

    evil.send(topic, b"forged")
    evil.send("er/1/d/evil/up/last", MARK)

    assert bridge.until_mark() == []
    bridge.send("er/1/ha/bridge", MARK)
    assert house.until_mark() == []


@pytest.mark.parametrize("filter_", ["homeassistant/#", "er/1/ha/#", "#", "$share/x/er/1/ha/#"])
def test_a_device_cannot_read_what_home_assistant_is_shown(scene: Scene, filter_: str) -> None:
    """Whatever it subscribes to, it hears no discovery, no state and no birth."""
    ingest = scene.ingest()
    bridge = scene.bridge("homeassistant/status")
    house = scene.home_assistant("homeassistant/#", "er/1/ha/#")
    evil = scene.device("evil", filter_, "er/1/d/evil/dn/cmd")
    told = [("homeassistant/device/good/config", b"secret"), ("er/1/ha/bridge", b"secret")]

    for topic, payload in told:
        bridge.send(topic, payload)
    bridge.send("er/1/ha/bridge", MARK)
    assert house.until_mark() == told
    house.send("homeassistant/status", b"online")
    house.send("homeassistant/status", MARK)
    assert bridge.until_mark() == [("homeassistant/status", b"online")]
    ingest.send("er/1/d/evil/dn/cmd", MARK)

    assert evil.until_mark() == []


@pytest.mark.parametrize(
    ("client_id", "topic"),
    [
        *(
            (client_id, topic)
            for client_id in (BRIDGE, HOME_ASSISTANT)
            for topic in (
                "er/1/d/good/dn/job",
                "er/1/d/good/dn/cmd",
                "er/1/d/good/up/last",
                f"er/1/d/{client_id}/up/last",
                "er/1/all/cloud",
                "homeassistant/sensor/good/config",
            )
        ),
        (BRIDGE, "homeassistant/status"),
        (HOME_ASSISTANT, "homeassistant/device/good/config"),
        (HOME_ASSISTANT, "er/1/ha/bridge"),
    ],
)
def test_bridge_and_home_assistant_write_their_own_alone(
    scene: Scene, client_id: str, topic: str
) -> None:
    """Above all nothing to a device: neither a job nor a command."""
    ingest = scene.party(scene.cloud.role(), "er/1/d/+/up/#", "er/1/all/cloud")
    good = scene.device("good", "er/1/d/good/dn/#", "er/1/all/cloud")
    parties = {
        BRIDGE: scene.bridge("homeassistant/status"),
        HOME_ASSISTANT: scene.home_assistant("homeassistant/#", "er/1/ha/#"),
    }

    parties[client_id].send_and_settle(topic, b"forged")
    good.send("er/1/d/good/up/last", MARK)
    ingest.send("er/1/d/good/dn/ack", MARK)
    parties[BRIDGE].send("er/1/ha/bridge", MARK)
    parties[HOME_ASSISTANT].send("homeassistant/status", MARK)

    for party in (ingest, good, *parties.values()):
        assert party.until_mark() == []


@pytest.mark.parametrize("client_id", [BRIDGE, HOME_ASSISTANT])
@pytest.mark.parametrize("filter_", ["er/1/d/+/up/tel/+", "er/1/d/+/dn/#", "er/1/all/#", "#"])
def test_bridge_and_home_assistant_read_their_own_alone(
    scene: Scene, client_id: str, filter_: str
) -> None:
    """Rows, jobs and acknowledgements are for the cloud and each device."""
    ingest = scene.ingest()
    good = scene.device("good", "er/1/d/good/dn/ack")
    marks = {BRIDGE: "er/1/d/+/up/last", HOME_ASSISTANT: "er/1/ha/bridge"}
    curious = scene.party(scene.cloud.role(client_id), filter_, marks[client_id])

    for topic in ("er/1/d/good/dn/job", f"er/1/d/{client_id}/dn/job", "er/1/all/cloud"):
        ingest.send(topic, b"secret")
    ingest.send("er/1/d/good/dn/ack", MARK)
    good.until_mark()
    good.send("er/1/d/good/up/tel/main", b"secret")
    good.send("er/1/d/good/up/last", MARK)
    ingest.until_mark()
    if client_id == HOME_ASSISTANT:
        scene.bridge().send("er/1/ha/bridge", MARK)

    assert curious.until_mark() == []
