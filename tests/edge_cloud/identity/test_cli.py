"""``cloud ca|enroll|revoke|devices`` and ``device enroll``, as a person types them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509

from edge_cloud.config import load_cloud
from edge_cloud.links import BRIDGE, HOME_ASSISTANT
from edge_cloud.service import CloudService
from edge_runtime.cli import main
from edge_runtime.clock import SystemClock
from edge_runtime.config import load_device
from edge_runtime.errors import ConfigError
from edge_runtime.sync.paho import PahoTransport
from edge_simulator.broker import free_port

DEVICE = """\
device: pump-1
state: state
sync: {host: broker.example, port: 8883}
streams:
  main:
    source: {kind: csv, path: rows.csv, time: {start: 2011-01-01T00:00:00Z, step_s: 1}}
    model: {bundle: bundle}
"""


class Shell:
    """Runs commands in a folder with a cloud and a device."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self.cloud = str(folder / "cloud.yaml")
        self.device = str(folder / "pump-1.yaml")
        self.port = free_port()
        (folder / "cloud.yaml").write_text(
            f"store: store\nidentity: {{names: [localhost], host: 127.0.0.1, port: {self.port}}}\n"
        )
        (folder / "pump-1.yaml").write_text(DEVICE)

    def run(self, *words: str) -> tuple[int, str, str]:
        code = main(list(words))
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def json(self, *words: str) -> Any:
        code, out, err = self.run(*words, "--json")
        assert code == 0, err
        return msgspec.json.decode(out)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


@pytest.fixture
def running(shell: Shell) -> Iterator[CloudService]:
    """The identity role of that cloud, running."""
    shell.json("cloud", "ca", "init", shell.cloud)
    service = CloudService(load_cloud(Path(shell.cloud)), roles=["identity"])
    service.start()
    yield service
    service.stop()


def test_devices_are_listed_where_no_verb_is_named(shell: Shell) -> None:
    """A verb that is spelt wrong is still an error."""
    shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")

    code, out, _ = shell.run("cloud", "devices", shell.cloud)

    assert (code, out.count("pump-1: invited")) == (0, 1)
    assert shell.json("cloud", "devices", shell.cloud)[0]["device"] == "pump-1"
    with pytest.raises(SystemExit, match="2"):
        shell.run("cloud", "devices", "lists", shell.cloud)


def test_the_authority_is_made_once(shell: Shell) -> None:
    """Its key is its owner's alone, and no command replaces it."""
    code, out, _ = shell.run("cloud", "ca", "init", shell.cloud)
    key = shell.folder / "store/ca/ca.key"

    assert code == 0
    assert "keep ca.key safe" in out
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert shell.run("cloud", "ca", "init", shell.cloud)[0] == 2


def test_the_first_enroll_makes_the_authority(shell: Shell) -> None:
    """One command is enough to begin."""
    told = shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")

    assert told["url"] == f"https://localhost:{shell.port}"
    assert (shell.folder / "store/ca/ca.key").exists()


def test_from_invitation_to_revocation(shell: Shell, running: CloudService) -> None:
    """Invited, enrolled, revoked: each step shows in the list of devices."""
    states = []

    def note() -> None:
        states.append(shell.json("cloud", "devices", "list", shell.cloud)[0]["state"])

    told = shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")
    note()
    enrolled = shell.json(
        "device", "enroll", shell.device, "--url", told["url"], "--token", told["token"],
        "--serial", "s-1",
    )  # fmt: skip
    note()
    revoked = shell.json("cloud", "revoke", shell.cloud, "pump-1")
    note()

    assert states == ["invited", "active", "revoked"]
    assert Path(enrolled["folder"]) == shell.folder / "state/identity"
    assert revoked["certificates"] == 1
    assert "broker" in revoked


def test_a_token_may_come_from_a_file_that_others_cannot_read(
    shell: Shell, running: CloudService
) -> None:
    """A command line can be seen by everybody on the machine; a file of mode 0600 cannot."""
    told = shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")
    file = shell.folder / "token"
    file.write_text(told["token"] + "\n")
    words = ("device", "enroll", shell.device, "--url", told["url"], "--serial", "s-1")
    file.chmod(0o644)
    refused, _, said = shell.run(*words, "--token-file", str(file))
    file.chmod(0o600)

    assert refused == 2
    assert "mode 0644" in said
    assert shell.run(*words, "--token-file", str(file))[0] == 0


def test_a_used_token_is_not_trusted(shell: Shell, running: CloudService, tmp_path: Path) -> None:
    """A second device with the same token ends with exit code 3 and no identity."""
    told = shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")
    words = ("--url", told["url"], "--token", told["token"], "--serial", "s-1")
    shell.json("device", "enroll", shell.device, *words)
    copy = tmp_path / "copy.yaml"
    copy.write_text(DEVICE.replace("state: state", "state: other"))

    code, _, said = shell.run("device", "enroll", str(copy), *words)

    assert code == 3
    assert "used before" in said
    assert told["token"] not in said
    assert not (tmp_path / "other/identity/device.pem").exists()


def test_a_device_that_is_not_enrolled_says_so_when_it_runs(shell: Shell) -> None:
    """Nothing goes to another machine in the clear because somebody forgot a line."""
    sync = load_device(shell.device).sync
    assert sync is not None
    with pytest.raises(ConfigError, match="not be encrypted"):
        PahoTransport(sync, "pump-1", SystemClock())


def test_without_identity_in_the_yaml_there_is_a_remedy(shell: Shell) -> None:
    """Commands about identity say which lines are missing."""
    Path(shell.cloud).write_text("store: store\n")

    for words in (
        ("cloud", "ca", "init", shell.cloud),
        ("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s"),
        ("broker-config", "mosquitto", "--config", shell.cloud, "-o", str(shell.folder / "b")),
    ):
        code, _, said = shell.run(*words)
        assert code == 2
        assert "identity: {names:" in said


@pytest.mark.parametrize("text", ["0h", "1", "h", "1w", "-1h", "99999999d"])
def test_times_that_are_none_are_refused(shell: Shell, text: str) -> None:
    """An invitation cannot last by mistake."""
    with pytest.raises(SystemExit) as ended:
        main(["cloud", "enroll", shell.cloud, "pump-1", "--serial", "s", f"--expires={text}"])

    assert ended.value.code == 2


def test_an_unknown_device_cannot_be_revoked(shell: Shell) -> None:
    """A typing error is told, not passed over."""
    shell.json("cloud", "ca", "init", shell.cloud)
    code, _, said = shell.run("cloud", "revoke", shell.cloud, "pmup-1")

    assert code == 2
    assert "'pmup-1' is not known" in said


def test_a_revocation_reaches_the_brokers_files(shell: Shell, running: CloudService) -> None:
    """With identity.broker_folder the access list and the list of certificates are written."""
    broker = shell.folder / "broker"
    text = Path(shell.cloud).read_text().replace("}", ", broker_folder: broker}")
    Path(shell.cloud).write_text(text)
    shell.json("broker-config", "mosquitto", "--config", shell.cloud, "-o", str(broker))
    told = shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")
    shell.json(
        "device", "enroll", shell.device, "--url", told["url"], "--token", told["token"],
        "--serial", "s-1",
    )  # fmt: skip
    before = (broker / "revoked.pem").read_bytes()

    said = shell.json("cloud", "revoke", shell.cloud, "pump-1")["broker"]

    assert said == "the broker's files are written: reload it"
    assert "user pump-1\ntopic deny #" in (broker / "acl").read_text()
    assert (broker / "revoked.pem").read_bytes() != before


def test_without_home_assistant_in_the_yaml_nothing_is_issued_for_it(shell: Shell) -> None:
    """The broker would not let it do anything; the message says which line is missing."""
    shell.json("cloud", "ca", "init", shell.cloud)

    code, _, said = shell.run("cloud", "ca", "issue", shell.cloud, HOME_ASSISTANT, "-o", "house")

    assert code == 2
    assert "homeassistant: {}" in said
    assert shell.json("cloud", "devices", shell.cloud) == []


def test_nothing_is_issued_where_it_cannot_be_written(shell: Shell) -> None:
    """A file stands in the way: the message names it, and the book of devices stays as it was."""
    Path(shell.cloud).write_text(f"{Path(shell.cloud).read_text()}homeassistant: {{}}\n")
    shell.json("cloud", "ca", "init", shell.cloud)
    taken = shell.folder / "taken"
    taken.touch()

    code, _, said = shell.run("cloud", "ca", "issue", shell.cloud, HOME_ASSISTANT, "-o", str(taken))

    assert code == 2
    assert str(taken) in said and "-o" in said
    assert shell.json("cloud", "devices", shell.cloud) == []


@pytest.mark.parametrize("name", [BRIDGE, HOME_ASSISTANT])
def test_what_is_issued_can_be_revoked_and_issued_again(shell: Shell, name: str) -> None:
    """The key is its owner's alone, and the name is in the book of devices."""
    broker, house = shell.folder / "broker", shell.folder / "house"
    text = Path(shell.cloud).read_text().replace("}", ", broker_folder: broker}")
    Path(shell.cloud).write_text(f"{text}homeassistant: {{}}\n")
    shell.json("cloud", "ca", "init", shell.cloud)
    shell.json("broker-config", "mosquitto", "--config", shell.cloud, "-o", str(broker))
    words = ("cloud", "ca", "issue", shell.cloud, name, "-o", str(house))
    denial = f"user {name}\ntopic deny #"

    issued = shell.json(*words)
    _, listed_as, _ = shell.run("cloud", "devices", shell.cloud)
    number = certificate_in(house / f"{name}.pem").serial_number
    revoked = shell.json("cloud", "revoke", shell.cloud, name)
    has_denied = denial in (broker / "acl").read_text()
    _, out, _ = shell.run(*words)

    assert set(issued["files"]) == {
        str(house / one) for one in (f"{name}.pem", f"{name}.key", "ca.pem")
    }
    assert stat.S_IMODE((house / f"{name}.key").stat().st_mode) == 0o600
    assert certificate_in(house / f"{name}.pem").subject.rfc4514_string() == f"CN={name}"
    assert listed_as.endswith("a link of the cloud\n")
    assert (revoked["certificates"], has_denied) == (1, True)
    assert denial not in (broker / "acl").read_text()
    listed = x509.load_pem_x509_crl((broker / "revoked.pem").read_bytes())
    assert listed.get_revoked_certificate_by_serial_number(number) is not None
    assert "must have read that list" in out


def certificate_in(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_device_taken_in_again_is_served_again_by_the_broker(shell: Shell) -> None:
    """The name is denied no more; that its old certificates are, is for the broker's list."""
    broker = shell.folder / "broker"
    text = Path(shell.cloud).read_text().replace("}", ", broker_folder: broker}")
    Path(shell.cloud).write_text(text)
    shell.json("cloud", "ca", "init", shell.cloud)
    shell.json("broker-config", "mosquitto", "--config", shell.cloud, "-o", str(broker))
    shell.json("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-1")
    shell.json("cloud", "revoke", shell.cloud, "pump-1")
    denied = "user pump-1" in (broker / "acl").read_text()

    _, out, _ = shell.run("cloud", "enroll", shell.cloud, "pump-1", "--serial", "s-2")

    assert denied
    assert "user pump-1" not in (broker / "acl").read_text()
    assert "must have read that list" in out
