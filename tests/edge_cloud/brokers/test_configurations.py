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
from edge_cloud.config import IngestConfig
from edge_cloud.links import client_ids
from edge_runtime.cli import main
from edge_runtime.sync.messages import MAX_PAYLOAD_BYTES
from edge_runtime.sync.topics import Topics

TOPICS = Topics("plant")
ROLES = client_ids(IngestConfig())
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

    def run(kind: str, *options: str) -> tuple[Path, list[str]]:
        folder = tmp_path / kind
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
    roles = client_ids(IngestConfig(processes=2))

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
    policy = aws.role_policy(TOPICS, "cloud-ingest")

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
