"""``edge-runtime stream --key``: each of many devices gets what it gets alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.cli import main
from edge_runtime.config import device_of
from edge_runtime.config.document import dump_yaml, parse_document
from edge_runtime.errors import ConfigError
from edge_runtime.modes.keyed import KeyedStream
from edge_runtime.testing import FakeClock

from .conftest import TIME_WORDS, Rows, Told, rows_of_devices, told_of  # isort: skip

DEVICES = 1000
PATIENCE_S = 60.0
_HOLDS = (
    "import sys, time; from pathlib import Path; from edge_runtime.sync.hold import hold\n"
    "with hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
)

Alone = Callable[[Rows, str], Told]


def _words(bundle: Path, rows: Path, out: Path, *more: str, speed: str = "max") -> list[str]:
    source = f"npz:path={rows},time={{column: time_ns, format: unix_ns}},speed={speed}"
    sink = f"jsonl:path={out}"
    words = ["stream", str(bundle), "--source", source, "--sink", sink, "--time", TIME_WORDS]
    return [*words, "--key", "device", *more]


def _by_device(path: Path) -> dict[str, Told]:
    found: dict[str, list[Any]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["device"], []).append(row)
    return {device: told_of(rows) for device, rows in found.items()}


@pytest.mark.slow
def test_a_thousand_devices_with_wrong_clocks_in_one_process(
    bundle: Path, alone: Alone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A day off, 1 % wild, late and interleaved, evicted and woken: as each has it alone."""
    rows = rows_of_devices(DEVICES)
    out = tmp_path / "out.jsonl"

    code = main(_words(bundle, rows.save(tmp_path / "r.npz"), out, "--live", "100", "--json"))

    status = json.loads(capsys.readouterr().out)
    found = _by_device(out)
    assert code == 0
    for device in np.unique(rows.device).tolist():
        assert found[device] == alone(rows, device)
    assert (status["devices"], status["position"]) == (DEVICES, len(rows.device))
    assert status["live"] <= 100 < status["evicted"]
    assert status["discarded"]["future"] > 0
    assert sum(row["revision"] > 0 for told in found.values() for row in told["estimate"]) > 100


@pytest.mark.slow
def test_killed_and_resumed_each_device_is_as_without_a_break(
    bundle: Path, alone: Alone, tmp_path: Path
) -> None:
    """SIGKILL again and again, with keys asleep and awake: no line is lost or there twice."""
    rows, out, kills = rows_of_devices(40, seed=1), tmp_path / "out.jsonl", 0
    more = ("--state", str(tmp_path / "state"), "--snapshot-s", "0.02", "--live", "7")
    archive = rows.save(tmp_path / "r.npz")
    words = _words(bundle, archive, out, *more)
    words[4] = words[4].replace("npz:", "npz:block=20,")

    while True:
        child = subprocess.Popen([sys.executable, "-m", "edge_runtime.cli", *words])
        if kills < 4 and _has_grown(out, child):
            child.kill()
        kills += child.wait(PATIENCE_S) == -signal.SIGKILL
        if child.returncode == 0:
            break

    assert kills >= 2
    found = _by_device(out)
    assert {device: told == alone(rows, device) for device, told in found.items()} == dict.fromkeys(
        np.unique(rows.device).tolist(), True
    )


def test_a_state_folder_that_another_process_has_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second of two commands on one folder ends with code 1, says why, and changes nothing."""
    state, out = tmp_path / "state", tmp_path / "out.jsonl"
    words = _words(bundle, rows_of_devices(5).save(tmp_path / "r.npz"), out, "--state", str(state))

    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, str(state)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code = main(words)
        other.kill()

    assert code == 1
    assert "another process runs on this folder" in capsys.readouterr().err
    assert [path.name for path in state.iterdir()] == ["device.lock"]
    assert main(words) == 0
    assert len(_by_device(out)) == 5


def _has_grown(path: Path, child: subprocess.Popen[bytes]) -> bool:
    """Wait until a child has written something; False if it ended first."""
    before = path.stat().st_size if path.exists() else 0
    until = time.monotonic() + PATIENCE_S
    while child.poll() is None and time.monotonic() < until:
        if path.exists() and path.stat().st_size > before + 2000:
            return True
    return False


def test_rows_without_a_device_and_devices_too_many_are_counted(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is answered, and nobody else notices."""
    rows = rows_of_devices(5, wild=0.0)
    rows.device = rows.device.astype("<U256")
    rows.device[::50] = ""
    rows.device[1] = "x" * 256
    out = tmp_path / "out.jsonl"
    words = _words(bundle, rows.save(tmp_path / "r.npz"), out, "--most-keys", "3", "--json")

    main(words)

    status = json.loads(capsys.readouterr().out)
    assert status["devices"] == len(_by_device(out)) == 3
    assert status["discarded"]["no_key"] == len(rows.device[::50]) + 1
    assert status["discarded"]["too_many_keys"] > 50


def test_a_model_without_a_grid_counts_each_device_by_itself(tmp_path: Path) -> None:
    """Indexes, gaps and order are those of the device's own rows."""
    folder = Path(__file__).parents[4] / "examples/gas_turbine"
    lines = (folder / "gas_turbine_2011_2015.csv").read_text().splitlines()[:61]
    rows = [f"{line},{'ab'[i % 2]}" for i, line in enumerate(lines[1:])]
    (tmp_path / "two.csv").write_text("\n".join([f"{lines[0]},site", *rows]) + "\n")
    source = f"csv:path={tmp_path / 'two.csv'},time={{start: 2011-01-01T00:00:00Z,step_s: 1800}}"
    bundle = str(folder / "bundles" / "turbine-nox-1.0.0")
    words = ["stream", bundle, "--source", source, "--key", "site"]

    code = main([*words, "--sink", f"jsonl:path={tmp_path / 'out.jsonl'}"])

    found = _by_device(tmp_path / "out.jsonl")
    indexes = {device: [row["index"] for row in told["estimate"]] for device, told in found.items()}
    assert code == 0
    assert indexes == {"a": list(range(30)), "b": list(range(30))}


@pytest.mark.parametrize(
    ("more", "message"),
    [(("--sink", "gpio:pins=[{pin: 17, label: high}],factory=mock"), "one device")],
)
def test_what_does_not_go_with_many_devices_is_refused(
    more: tuple[str, ...],
    message: str,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sink that can show one device only."""
    archive = rows_of_devices(1).save(tmp_path / "r.npz")

    code = main(_words(bundle, archive, tmp_path / "out.jsonl", *more))

    assert code == 2
    assert message in capsys.readouterr().err


def test_a_source_of_one_device_has_no_key(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names those that have."""
    code = main(["stream", str(bundle), "--source", "wav:path=x.wav", "--key", "device"])

    assert code == 2
    assert "csv, mqtt, npz, parquet" in capsys.readouterr().err


def _declared(bundle: Path, rows: Path, folder: Path, **more: Any) -> dict[str, Any]:
    time_words = {"column": "time_ns", "format": "unix_ns"}
    source = {"kind": "npz", "path": str(rows), "time": time_words, "key": "device"}
    return {
        "device": "host",
        "state": str(folder / "state"),
        "streams": {"main": {"source": source, "model": {"bundle": str(bundle)}}},
        "sinks": [{"kind": "jsonl", "path": str(folder / "out.jsonl")}],
        **more,
    }


def _stream(declared: dict[str, Any], **more: Any) -> KeyedStream:
    config = device_of(parse_document(dump_yaml(declared), "test"), Path())
    return KeyedStream(config, **more)


def test_a_device_that_runs_refuses_rows_of_many(bundle: Path, tmp_path: Path) -> None:
    """They would be taken for one; the message says what is meant."""
    from edge_runtime.config.check import check_device

    archive = rows_of_devices(2).save(tmp_path / "r.npz")
    config = device_of(
        parse_document(dump_yaml(_declared(bundle, archive, tmp_path)), "test"), Path()
    )

    with pytest.raises(ConfigError, match="of many devices") as caught:
        check_device(config)

    assert "--key" in caught.value.remedy


def test_metrics_are_totals(bundle: Path, tmp_path: Path) -> None:
    """However many devices there are, a count is one line."""
    from edge_runtime.metrics import render

    stream = _stream(_declared(bundle, rows_of_devices(9).save(tmp_path / "r.npz"), tmp_path))
    stream.run()

    lines = render(stream.metrics()).splitlines()

    scored = [line for line in lines if line.startswith("windows_scored_total")]
    assert scored == [f'windows_scored_total{{stream="main"}} {stream.status().estimates}']
    assert 'devices_known{stream="main"} 9' in lines
    assert not any("m-1" in line for line in lines)


def test_a_damaged_snapshot_costs_its_device_alone(bundle: Path, tmp_path: Path) -> None:
    """It begins anew and is counted; the others go on."""
    from edge_runtime.modes.keyed.store import KeyStore

    archive = rows_of_devices(3, wild=0.0).save(tmp_path / "r.npz")
    _stream(_declared(bundle, archive, tmp_path)).run()
    store = KeyStore(tmp_path / "state" / "keys.db", FakeClock())
    store["m-1"] = b"\xc1"
    store.commit("main", 0, {})
    store.close()

    stream = _stream(_declared(bundle, archive, tmp_path))
    stream.run()

    assert stream.status().unusable == 1
    assert stream.status().devices == 3


def test_more_than_one_stream_is_refused(bundle: Path, tmp_path: Path) -> None:
    """One process answers the devices of one source."""
    declared = _declared(bundle, tmp_path / "r.npz", tmp_path)
    declared["streams"]["other"] = declared["streams"]["main"]

    with pytest.raises(ConfigError, match="2 streams"):
        _stream(declared)
