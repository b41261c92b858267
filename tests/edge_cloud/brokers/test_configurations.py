"""What ``broker-config`` writes; what it keeps out is shown by ``tests/attacks``."""

from __future__ import annotations

import fnmatch
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from edge_cloud.brokers import aws, emqx, mosquitto
from edge_cloud.brokers.access import device_rules, role_rules
from edge_cloud.config import CloudConfig, HomeAssistantConfig, IngestConfig
from edge_cloud.homeassistant import Names
from edge_cloud.links import BRIDGE, HOME_ASSISTANT, roles_of
from edge_runtime.cli import main
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES
from edge_runtime.sync.topics import Topics

TOPICS = Topics("plant")
ROLES = roles_of(CloudConfig(Path("store"), root="plant"))
SHOWN = CloudConfig(Path("store"), root="plant", homeassistant=HomeAssistantConfig("ha"))
PUBLISHED = [
    TOPICS.tel("d" * 63, "s" * 63),
    *(TOPICS.up("pump-1", leaf) for leaf in ("life", "last", "blob", "job/j-1")),
]
RECEIVED = [*(TOPICS.dn("pump-1", leaf) for leaf in ("ack", "job", "blob", "cmd"))]


@pytest.fixture
def written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Give a function that runs the command and returns its folder and files."""
    cloud = tmp_path / "cloud.yaml"
    cloud.write_text("store: store\nroot: plant\nidentity: {names: [broker.example, 10.0.0.7]}\n")
    assert main(["cloud", "ca", "init", str(cloud)]) == 0

    def run(kind: str, *options: str, more: str = "") -> tuple[Path, list[str]]:
        folder = tmp_path / kind
        cloud.write_text(cloud.read_text() + more)
        capsys.readouterr()
        words = ["broker-config", kind, "--config", str(cloud), "-o", str(folder), "--json"]
        assert main([*words, *options]) == 0
        return folder, msgspec.json.decode(capsys.readouterr().out)["files"]

    return run


def test_mosquitto_gets_six_files_and_keys_stay_private(written: Any) -> None:
    """Everything the configuration names is there; the server's key is its owner's alone."""
    folder, files = written("mosquitto")

    named = re.findall(r"^\w+file (\S+)$", (folder / "mosquitto.conf").read_text(), re.M)
    assert set(named) <= set(files)
    assert len(files) == 6
    assert stat.S_IMODE((folder / "server.key").stat().st_mode) == 0o600


def test_the_brokers_certificate_has_all_names(written: Any) -> None:
    """Names and addresses of identity.names, for a server alone."""
    folder, _ = written("mosquitto")

    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7"]
    assert list(usage) == [x509.ExtendedKeyUsageOID.SERVER_AUTH]


def test_written_again_the_certificate_stays(written: Any) -> None:
    """A second run changes nothing that brokers or devices would notice."""
    folder, _ = written("mosquitto")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    written("mosquitto")

    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {name for name in before if before[name] != after[name]} <= {"revoked.pem"}


@pytest.mark.mosquitto
@pytest.mark.parametrize("options", [(), ("--loopback-port", "1883"), ("--bind", "127.0.0.1")])
def test_mosquitto_takes_its_configuration(
    written: Any, options: tuple[str, ...], tmp_path: Path
) -> None:
    """The installed Mosquitto starts with it, and has nothing to complain about."""
    binary = shutil.which("mosquitto")
    if binary is None:
        pytest.skip("mosquitto is not installed")
    folder, _ = written("mosquitto", "--port", "18883", *options)
    config = folder / "mosquitto.conf"
    text = config.read_text()
    # It reads everything and ends when the port of the last listener is no port of its own.
    config.write_text(text + "user root\nlistener 18884 192.0.2.1\n")

    ended = subprocess.run([binary, "-c", str(config)], capture_output=True, text=True, timeout=60)

    said = ended.stderr
    assert "Cannot assign requested address" in said
    assert not re.search(r"Unknown|Invalid|Duplicate|Unable to load|deprecated", said), said


def test_a_loopback_port_is_for_this_machine_alone(written: Any) -> None:
    """The plain listener is bound to 127.0.0.1, and the access list has rules for it."""
    folder, _ = written("mosquitto", "--loopback-port", "1883")

    assert (
        "listener 1883 127.0.0.1\nallow_anonymous true" in (folder / "mosquitto.conf").read_text()
    )
    acl = (folder / "acl").read_text()
    assert acl.index("topic read plant/1/d/+/up/#") < acl.index("user cloud-ingest")


def test_without_it_who_has_no_name_may_do_nothing() -> None:
    """Rules before the first user are for clients without one: there are none."""
    acl = mosquitto.access_list(TOPICS, ROLES, [])

    assert acl.index("user ") < acl.index("topic ")


def test_revoked_devices_are_denied_everything() -> None:
    """Mosquitto looks at denials of a user first, EMQX at the first rule that matches."""
    revoked = ["b", "a"]

    denials = "user a\ntopic deny #\n\nuser b\ntopic deny #"
    assert denials in mosquitto.access_list(TOPICS, ROLES, revoked)
    rules = emqx.access_list(TOPICS, ROLES, revoked).splitlines()[1:3]
    assert rules == [f'{{deny, {{user, "{name}"}}, all, ["#"]}}.' for name in "ab"]


def test_each_of_several_ingesters_has_its_rules() -> None:
    """Its client id is the name in its certificate; the one that asks first has one, too."""
    config = CloudConfig(Path("store"), root="plant", ingest=IngestConfig(processes=2))
    roles = roles_of(config)

    rules = mosquitto.access_list(TOPICS, roles, []).split("\n\n")[1:-1]

    names = {"ingest", "registry", "ask", "probe", "ingest-0", "ingest-1"}
    assert {rule.splitlines()[0] for rule in rules} == {f"user cloud-{name}" for name in names}
    assert len({rule.partition("\n")[2] for rule in rules}) == 1


def test_emqx_lists_are_erlang_terms_and_end_closed(written: Any) -> None:
    """Each line of the list is a rule, the last one denies, and files that are named exist."""
    folder, files = written("emqx")
    rules = [
        line for line in (folder / "acl.conf").read_text().splitlines() if not line.startswith("%%")
    ]
    pattern = r'\{(allow|deny), (all|\{user, "[a-z-]+"\}), (publish|subscribe|all), \["[^"]+"\]\}\.'

    assert all(re.fullmatch(pattern, rule) for rule in rules[:-1])
    assert rules[-1] == "{deny, all}."
    named = re.findall(r'file = "([^"]+)"|path = "([^"]+)"', (folder / "emqx.conf").read_text())
    assert {one or other for one, other in named} <= set(files)


# --- AWS IoT Core -----------------------------------------------------------------------


def allows(policy: dict[str, Any], action: str, resource: str, thing: str) -> bool:
    """Decide as AWS documents it: ``*`` and ``?`` are wildcards, all else is literal."""
    for statement in policy["Statement"]:
        actions = statement["Action"]
        if action not in ([actions] if isinstance(actions, str) else actions):
            continue
        for pattern in statement["Resource"]:
            filled = pattern.replace("${iot:Connection.Thing.ThingName}", thing)
            literal = re.sub(r"[\[\]]", "?", filled)
            if fnmatch.fnmatchcase(f"arn:aws:iot:eu-central-1:123456789012:{resource}", literal):
                return statement["Effect"] == "Allow"
    return False


def test_a_devices_policy_allows_what_a_device_does() -> None:
    """Every topic that we publish, receive and subscribe to is covered."""
    policy = aws.device_policy(TOPICS)

    assert allows(policy, "iot:Connect", "client/pump-1", "pump-1")
    for topic in PUBLISHED[1:]:
        assert allows(policy, "iot:Publish", f"topic/{topic}", "pump-1")
        assert allows(policy, "iot:RetainPublish", f"topic/{topic}", "pump-1")
    assert allows(policy, "iot:Publish", f"topic/{PUBLISHED[0]}", "d" * 63)
    for topic in [*RECEIVED, TOPICS.all_cloud]:
        assert allows(policy, "iot:Receive", f"topic/{topic}", "pump-1")
    for filter_ in (TOPICS.dn("pump-1", "#"), TOPICS.all_cloud):
        assert allows(policy, "iot:Subscribe", f"topicfilter/{filter_}", "pump-1")


def test_a_devices_policy_allows_nothing_of_another() -> None:
    """Another client id, topic, or filter is denied; so is a shared subscription."""
    policy = aws.device_policy(TOPICS)
    own, other = "pump-1", "pump-2"

    assert not allows(policy, "iot:Connect", f"client/{other}", own)
    assert not allows(policy, "iot:Publish", f"topic/{TOPICS.up(other, 'last')}", own)
    assert not allows(policy, "iot:Publish", f"topic/{TOPICS.dn(own, 'ack')}", own)
    assert not allows(policy, "iot:Publish", f"topic/{TOPICS.all_cloud}", own)
    assert not allows(policy, "iot:Receive", f"topic/{TOPICS.up(other, 'last')}", own)
    for filter_ in ("#", TOPICS.dn(other, "#"), f"$share/x/{TOPICS.dn(own, '#')}"):
        assert not allows(policy, "iot:Subscribe", f"topicfilter/{filter_}", own)


def test_a_role_reads_all_devices_and_writes_to_them() -> None:
    """The ingest's own policy covers its filter, its acks and its presence."""
    policy = aws.role_policy(role_rules(TOPICS), "cloud-ingest")

    assert allows(policy, "iot:Subscribe", f"topicfilter/{TOPICS.every_up('#')}", "")
    assert allows(policy, "iot:Receive", f"topic/{TOPICS.up('pump-1', 'last')}", "")
    assert allows(policy, "iot:Publish", f"topic/{TOPICS.dn('pump-1', 'ack')}", "")
    assert allows(policy, "iot:RetainPublish", f"topic/{TOPICS.all_cloud}", "")


def test_our_topics_and_payloads_fit() -> None:
    """At most seven slashes, 128 KB, and two filters of the eight that one SUBSCRIBE may have."""
    assert max(topic.count("/") for topic in [*PUBLISHED, *RECEIVED]) <= aws.MAX_SLASHES
    assert max(map(len, PUBLISHED)) <= 256
    assert MAX_PAYLOAD_BYTES <= aws.MAX_PAYLOAD_BYTES
    assert len([rule for rule in device_rules(TOPICS) if rule.access == "read"]) <= aws.MAX_FILTERS


def test_a_policy_for_each_party_is_written(written: Any) -> None:
    """The files are JSON, within the 2048 characters that AWS allows without blanks."""
    _, files = written("aws", "--arn", "arn:aws:iot:eu-central-1:123456789012")

    assert sorted(Path(file).name for file in files) == sorted(
        f"{name}-policy.json" for name in ("device", *ROLES)
    )
    for file in files:
        policy = msgspec.json.decode(Path(file).read_bytes())
        assert policy["Version"] == "2012-10-17"
        assert len(re.sub(rb"\s", b"", Path(file).read_bytes())) <= 2048
        assert "eu-central-1:123456789012" in Path(file).read_text()


def test_rules_are_those_of_the_root() -> None:
    """Two installations on one broker do not see each other."""
    for rule in (*device_rules(TOPICS), *role_rules(TOPICS)):
        assert rule.filter.startswith("plant/1/")


# --- Home Assistant ---------------------------------------------------------------------


def test_mosquitto_lets_bridge_and_home_assistant_do_their_work_alone() -> None:
    """They have these rules, and are denied what everybody with a certificate may do."""
    sections = mosquitto.access_list(TOPICS, roles_of(SHOWN), []).split("\n\n")

    assert (
        f"""\
user {BRIDGE}
topic read plant/1/d/+/up/life
topic read plant/1/d/+/up/last
topic read ha/status
topic write ha/device/+/config
topic write plant/1/ha/#
topic deny plant/1/d/{BRIDGE}/up/#
topic deny plant/1/d/{BRIDGE}/dn/#
topic deny plant/1/all/#"""
        in sections
    )
    assert (
        f"""\
user {HOME_ASSISTANT}
topic read ha/#
topic read plant/1/ha/#
topic write ha/status
topic deny plant/1/d/{HOME_ASSISTANT}/up/#
topic deny plant/1/d/{HOME_ASSISTANT}/dn/#
topic deny plant/1/all/#"""
        in sections
    )


def test_home_assistant_changes_no_line_of_others() -> None:
    """Without its own rules the lists are those of a cloud that does not know it."""
    roles = roles_of(SHOWN)
    own = (BRIDGE, HOME_ASSISTANT)

    sections = mosquitto.access_list(TOPICS, roles, ["d"]).split("\n\n")
    lines = emqx.access_list(TOPICS, roles, ["d"]).splitlines()

    others = [one for one in sections if not one.startswith(tuple(f"user {name}" for name in own))]
    assert "\n\n".join(others) == mosquitto.access_list(TOPICS, ROLES, ["d"])
    others = [one for one in lines if not any(f'"{name}"' in one for name in own)]
    assert others == emqx.access_list(TOPICS, ROLES, ["d"]).splitlines()


def test_emqx_looks_at_their_denials_before_the_rules_for_everybody() -> None:
    """The first rule that matches decides; a role's own come first, then what it is denied."""
    lines = emqx.access_list(TOPICS, roles_of(SHOWN), []).splitlines()

    own = [line for line in lines if f'"{BRIDGE}"' in line]
    who = f'{{user, "{BRIDGE}"}}'
    assert own[0] == f'{{allow, {who}, subscribe, ["plant/1/d/+/up/life"]}}.'
    assert own[3] == f'{{allow, {who}, publish, ["ha/device/+/config"]}}.'
    assert own[-1] == f'{{deny, {who}, all, ["plant/1/all/#"]}}.'
    assert lines.index(own[-1]) < next(i for i, line in enumerate(lines) if "{allow, all," in line)


def test_the_loopback_port_is_for_the_bridge_too(written: Any) -> None:
    """What a client without a name may do is what all roles may, and nothing is denied to it."""
    folder, _ = written(
        "mosquitto", "--loopback-port", "1883", more="homeassistant: {prefix: ha}\n"
    )

    unnamed = (folder / "acl").read_text().split("\n\n")[1].splitlines()
    assert {"topic write plant/1/d/+/dn/#", "topic write ha/device/+/config"} <= set(unnamed)
    assert not [line for line in unnamed if line.startswith("topic deny")]
    assert len(unnamed) == len(set(unnamed))


def test_aws_lets_bridge_and_home_assistant_do_their_work_alone(written: Any) -> None:
    """Each has a policy of its own, under its own client id."""
    folder, files = written("aws", more="homeassistant: {prefix: ha}\n")
    bridge, house = (
        msgspec.json.decode((folder / f"{name}-policy.json").read_bytes())
        for name in (BRIDGE, HOME_ASSISTANT)
    )
    names = Names("plant", "ha")
    shown = names.state("pump-1", "main")

    assert len(files) == len(ROLES) + 3
    assert allows(bridge, "iot:Connect", f"client/{BRIDGE}", "")
    assert not allows(bridge, "iot:Connect", f"client/{HOME_ASSISTANT}", "")
    for filter_ in (TOPICS.every_up("life"), TOPICS.every_up("last"), names.birth):
        assert allows(bridge, "iot:Subscribe", f"topicfilter/{filter_}", "")
    for topic in (names.config("pump-1"), names.bridge, shown):
        assert allows(bridge, "iot:RetainPublish", f"topic/{topic}", "")
        assert allows(house, "iot:Receive", f"topic/{topic}", "")
        assert not allows(house, "iot:Publish", f"topic/{topic}", "")
    for topic in (TOPICS.dn("pump-1", "job"), TOPICS.up("pump-1", "last"), names.birth):
        assert not allows(bridge, "iot:Publish", f"topic/{topic}", "")
    for topic in (TOPICS.dn("pump-1", "job"), TOPICS.tel("pump-1", "main"), TOPICS.all_cloud):
        assert not allows(bridge, "iot:Receive", f"topic/{topic}", "")
        assert not allows(house, "iot:Receive", f"topic/{topic}", "")
    assert allows(house, "iot:Publish", f"topic/{names.birth}", "")


@pytest.mark.parametrize("kind", ["mosquitto", "emqx", "aws"])
def test_a_file_where_the_folder_should_be_is_told(
    kind: str, written: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says where, and how to name another."""
    (tmp_path / "taken").touch()
    words = ["broker-config", kind, "--config", str(tmp_path / "cloud.yaml")]

    assert main([*words, "-o", str(tmp_path / "taken")]) == 2
    assert "taken: no folder can be made there" in capsys.readouterr().err


def test_a_prefix_that_is_the_root_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Home Assistant may read all below its prefix: that must not be what devices say."""
    cloud = tmp_path / "cloud.yaml"
    cloud.write_text("store: store\nroot: plant\nhomeassistant: {prefix: plant}\n")

    assert main(["broker-config", "aws", "--config", str(cloud), "-o", str(tmp_path)]) == 2
    assert "both below 'plant'" in capsys.readouterr().err
