"""``edge-runtime device``: a YAML from a handful of answers."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.backends import onnx
from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.config import load_device

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "fan_vibration"
BUNDLE = EXAMPLE / "bundles" / "fan-unbalance-1.0.0"
SENSOR = [
    *("--sensor", "csv", "--set", f"path={EXAMPLE}/fan_vibration_part.csv"),
    *("--set", "time={start: '2019-01-01T00:00:00Z', step_s: 0.02}"),
]


class Terminal(io.StringIO):
    """What somebody types."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own, and nobody can be asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path


def _init(*flags: str) -> int:
    return main(["device", "init", "--model", str(BUNDLE), *SENSOR, *flags])


def test_flags_alone_draft_a_device_that_checks_out(folder: Path) -> None:
    """The board fills in what it is known for."""
    code = _init("--name", "fan-1", "--board", "raspberry-pi-zero-2w", "--broker", "broker:1884")

    config = load_device(folder / "fan-1.yaml")
    assert code == 0
    assert config.sync is not None
    assert (config.sync.host, config.sync.port) == ("broker", 1884)
    assert config.outbox.quota_mb == 64
    assert config.streams["main"].source["kind"] == "csv"


@pytest.mark.parametrize(
    ("flags", "port", "is_told_to_enroll"),
    [
        (("--broker", "broker.example"), 8883, True),
        (("--broker", "broker.example", "--ca-file", "ca.pem"), 8883, False),
        (("--broker", "localhost"), 1883, False),
    ],
)
def test_a_link_to_another_machine_is_drafted_with_tls(
    folder: Path,
    flags: tuple[str, ...],
    port: int,
    is_told_to_enroll: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The port is that of TLS, and who names no authority is told how to get one."""
    (folder / "ca.pem").touch()

    assert _init("--name", "fan-1", *flags) == 0

    sync = load_device(folder / "fan-1.yaml").sync
    assert sync is not None
    assert sync.port == port
    assert ("device enroll" in capsys.readouterr().out) == is_told_to_enroll


def test_what_was_not_given_is_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the options that the sensor cannot do without."""
    answers = ["", "raspberry-pi-4", "csv", str(BUNDLE), "", f"{EXAMPLE}/fan_vibration_part.csv"]
    answers.append("{start: '2019-01-01T00:00:00Z', step_s: 0.02}")
    monkeypatch.setattr(sys, "stdin", Terminal("\n".join(answers) + "\n"))

    assert main(["device", "init", "-o", "mine.yaml"]) == 0

    assert load_device(folder / "mine.yaml").streams["main"].model.threads == 2
    assert "Board (" in capsys.readouterr().out


def test_a_model_that_comes_along_is_copied_beside_the_yaml(folder: Path) -> None:
    """An upgrade of the package does not change what the device runs."""
    code = main(["device", "init", "--name", "fan-1", "--model", "fan-unbalance", *SENSOR])

    model = load_device(folder / "fan-1.yaml").streams["main"].model
    copy = folder / "bundles" / BUNDLE.name
    assert code == 0
    assert model.bundle == copy
    assert load_bundle(copy).digest == load_bundle(BUNDLE).digest


def test_a_copy_goes_with_answers_that_do_not_check_out(folder: Path) -> None:
    """And one that was there stays."""
    init = ["device", "init", "--name", "fan-1", "--model", "fan-unbalance", *SENSOR]
    copy = folder / "bundles" / BUNDLE.name

    assert main([*init, "--set", "columnz=3"]) == 2
    assert not copy.exists()
    assert main(init) == 0
    assert main([*init, "--force", "--set", "columnz=3"]) == 2
    assert load_bundle(copy).digest == load_bundle(BUNDLE).digest


def test_a_model_that_is_nowhere_is_told_with_those_that_come_along(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A name is soon mistyped."""
    assert main(["device", "init", "--model", "fan-unbalence", *SENSOR]) == 2
    assert "Did you mean 'fan-unbalance'?" in capsys.readouterr().err


def test_in_a_terminal_sensor_and_model_are_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything else has a default, and nothing is asked."""
    monkeypatch.setattr(sys, "stdin", Terminal())

    assert _init("-o", "mine.yaml") == 0
    assert "?" not in capsys.readouterr().out
    assert load_device(folder / "mine.yaml").sync is None


def test_an_existing_file_is_not_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    """Unless that is asked for."""
    _init("--name", "fan-1")

    assert _init("--name", "fan-1") == 2
    assert "--force" in capsys.readouterr().err
    assert _init("--name", "fan-1", "--force") == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--board", "raspberry-pi-44"], "Did you mean 'raspberry-pi-4"),
        (["--broker", "host:0"], "HOST:PORT"),
        (["--set", "nothing"], "KEY=VALUE"),
        (["--set", "columnz=3"], "columns"),
        (["--name", "Fan 1"], "device id"),
    ],
)
def test_a_wrong_answer_says_what_was_expected(
    flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, and what to do."""
    assert _init(*flags) == 2
    assert said in capsys.readouterr().err


def test_answers_that_do_not_check_out_leave_no_file_behind(folder: Path) -> None:
    """The next try is not in the way of the first, and a file that was there stays."""
    assert _init("--name", "fan-1", "--set", "columnz=3") == 2
    assert not (folder / "fan-1.yaml").exists()
    assert _init("--name", "fan-1") == 0
    before = (folder / "fan-1.yaml").read_text()
    assert _init("--name", "fan-1", "--force", "--set", "columnz=3") == 2
    assert (folder / "fan-1.yaml").read_text() == before


def test_where_nobody_can_be_asked_the_missing_flag_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A script does not hang at a question."""
    assert main(["device", "init"]) == 2
    assert "--sensor" in capsys.readouterr().err


def test_the_unit_can_be_seen_before_anything_is_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without any rights."""
    _init("--name", "fan-1")
    capsys.readouterr()

    assert main(["device", "install", "fan-1.yaml", "--print", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["device"] == "fan-1"
    assert "Type=notify" in told["unit"]


@pytest.fixture
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which only the other runtime is installed."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    onnx._probe.cache_clear()
    yield
    onnx._probe.cache_clear()


@pytest.mark.usefixtures("without_onnx")
def test_a_runtime_that_is_not_installed_is_not_waited_for(folder: Path) -> None:
    """The bundle prefers another than the one that is here, and the YAML says so."""
    assert _init("--name", "fan-1") == 0
    assert load_device(folder / "fan-1.yaml").streams["main"].model.backend == "litert"


@pytest.mark.usefixtures("without_onnx")
def test_the_runtime_of_another_board_is_left_to_its_bundle(folder: Path) -> None:
    """What is installed here says nothing about it."""
    assert _init("--name", "fan-1", "--board", "raspberry-pi-5") == 0
    assert load_device(folder / "fan-1.yaml").streams["main"].model.backend is None
