"""A device in one YAML file: read, completed, and checked across its parts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime import registry
from edge_runtime.bundle import Bundle, Golden, pack, read_archive, save_bundle, write_golden
from edge_runtime.config import DeviceConfig, ModelConfig, StreamConfig, load_device, split_kind
from edge_runtime.config.check import Inspection, check_device
from edge_runtime.errors import BundleError, ConfigError, EdgeError, ShapeError
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    ImageSpec,
    ModelSpec,
    OutputSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.types import TensorSpec

DEVICE = """\
device: pump-1
state: state
streams:
  x:
    source: {kind: csv, path: rows.csv, rate_hz: 3200, time: {column: t}}
    model: {bundle: pump}
sinks:
  - kind: terminal
  - {kind: jsonl, path: out/x.jsonl}
sync: {host: broker.example, password_file: password}
trust: {release_keys: [release.pem]}
"""


def _spec(output: OutputSpec = OutputSpec()) -> ModelSpec:  # noqa: B008
    return ModelSpec(
        name="pump-bearing",
        version="2.1",
        kind="classifier",
        stream=StreamSpec((ChannelSpec("x", "g"), ChannelSpec("y", "g")), 3200.0),
        window=WindowSpec(4, 2),
        artefacts=(ArtefactSpec("tflite", "model.tflite", "int8"),),
        labels=("ok", "worn"),
        output=output,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    golden = write_golden(Golden(np.zeros((1, 4, 2)), np.zeros((1, 2))))
    save_bundle(tmp_path / "pump", _spec(), {"model.tflite": b"m", "golden.npz": golden})
    (tmp_path / "password").write_text("hunter2")
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "release.pem").write_text("key")
    return tmp_path


def _load(folder: Path, old: str = "", new: str = "") -> DeviceConfig:
    assert old in DEVICE
    path = folder / "pump.yaml"
    path.write_text(DEVICE.replace(old, new, 1) if old else DEVICE)
    return load_device(path)


def test_device_is_read_with_paths_beside_its_file(folder: Path) -> None:
    """Every relative path is relative to the file, in plug-ins too."""
    config = _load(folder)

    assert config.device == "pump-1"
    assert config.state == folder / "state"
    assert config.streams["x"].model.bundle == folder / "pump"
    assert config.streams["x"].source["path"] == str(folder / "rows.csv")
    assert config.sinks[1]["path"] == str(folder / "out" / "x.jsonl")
    assert config.sync is not None
    assert config.sync.password_file == folder / "password"


def test_completed_options_build_the_plugins(folder: Path) -> None:
    """What load returns is what the registry takes."""
    config = _load(folder)

    for group, options in [("sources", config.streams["x"].source), ("sinks", config.sinks[0])]:
        kind, rest = split_kind(options)
        assert registry.create(group, kind, rest)  # type: ignore[arg-type]


def test_graph_tells_what_will_run(folder: Path) -> None:
    """The resolved graph names channels, units, rates, model and sinks."""
    graph = check_device(_load(folder))

    (stream,) = graph.streams
    assert (stream.source, stream.model) == ("csv", "pump-bearing@2.1")
    assert stream.artefact == "model.tflite"
    assert [(channel.name, channel.unit) for channel in stream.channels] == [("x", "g"), ("y", "g")]
    assert (stream.rate_hz, stream.features, stream.labels) == (3200.0, ("raw",), ("ok", "worn"))
    assert graph.sinks == ("terminal", "jsonl")
    assert graph.sync == "mqtts://broker.example:1883"
    assert graph.is_updatable


def test_rate_that_does_not_fit_reads_like_the_style_guide(folder: Path) -> None:
    """Where, what is, what was expected, what to do."""
    config = _load(folder, "rate_hz: 3200", "rate_hz: 1600")

    with pytest.raises(ConfigError) as caught:
        check_device(config)

    assert str(caught.value) == (
        f"{folder}/pump.yaml:5:50: streams.x.source.rate_hz is 1600, "
        "but model pump-bearing@2.1 needs 3200 Hz.\n"
        "  Set streams.x.source.rate_hz to 3200, or convert the model with --rate-hz 1600."
    )


IMAGES = "kind: images, path: ., time: {start: 2013-01-01T00:00:00Z, step_s: 0.1}}"
CSV = "kind: csv, path: rows.csv, rate_hz: 3200, time: {column: t}}"


def test_a_source_of_images_needs_a_model_of_images(folder: Path) -> None:
    """That is found before any picture is looked at."""
    with pytest.raises(
        ConfigError, match=r"delivers images, but model pump-bearing@2\.1 needs none"
    ):
        check_device(_load(folder, CSV, IMAGES))


def test_graph_tells_what_images_look_like(folder: Path) -> None:
    """A model of images fits."""
    channels = tuple(ChannelSpec(f"c{number}") for number in range(6))
    stream = StreamSpec(channels, 40.0, ImageSpec(4, 2))
    window = WindowSpec(4, 4)
    spec = msgspec.structs.replace(_spec(), stream=stream, window=window)
    golden = write_golden(Golden(np.zeros((1, 4, 6)), np.zeros((1, 2))))
    save_bundle(folder / "pump", spec, {"model.tflite": b"m", "golden.npz": golden})

    graph = check_device(_load(folder, CSV, IMAGES))

    assert graph.streams[0].image == ImageSpec(4, 2)


BAD_KEYS = [
    ("device: pump-1", "device: Pump 1", r"pump.yaml:1:9: device id is 'Pump 1'"),
    ("  x:", "  X:", r"pump.yaml:4:3: stream name is 'X'"),
    ("  x:", f"  {'x' * 60}:", r"stream name with -decisions is"),
    ("  x:", "  y: {source: {kind: wav}, model: {bundle: b}, uplod: none}\n  x:", "'upload'"),
    ("sync:", "snc:", r"pump.yaml:10:1: unknown key 'snc'.*\n  Did you mean 'sync'\?"),
    ("state: state", "state: 5", r"pump.yaml:2:8: state is 5"),
    ("streams:", "streams: {}\nsink:", "unknown key 'sink'"),
    ("rate_hz: 3200", "rate_hz: fast", r"streams.x.source.rate_hz is 'fast'.*a number"),
    ("rate_hz: 3200", "ratehz: 3200", r"pump.yaml:5:41: unknown key 'streams.x.source.ratehz'"),
    ("kind: csv", "kind: cvs", r"5:20: streams.x.source.kind is 'cvs'.*Did you mean 'csv'"),
    ("kind: csv, ", "", "key 'streams.x.source.kind' is missing"),
    ("path: rows.csv, ", "", "key 'streams.x.source.path' is missing"),
    ("{column: t}", "{start: now, step_s: 1}", "streams.x.source.time.start is 'now'"),
    ("{column: t}", "{start: 2013-01-01T00:00:00, step_s: 1}", "source.time.start"),
    ("{column: t}", "{step_s: 1}", "neither a column nor a start"),
    ("{column: t}", "{start: 2013-01-01T00:00:00Z, step_s: 3600}", "rate_hz is 3200 and time.step"),
    ("kind: terminal", "kind: terminl", r"sinks\[0\].kind is 'terminl'"),
    ("kind: terminal", "color: auto", r"key 'sinks\[0\].kind' is missing"),
    ("kind: jsonl, path", "kind: jsonl, pfad", r"unknown key 'sinks\[1\].pfad'"),
    ("host: broker.example", "port: 70000", r"sync.port is 70000; expected .*<= 65535"),
    ("release_keys: [release.pem]", "release_keys: []", "trust.release_keys is a list of 0"),
    ("bundle: pump", "bundle: pump, threads: 0", "streams.x.model.threads is 0"),
    ("device: pump-1", "device: pump-1\nschema: 2", "schema is 2; expected at most 1"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD_KEYS)
def test_bad_keys_are_found_when_reading(folder: Path, old: str, new: str, message: str) -> None:
    """Wrong keys and types fail at load with place and remedy, plug-in options included."""
    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        _load(folder, old, new)

    assert caught.value.where.startswith(f"{folder}/pump.yaml:")
    assert caught.value.remedy


BAD_PARTS = [
    ("time: {column: t}", "columns: {x: 1}, time: {column: t}", r"5:65: .*needs y"),
    (
        "rate_hz: 3200, time: {column: t}",
        "time: {start: 2013-01-01T00:00:00Z, step_s: 1}",
        "streams.x.source delivers 1 Hz",
    ),
    ("bundle: pump", "bundle: pmp", r"6:21: streams.x.model.bundle is .*does not exist"),
    (
        "bundle: pump",
        "bundle: pump, backend: litetr",
        r"6:36: .*is 'litetr'.*mean 'litert'",
    ),
    ("bundle: pump", "bundle: pump, backend: onnx", "has model files for tflite, none for 'onnx'"),
    ("password_file: password", "password_file: pw", "sync.password_file is .*no file"),
    ("password_file: password", "ca_file: ca.pem", "sync.ca_file is .*no file"),
    ("[release.pem]", "[release.pem, other.pem]", r"11:37: trust.release_keys\[1\] is .*no file"),
]


@pytest.mark.parametrize(("old", "new", "message"), BAD_PARTS)
def test_parts_that_do_not_fit_are_found_by_check(
    folder: Path, old: str, new: str, message: str
) -> None:
    """What only shows across parts fails in check, before hardware is touched."""
    config = _load(folder, old, new)

    with pytest.raises(ConfigError, match=f"(?s){message}") as caught:
        check_device(config)

    assert caught.value.where.startswith(f"{folder}/pump.yaml:")
    assert caught.value.remedy


def test_secret_that_others_can_read_is_refused(folder: Path) -> None:
    """A password file must belong to its owner alone; the password is never shown."""
    (folder / "password").chmod(0o640)

    with pytest.raises(ConfigError, match=r"mode 0640; expected mode 0600 or stricter") as caught:
        check_device(_load(folder))

    assert "hunter2" not in str(caught.value)
    assert "chmod 600" in caught.value.remedy


def test_broken_bundle_stays_a_bundle_error(folder: Path) -> None:
    """A bundle that is there but unsound is not the configuration's fault."""
    (folder / "pump" / "golden.npz").unlink()

    with pytest.raises(BundleError, match=r"golden\.npz"):
        check_device(_load(folder))


def test_packed_bundle_serves_as_well(folder: Path) -> None:
    """The bundle may be one zip file."""
    bundle = check_device(_load(folder)).streams[0].digest
    packed = pack(_bundle(folder))
    (folder / "pump.zip").write_bytes(packed)

    graph = check_device(_load(folder, "bundle: pump", "bundle: pump.zip"))

    assert graph.streams[0].digest == bundle == read_archive(packed).digest


def _bundle(folder: Path) -> Bundle:
    from edge_runtime.bundle import load_bundle

    return load_bundle(folder / "pump")


def test_names_are_checked_in_code_too() -> None:
    """A configuration built without a file obeys the same grammar."""
    stream = StreamConfig({"kind": "csv"}, ModelConfig(Path("b")))

    with pytest.raises(ConfigError, match="device id"):
        DeviceConfig("Pump", Path("s"), {"x": stream})
    with pytest.raises(ConfigError, match="under which decisions of 'x' travel"):
        DeviceConfig("pump", Path("s"), {"x": stream, "x-decisions": stream})


def test_duplicate_streams_are_refused(folder: Path) -> None:
    """Two streams of one name are a duplicate key."""
    with pytest.raises(ConfigError, match="key 'x' stands here twice"):
        _load(folder, "sinks:", "  x: {source: {kind: wav}, model: {bundle: b}}\nsinks:")


def _tensors(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Inspection:
    return Inspection(
        (4, 2),
        (TensorSpec("in", inputs, "int8", 0.1, 0),),
        (TensorSpec("out", outputs, "int8", 0.1, 0),),
    )


def test_inspection_of_a_fitting_model_is_part_of_the_graph(folder: Path) -> None:
    """Shapes are shown when the model may be opened."""
    inspection = _tensors((1, 4, 2, 1), (1, 2))

    graph = check_device(_load(folder), inspect=lambda *_: inspection)

    assert graph.streams[0].inspection == inspection


@pytest.mark.parametrize(
    ("inspection", "message"),
    [
        (_tensors((1, 9), (1, 2)), "features of model .*'in'"),
        (_tensors((1, 8), (1, 3)), "labels of model .*'out'"),
        (Inspection((4, 2), (), ()), "has 0 inputs"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, inspection: Inspection, message: str
) -> None:
    """Features, tensors and labels must agree before anything runs."""
    with pytest.raises(EdgeError, match=message) as caught:
        check_device(_load(folder), inspect=lambda *_: inspection)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_autoencoder_must_answer_in_the_shape_of_its_input(folder: Path) -> None:
    """With reconstruction the output is compared with the input, not with labels."""
    files = {n: c for n, c in _bundle(folder).files.items() if n != "bundle.yaml"}
    save_bundle(folder / "pump", _spec(OutputSpec("reconstruction")), files)
    config = _load(folder)

    assert check_device(config, inspect=lambda *_: _tensors((1, 8), (1, 8)))
    with pytest.raises(ShapeError, match="output of model"):
        check_device(config, inspect=lambda *_: _tensors((1, 8), (1, 2)))


SYNC = """\
device: pump-1
state: state
streams: {main: {source: {kind: csv, path: x.csv, time: {start: 2013-01-01T00:00:00Z, step_s: 1}},
                 model: {bundle: bundle}}}
sync: {host: broker.example, %s}
"""


@pytest.mark.parametrize(
    ("keys", "is_encrypted"),
    [
        ("tls: on", True),
        ("tls: off", False),
        ("port: 1883", False),
        ("ca_file: ca.pem", True),
        ("cert_file: device.pem", True),
    ],
)
def test_a_link_says_whether_it_is_encrypted(tmp_path: Path, keys: str, is_encrypted: bool) -> None:
    """On and off are said in words; files for TLS say on."""
    (tmp_path / "device.yaml").write_text(SYNC % keys)
    sync = load_device(tmp_path / "device.yaml").sync

    assert sync is not None
    assert sync.is_encrypted == is_encrypted


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ("tls: off, ca_file: ca.pem", "tls is off, but files for it are named"),
        ("key_file: device.key", "there is a key_file and no cert_file"),
        ("tls: perhaps", "perhaps"),
    ],
)
def test_a_link_that_contradicts_itself_is_refused(tmp_path: Path, keys: str, what: str) -> None:
    """What cannot be meant is told where it stands."""
    (tmp_path / "device.yaml").write_text(SYNC % keys)

    with pytest.raises(ConfigError, match=what):
        load_device(tmp_path / "device.yaml")
