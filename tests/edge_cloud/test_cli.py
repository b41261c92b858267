"""``edge-runtime cloud``: every verb, its JSON and its exit codes."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_cloud.cli import Cloud
from edge_cloud.jobs import Jobs
from edge_cloud.poison import Poison
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle
from edge_runtime.cli import main
from edge_runtime.clock import SystemClock
from edge_runtime.config import SyncConfig
from edge_runtime.errors import WireError
from edge_runtime.modes.commands import Commands
from edge_runtime.ports import Message
from edge_runtime.sync.frames import encode_frame
from edge_runtime.sync.messages import Command, Life, decode
from edge_runtime.sync.paho import PahoTransport
from edge_runtime.sync.topics import Topics
from edge_simulator.broker import Broker

from .conftest import frame_of

YAML = """\
store: store
keys: {layer: layer.key}
bundles: [turbine-1]
refresh: [{line: turbine}]
"""


class Shell:
    """Runs verbs in a folder with a cloud."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.config = str(folder / "cloud.yaml")

    def run(self, *words: str) -> tuple[int, Any]:
        code = main(["cloud", *words, "--json"])
        out = self.capsys.readouterr().out
        return code, msgspec.json.decode(out) if out else None


@pytest.fixture
def shell(tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> Shell:
    (tmp_path / "cloud.yaml").write_text(YAML)
    for name in ("layer.key", "release.key"):
        SigningKey.generate().save(tmp_path / name)
    store = Store(tmp_path / "store")
    frame = frame_of(0, 30)
    frame.table.columns["inputs"] = np.zeros((30, 1, 2), np.float32)
    store.ingest([frame])
    Jobs(store).note_life(Life("pump-1", 1, 7, True, base={"main": bundle.digest}))
    store.close()
    return Shell(tmp_path, capsys)


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += parsers(child)
    return found


def test_every_verb_has_help_an_example_and_json() -> None:
    """A person who types --help sees a line to copy."""
    parser = argparse.ArgumentParser()
    Cloud().configure(parser)
    leaves = [each for each in parsers(parser) if "verb" in each._defaults]

    assert len(leaves) == 27
    for leaf in leaves:
        assert leaf.description
        assert "example:\n  edge-runtime cloud" in (leaf.epilog or "")
        assert "--json" in leaf.format_help()


def test_status_counts_what_is_there(shell: Shell) -> None:
    """Rows, devices and jobs in one place."""
    code, status = shell.run("status", shell.config)

    assert code == 0
    assert status["store"]["rows"] == 30
    assert status["devices"][0]["device"] == "pump-1"


def test_publish_signs_keeps_and_offers(shell: Shell, newer_bundle: Bundle, tmp_path: Path) -> None:
    """One verb from a folder to a job; the next base gets the next sequence number."""
    words = ("publish", shell.config, str(tmp_path / "turbine-2"), "--key")
    code, first = shell.run(*words, str(tmp_path / "release.key"), "--alias", "live")
    _, second = shell.run(*words, str(tmp_path / "release.key"))

    assert code == 0
    assert first["digest"] == newer_bundle.digest
    assert len(first["jobs"]) == 1
    assert (first["seq"], second["seq"]) == (1, 2)


def test_rescore_reports_what_it_did_and_resumes(
    shell: Shell, newer_bundle: Bundle, tmp_path: Path
) -> None:
    """Asked twice, it does the work once."""
    key = str(tmp_path / "release.key")
    shell.run("publish", shell.config, str(tmp_path / "turbine-2"), "--key", key)

    runs = [shell.run("rescore", shell.config, "turbine@2")[1] for _ in range(2)]

    assert [(run["rows"], run["resumed"]) for run in runs] == [(30, 0), (0, 1)]


def test_labels_are_imported_and_those_without_a_row_are_said(shell: Shell) -> None:
    """A label for a row that never came is kept and reported."""
    path = shell.folder / "labels.csv"
    path.write_text("device,stream,time_ns,value,known_at_ns\npump-1,main,5,1.5,6\n")

    code, result = shell.run("labels", "import", shell.config, str(path))

    assert code == 0
    assert result == {"added": 1, "labels_without_row": {"pump-1/main": 1}}


def test_refresh_once_does_what_is_due(shell: Shell) -> None:
    """For cron and for tests: one pass, then the end."""
    assert shell.run("refresh", shell.config, "--once") == (0, {"jobs": 1})
    assert shell.run("refresh", shell.config, "--once") == (0, {"jobs": 0})


def test_compact_and_delete(shell: Shell) -> None:
    """Deleting needs a yes; without it nothing is touched and the exit code is 2."""
    assert shell.run("compact", shell.config) == (0, {"files_merged_away": 0})
    assert shell.run("devices", "delete", shell.config, "pump-1")[0] == 2
    assert shell.run("devices", "delete", shell.config, "pump-1", "--yes") == (0, {"rows": 30})


def test_keys_are_made_private(shell: Shell) -> None:
    """A new key is 0600; an existing one is kept."""
    path = shell.folder / "new.key"

    assert shell.run("keys", "new", str(path))[0] == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert shell.run("keys", "new", str(path))[0] == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("status", "missing.yaml"), 2),
        (("rescore", "CONFIG", "nobody@1"), 2),
        (("publish", "CONFIG", "missing", "--key", "release.key"), 1),
        (("labels", "import", "CONFIG", "missing.csv"), 2),
        (("ingest", "CONFIG", "--alone"), 2),
    ],
)
def test_mistakes_have_their_exit_codes(shell: Shell, words: tuple[str, ...], code: int) -> None:
    """Usage is 2, a bundle that cannot be read is 1."""
    assert main(["cloud", *(w.replace("CONFIG", shell.config) for w in words)]) == code


def test_up_ends_cleanly_on_a_signal(shell: Shell) -> None:
    """Without a broker it waits for one; a signal ends it with exit code 0."""
    (shell.folder / "cloud.yaml").write_text(YAML + "broker: {port: 9}\n")
    child = subprocess.Popen(
        [sys.executable, "-m", "edge_runtime.cli", "cloud", "up", shell.config],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    assert "running" in child.stderr.readline()

    child.send_signal(signal.SIGTERM)

    assert child.wait(timeout=90) == 0


def test_poison_is_shown_replayed_and_dropped(shell: Shell) -> None:
    """What cannot be taken stays and ends with 1; a name nobody knows ends with 2."""
    topics, poison = Topics(), Poison(shell.folder / "store")
    for payload in (encode_frame(frame_of(30, 5)), b"no frame"):
        topic = topics.tel("pump-1", "main")
        poison.add(topics.parse(topic), Message(topic, payload), WireError("unreadable"))

    code, entries = shell.run("poison", "ls", shell.config)
    names = {entry["bytes"]: entry["name"] for entry in entries}
    bad, good = names[8], names[max(names)]
    assert (code, len(entries)) == (0, 2)
    assert shell.run("poison", "show", shell.config, bad)[1]["payload"] == b"no frame".hex()
    code, outcome = shell.run("poison", "replay", shell.config, good, bad)
    assert (code, outcome[good]) == (1, "")
    assert "does not decode" in outcome[bad]
    assert shell.run("poison", "drop", shell.config, bad)[0] == 0
    assert shell.run("poison", "drop", shell.config, bad)[0] == 2
    assert shell.run("poison", "ls", shell.config) == (0, [])
    assert shell.run("status", shell.config)[1]["store"]["rows"] == 35


def test_devices_are_listed_with_what_they_sent(shell: Shell) -> None:
    """One row each: whether it is there, what came, and what was lost or delayed."""
    code, rows = shell.run("devices", "usage", shell.config)

    assert code == 0
    assert rows == [
        {
            "device": "pump-1",
            "is_online": True,
            "runtime": "",
            "rows": 30,
            "lost_rows": 0,
            "quota_delays": 0,
        }
    ]


def test_a_device_is_asked_and_answers(shell: Shell, tmp_path: Path) -> None:
    """0 for an answer, 1 for a refusal, 4 when nobody knows, 2 for a word that is no option."""
    pytest.importorskip("iotcore")
    with Broker("iotcore", tmp_path) as broker, answering(broker.port):
        (shell.folder / "cloud.yaml").write_text(YAML + f"broker: {{port: {broker.port}}}\n")

        code, answer = shell.run("ask", shell.config, "pump-1", "echo", "word=hello")
        assert (code, answer["result"]) == (0, {"word": "hello"})
        code, answer = shell.run("ask", shell.config, "pump-1", "dance")
        assert (code, answer["state"]) == (1, "refused")
        code, answer = shell.run("ask", shell.config, "pump-2", "echo", "--timeout-s", "0.5")
        assert (code, answer["state"]) == (4, "silent")
        assert shell.run("ask", shell.config, "pump-1", "echo", "hello")[0] == 2


@contextmanager
def answering(port: int) -> Iterator[None]:
    """Be the device pump-1, which can ``echo``."""
    transport = PahoTransport(SyncConfig(port=port), "pump-1", SystemClock())
    commands = Commands("pump-1", {"echo": dict}, SystemClock())
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            event = transport.receive(1.0)
            if isinstance(event, Message):
                answer = commands.answer(decode(event.payload, Command))
                transport.publish(Message(Topics().up("pump-1", "evt"), answer))

    transport.open([Topics().dn("pump-1", "#")], None)
    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    transport.wake()
    thread.join()
    transport.close()
