"""The Home Assistant bridge: devices appear, show their answers, and go away."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cloud.config import CloudConfig, HomeAssistantConfig, IdentityConfig
from edge_cloud.homeassistant import Bridge, Names, discovery_of, slug
from edge_cloud.homeassistant.cli import _Renewal
from edge_cloud.identity.authority import Authority
from edge_cloud.links import BRIDGE, HOME_ASSISTANT, link_of
from edge_runtime.cli import main
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.ports import Connected, Message
from edge_runtime.sync.messages import Answers, Last, LastRow, Life, encode
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.topics import Topics
from edge_runtime.testing import FakeClock
from edge_runtime.testing.transport import MemoryBroker
from edge_simulator.broker import Broker
from edge_simulator.secured import SecuredCloud

TOPICS, NAMES = Topics(), Names()
LIFE = Life(
    "pump-1",
    3,
    7,
    is_online=True,
    runtime="0.1.0",
    streams={
        "main": Answers("fan@1.0.0", ("ok", "Wörn out"), ("Wörn out",)),
        "nox": Answers("turbine@2", ("nox",), unit="mg/m³"),
    },
)

# What a device discovery may hold, after Home Assistant's own schema (DEVICE_DISCOVERY_SCHEMA in
# homeassistant/components/mqtt/schemas.py, core 2025) and the options that its documentation
# lists for MQTT sensor, binary sensor and event. True where a key is required.
TOP = {
    "device": True,
    "components": True,
    "origin": True,
    "availability": False,
    "availability_mode": False,
    "availability_topic": False,
    "state_topic": False,
    "command_topic": False,
    "qos": False,
    "encoding": False,
}
DEVICE = dict.fromkeys(
    (
        *("identifiers", "connections", "manufacturer", "model", "model_id", "name"),
        *("hw_version", "serial_number", "sw_version", "via_device", "suggested_area"),
        "configuration_url",
    ),
    False,
)
ORIGIN = {"name": True, "sw_version": False, "support_url": False}
AVAILABILITY = {
    "topic": True,
    "payload_available": False,
    "payload_not_available": False,
    "value_template": False,
}
ENTITY = {"platform": True, "unique_id": True, "state_topic": True, "name": False}
ENTITY |= dict.fromkeys(("value_template", "device_class", "icon", "entity_category"), False)
COMPONENTS = {
    "sensor": ENTITY
    | dict.fromkeys(
        ("unit_of_measurement", "state_class", "expire_after", "suggested_display_precision"), False
    ),
    "binary_sensor": ENTITY | dict.fromkeys(("payload_on", "payload_off", "off_delay"), False),
    "event": ENTITY | {"event_types": True},
}


def fits(value: dict[str, Any], schema: dict[str, bool]) -> bool:
    """Whether all keys are known and none that is required is missing."""
    required = {key for key, is_required in schema.items() if is_required}
    return required <= value.keys() <= schema.keys()


def check_discovery(payload: dict[str, Any]) -> None:
    """Fail where Home Assistant would refuse a discovery."""
    assert fits(payload, TOP)
    assert fits(payload["device"], DEVICE)
    assert payload["device"]["identifiers"]
    assert fits(payload["origin"], ORIGIN)
    assert payload["availability_mode"] in {"all", "any", "latest"}
    assert all(fits(one, AVAILABILITY) for one in payload["availability"])
    components = payload["components"].values()
    for component in components:
        assert fits(component, COMPONENTS[component["platform"]])
        assert component.get("state_class") in {None, "measurement"}
        assert not set(component["state_topic"]) & set("+#")
    ids = [component["unique_id"] for component in components]
    assert len(set(ids)) == len(ids)


def rendered(template: str, state: dict[str, Any]) -> object:
    """Do what Home Assistant does with the templates that we write: look up two keys."""
    match = re.fullmatch(r"\{\{ value_json\['(\w+)'\]\['(\w+)'\] \}\}", template)
    assert match
    return state[match[1]][match[2]]


class House:
    """A bridge, and Home Assistant listening, on one in-memory broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.bridge = Bridge(self.broker.transport("bridge"))
        self.listener = self.broker.transport("homeassistant")
        self.listener.open(["homeassistant/#", "er/1/ha/#"], None)
        self.bridge.open()
        self.bridge.step(0.0)

    def say(self, leaf: str, payload: bytes, device: str = "pump-1") -> None:
        self.listener.publish(Message(TOPICS.up(device, leaf), payload, retain=True))
        self.bridge.step(0.0)

    def answer(self, *active: str, value: float = 0.25) -> None:
        row = LastRow(5, {"ok": 0.75, "Wörn out": value}, active, ("stuck",))
        self.say("last", encode(Last("pump-1", 5, {"main": row})))

    def retained(self, topic: str) -> Any:
        message = self.broker.retained(topic)
        return None if message is None else message.payload

    def heard(self, topic: str) -> list[bytes]:
        found = []
        while (event := self.listener.receive(0.0)) is not None:
            if isinstance(event, Message) and event.topic == topic:
                found.append(event.payload)
        return found


@pytest.fixture
def house() -> House:
    return House()


def test_a_discovery_is_one_that_home_assistant_takes() -> None:
    """Every key is known, the required ones are there, ids are unique."""
    payload = discovery_of(LIFE, NAMES)

    check_discovery(payload)
    assert {one["platform"] for one in payload["components"].values()} == set(COMPONENTS)
    nox = payload["components"]["nox-nox-value"]
    assert (nox["unit_of_measurement"], nox["state_class"]) == ("mg/m³", "measurement")
    assert payload["components"]["main-event"]["event_types"] == ["Wörn out start", "Wörn out end"]


@given(labels=st.lists(st.text(max_size=80), min_size=1, max_size=8, unique=True))
def test_any_labels_make_a_discovery_with_ids_of_their_own(labels: list[str]) -> None:
    """Labels are people's text; keys, ids and templates hold none of it."""
    life = Life("d", 1, 1, True, streams={"main": Answers("m@1", tuple(labels), tuple(labels))})

    check_discovery(discovery_of(life, NAMES))

    assert all(re.fullmatch(r"[a-z0-9_]+", slug(label)) for label in labels)
    assert len({slug(label) for label in labels}) == len(labels)


def test_a_device_that_says_hello_appears_with_its_answers(house: House) -> None:
    """Its templates find their values in the state, whichever message came first."""
    house.answer("Wörn out")
    house.say("life", encode(LIFE))

    config = json.loads(house.retained(NAMES.config("pump-1")))
    state = json.loads(house.retained(NAMES.state("pump-1", "main")))
    shown = {
        key: rendered(one["value_template"], state)
        for key, one in config["components"].items()
        if one["state_topic"] == NAMES.state("pump-1", "main")
    }
    assert house.retained(NAMES.availability("pump-1")) == b"online"
    assert list(shown.values()) == [0.75, 0.25, "ON"]
    assert state["quality"] == ["stuck"]


def test_a_value_that_is_no_number_is_null(house: House) -> None:
    """JSON knows no NaN, and Home Assistant shows unknown."""
    house.say("life", encode(LIFE))
    house.answer(value=float("nan"))

    state = json.loads(house.retained(NAMES.state("pump-1", "main")))
    assert state["value"] == {"ok": 0.75, slug("Wörn out"): None}


def test_a_label_that_starts_and_ends_is_an_event_each(house: House) -> None:
    """They are not retained, and nothing happens at the first answer."""
    house.say("life", encode(LIFE))
    for active in ((), ("Wörn out",), ("Wörn out",), ()):
        house.answer(*active)

    events = house.heard(NAMES.event("pump-1", "main"))
    assert [json.loads(one)["event_type"] for one in events] == ["Wörn out start", "Wörn out end"]
    assert house.retained(NAMES.event("pump-1", "main")) is None


def test_a_will_makes_a_device_unavailable_unless_it_is_stale(house: House) -> None:
    """What it can do stays announced; a will of an older start means nothing."""
    house.say("life", encode(LIFE))
    house.say("life", encode(Life("pump-1", 2, 7, is_online=False)))
    assert house.retained(NAMES.availability("pump-1")) == b"online"

    house.say("life", encode(Life("pump-1", 3, 7, is_online=False)))

    assert house.retained(NAMES.availability("pump-1")) == b"offline"
    assert json.loads(house.retained(NAMES.config("pump-1")))["components"]


def test_home_assistant_that_comes_up_is_told_again(house: House) -> None:
    """Its birth message brings every discovery and state once more; its will brings nothing."""
    house.say("life", encode(LIFE))
    house.answer()
    house.heard("")

    for payload in (b"offline", b"online"):
        house.listener.publish(Message(NAMES.birth, payload))
        house.bridge.step(0.0)

    assert len(house.heard(NAMES.config("pump-1"))) == 1


def test_a_device_whose_life_is_cleared_goes_away(house: House) -> None:
    """An empty discovery takes it out of Home Assistant."""
    house.say("life", encode(LIFE))

    house.say("life", b"")

    assert house.retained(NAMES.config("pump-1")) is None
    assert house.bridge.stats.devices == 0


def test_a_bridge_that_dies_makes_everything_unavailable(house: House) -> None:
    """Its will stands beside each device's own availability, and both must be online."""
    assert house.retained(NAMES.bridge) == b"online"

    house.broker.cut("bridge")
    assert house.retained(NAMES.bridge) == b"offline"
    house.broker.mend("bridge")
    house.bridge.step(0.0)

    assert house.retained(NAMES.bridge) == b"online"


def test_what_does_not_decode_or_speaks_for_another_is_counted(house: House) -> None:
    """The bridge lives, and nobody appears under another's name."""
    house.say("life", b"\x00")
    house.say("life", encode(LIFE), device="pump-2")

    assert house.bridge.stats.refused_total == 2
    assert house.bridge.stats.devices == 0


def test_a_broker_that_is_no_address_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says what was expected."""
    assert main(["homeassistant", "--broker", "host:many"]) == 2
    assert "HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--key-file", "b.key"], "--cert-file"),
        (["--broker", "house.example"], "--tls off"),
        (["--config", "cloud.yaml", "--root", "er", "--cert-file", "b.pem"], "--cert-file, --root"),
        (["--prefix", "er"], "another prefix"),
    ],
)
def test_options_that_do_not_go_together_end_with_2(
    capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    """The message names the option that is missing or too many."""
    assert main(["homeassistant", *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_cloud_without_home_assistant_is_told_what_to_add(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its broker would pass nothing on."""
    (tmp_path / "cloud.yaml").write_text("store: store\n")

    assert main(["homeassistant", "--config", str(tmp_path / "cloud.yaml")]) == 2
    assert "homeassistant: {}" in capsys.readouterr().err


def test_the_bridge_renews_the_certificate_of_its_own_link(tmp_path: Path) -> None:
    """After two thirds of its life the file is another one, and the link moves over."""
    clock = FakeClock(time.time_ns())
    Authority.create(tmp_path / "ca", "test", clock)
    config = CloudConfig(
        tmp_path / "store",
        SyncConfig(host="localhost", tls="on"),
        identity=IdentityConfig(("localhost",), ca=tmp_path / "ca"),
        homeassistant=HomeAssistantConfig(),
    )
    certificate = link_of(config, BRIDGE, clock).cert_file
    assert certificate is not None
    renewal = _Renewal(config, clock)
    first = certificate.read_bytes()

    clock.advance(59 * 86_400.0)
    renewal.step()
    young = certificate.read_bytes()
    clock.advance(2 * 86_400.0)
    renewal.step()

    assert young == first
    assert certificate.read_bytes() != first


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Broker]:
    with Broker("mosquitto", tmp_path) as broker:
        yield broker


@pytest.mark.mosquitto
def test_a_device_appears_through_a_real_broker(mosquitto: Broker) -> None:
    """The command passes on what is retained, and says good-bye on Ctrl-C."""
    transport = PahoTransport(SyncConfig(port=mosquitto.port), "listener", SystemClock())
    transport.open(["homeassistant/#", "er/1/ha/#"], None)
    wait_for(transport, lambda event: isinstance(event, Connected))
    transport.publish(Message(TOPICS.up("pump-1", "life"), encode(LIFE), retain=True))
    words = ["homeassistant", "--broker", f"127.0.0.1:{mosquitto.port}", "--json"]
    bridge = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", *words], stdout=subprocess.PIPE
    )

    found = wait_for(transport, lambda event: getattr(event, "topic", "") == NAMES.config("pump-1"))
    bridge.send_signal(signal.SIGINT)
    output, _ = bridge.communicate(timeout=60)
    goodbye = Message(NAMES.bridge, b"offline", 1)
    wait_for(transport, lambda event: event == goodbye)
    transport.close()

    check_discovery(json.loads(found.payload))
    assert bridge.returncode == 0
    assert json.loads(output)["devices"] == 1


@pytest.mark.mosquitto
@pytest.mark.parametrize("is_declared", [True, False], ids=["config", "files"])
def test_a_device_appears_through_a_broker_that_knows_who_is_who(
    tmp_path: Path, is_declared: bool
) -> None:
    """Bridge and Home Assistant show certificates of their own, however they came by them."""
    with SecuredCloud(tmp_path) as cloud:
        cloud.enroll("pump-1")
        cloud.broker.start()
        port = cloud.broker.port
        declared = tmp_path / "cloud.yaml"
        declared.write_text(
            f"store: store\nbroker: {{host: localhost, port: {port}, tls: on}}\n"
            "identity: {names: [localhost], ca: ca}\nhomeassistant: {}\n"
        )
        for name in (BRIDGE, HOME_ASSISTANT):
            issue = ["cloud", "ca", "issue", str(declared), name, "-o", str(tmp_path / name)]
            assert main(issue) == 0
        house = PahoTransport(
            SyncConfig("localhost", port, **issued(tmp_path, HOME_ASSISTANT)),
            "any-name",
            SystemClock(),
        )
        house.open(["homeassistant/#", "er/1/ha/#"], None)
        wait_for(house, lambda event: isinstance(event, Connected))
        options = {"broker": f"localhost:{port}", **issued(tmp_path, BRIDGE)}
        words = ["--config", str(declared)] if is_declared else as_options(options)
        bridge = subprocess.Popen(
            [sys.executable, "-m", "edge_runtime.cli", "homeassistant", *words, "--json"],
            stdout=subprocess.PIPE,
        )
        device = cloud.device("pump-1")
        device.open([], None)
        wait_for(device, lambda event: isinstance(event, Connected))
        row = LastRow(5, {"ok": 0.75, "Wörn out": 0.25}, (), ())
        for leaf, payload in (("life", LIFE), ("last", Last("pump-1", 5, {"main": row}))):
            device.publish(Message(TOPICS.up("pump-1", leaf), encode(payload), retain=True))

        found = wait_for(house, lambda event: is_of(event, NAMES.config("pump-1")))
        state = wait_for(house, lambda event: is_of(event, NAMES.state("pump-1", "main")))
        bridge.send_signal(signal.SIGINT)
        output, _ = bridge.communicate(timeout=60)
        wait_for(house, lambda event: is_of(event, NAMES.bridge) and event.payload == b"offline")
        house.close()
        device.close()

    check_discovery(json.loads(found.payload))
    assert json.loads(state.payload)["value"]["ok"] == 0.75
    assert bridge.returncode == 0
    assert json.loads(output)["devices"] == 1


def issued(folder: Path, name: str) -> dict[str, Any]:
    files = {"ca_file": "ca.pem", "cert_file": f"{name}.pem", "key_file": f"{name}.key"}
    return {key: folder / name / file for key, file in files.items()}


def as_options(values: dict[str, Any]) -> list[str]:
    return [f"--{key.replace('_', '-')}={value}" for key, value in values.items()]


def is_of(event: Any, topic: str) -> bool:
    return isinstance(event, Message) and event.topic == topic


def wait_for(transport: PahoTransport, fits: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        event = transport.receive(1.0)
        if event is not None and fits(event):
            return event
    raise TimeoutError("it did not come within a minute")
