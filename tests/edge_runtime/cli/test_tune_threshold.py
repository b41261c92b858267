"""``tune-threshold`` on real recordings: keywords in raw audio, and a fan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.backends import load_session
from edge_runtime.bundle import Golden, load_bundle, save_bundle, write_golden
from edge_runtime.cli import main
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import (
    ArtefactSpec,
    ChannelSpec,
    Limit,
    LogMel,
    Mfcc,
    ModelSpec,
    StreamSpec,
    WindowSpec,
)
from edge_runtime.update.proof import golden_windows

pytest.importorskip("ai_edge_litert")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[3]
DATA = ROOT / "tests/data"
FAN = ROOT / "examples/fan_vibration/bundles/fan-unbalance-1.0.0"
FAN_ROWS = ROOT / "examples/fan_vibration/fan_vibration_part.csv"
FAN_TRUTH = ["--label-column", "Sensor Configuration", "--event", "1=unbalance-1"]
LABELS = "down go left no off on right stop up yes silence unknown"
RATE_HZ = 16_000
CLIPS = 500


@pytest.fixture(scope="module")
def keywords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that listens for "yes", and 500 clips as one recording with its events."""
    folder = tmp_path_factory.mktemp("keywords")
    clips = np.load(DATA / "keywords/clips_int16_16k.npz")
    model = (DATA / "models/kws_dscnn_int8.tflite").read_bytes()
    mel = LogMel(480, 320, 512, 40, 20, 4000, peak=True)
    spec = ModelSpec(
        name="keywords",
        version="1.0.0",
        kind="classifier",
        stream=StreamSpec((ChannelSpec("audio"),), RATE_HZ),
        window=WindowSpec(RATE_HZ, RATE_HZ),
        artefacts=(ArtefactSpec("tflite", "model.tflite", "int8"),),
        labels=tuple(LABELS.split()),
        features=(Mfcc(mel, 10),),
        limits=(Limit("no", 0.9, 0.5),),
    )
    pipeline = Pipeline(spec, load_session(None, "tflite", model), base="0" * 64)
    inputs = clips["audio"][:4, :, None]
    outputs = pipeline.score_windows(golden_windows(inputs)).score
    files = {"model.tflite": model, "golden.npz": write_golden(Golden(inputs, outputs))}
    save_bundle(folder / "bundle", spec, files)
    np.savez(folder / "clips.npz", audio=clips["audio"].reshape(-1))
    said = [LABELS.split()[number] for number in clips["label"]]
    # A window ends with the last sample of its clip, just before the next one begins.
    rows = [f"{second},{second + 0.99995},{word}" for second, word in enumerate(said)]
    (folder / "events.csv").write_text("\n".join(["start,end,label", *rows]) + "\n")
    return folder


def tuned(folder: Path, *words: object) -> list[str]:
    """Return the words of a command on the keywords."""
    truth = ["--events", str(folder / "events.csv"), "--tolerance-s", "0"]
    return [
        "tune-threshold",
        str(folder / "bundle"),
        str(folder / "clips.npz"),
        *truth,
        *map(str, words),
    ]


def test_a_keyword_gets_its_operating_point(
    keywords: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From audio to a new bundle, which decides in batch mode as the report says."""
    made, picture = tmp_path / "tuned", tmp_path / "curve.png"

    code = main(
        tuned(
            keywords,
            *("--false-alarms-per-hour", 60, "--label", "yes", "--gap", 0),
            *("-o", made, "--plot", picture, "--json"),
        )
    )

    report = json.loads(capsys.readouterr().out)
    bundle = load_bundle(made)
    (found,) = report["labels"]
    outcome = found["point"]["outcome"]
    assert code == 0
    assert (found["verdict"], found["label"]) == ("proven", "yes")
    assert found["point"]["highest_per_hour"] <= 60
    assert outcome["found"] / found["events"] > 0.8
    assert (bundle.spec.version, bundle.digest) == ("1.0.1", report["digest"])
    assert [limit.label for limit in bundle.spec.limits] == ["no", "yes"]
    assert json.loads(bundle.files["operating-point.json"])["labels"] == report["labels"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(batch(made, keywords, tmp_path)) == 0
    starts = (tmp_path / "scores.decisions.csv").read_text().count(",yes,start,")
    assert starts == outcome["found"] + outcome["false_alarms"] + outcome["repeats"]


def batch(bundle: Path, folder: Path, to: Path) -> list[str]:
    """Return the words that score the clips with decisions."""
    clips, output = str(folder / "clips.npz"), str(to / "scores.csv")
    return ["batch", str(bundle), clips, "-o", output, "--decisions", "--quiet"]


def test_too_little_audio_is_inconclusive_and_writes_nothing(
    keywords: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight minutes cannot prove one false alarm in five hours; --anyway takes it as it is."""
    words = tuned(
        keywords, "--false-alarms-per-hour", 0.2, "--label", "yes", "-o", tmp_path / "tuned"
    )

    code = main(words)

    out = capsys.readouterr().out
    assert code == 4
    assert "Inconclusive: 0.126 h without an event are too few to prove 0.2 an hour" in out
    assert "it takes 15 h without a single false alarm" in out
    assert not (tmp_path / "tuned").exists()
    assert main([*words, "--anyway"]) == 4
    assert load_bundle(tmp_path / "tuned").spec.version == "1.0.1"


def test_the_table_marks_the_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """One row for each label, and what was chosen in words."""
    code = main(
        ["tune-threshold", str(FAN), str(FAN_ROWS), *FAN_TRUTH, "--false-alarms-per-hour", "120"]
    )

    out = capsys.readouterr().out
    assert code == 0
    assert "unbalance-1: 1 event, 0.0261 h without one" in out
    assert sum(line.startswith("*") for line in out.splitlines()) == 1
    assert "Proven at 95%, having tried 1 way to decide." in out


def test_everything_can_be_searched_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Temperature, smoothing, k-of-n, refractory time and gap, and the bundle says so."""
    truth = [*FAN_TRUTH, "--event", "2=unbalance-2", "--event", "3=unbalance-3"]

    code = main(
        [
            *("tune-threshold", str(FAN), str(FAN_ROWS), *truth),
            *("--false-alarms-per-hour", "400", "--smoothing", "1", "median:3", "half:2"),
            *("--k-of-n", "1/1", "2/3", "--refractory-s", "0", "6", "--gap", "0", "0.2"),
            *("--fit-temperature", "--json", "-o", str(tmp_path / "tuned")),
        ]
    )

    report = json.loads(capsys.readouterr().out)
    assert code == 0
    assert {one["tried"] for one in report["labels"]} == {24}
    output = load_bundle(tmp_path / "tuned").spec.output
    assert output.temperature == report["temperature"] != 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "neither --label-column nor --events is given"),
        ([*FAN_TRUTH, "--events", "x.csv"], "or both are"),
        (["--label-column", "nope"], "nope"),
        (["--label-column", "Sensor Configuration"], "no event of any label"),
        ([*FAN_TRUTH, "--label", "unbalance-2"], "no event of unbalance-2"),
        ([*FAN_TRUTH, "--event", "2=broken"], "--event names the label 'broken'"),
        ([*FAN_TRUTH, "--event", "2"], "--event is '2'"),
        ([*FAN_TRUTH, "--smoothing", "median"], "--smoothing is 'median'"),
        ([*FAN_TRUTH, "--smoothing", "alpha:2"], "--smoothing is 'alpha:2'"),
        ([*FAN_TRUTH, "--k-of-n", "3/2"], "--k-of-n is '3/2'"),
        ([*FAN_TRUTH, "--false-alarms-per-hour", "0"], "--false-alarms-per-hour is '0.0'"),
        ([*FAN_TRUTH, "--false-alarms-per-hour", "nan"], "--false-alarms-per-hour is 'nan'"),
        ([*FAN_TRUTH, "--reject-error", "1"], "--reject-error is '1.0'"),
        ([*FAN_TRUTH, "--reject-error", "0.1"], "there are 1 events for an error rate"),
        ([*FAN_TRUTH, "--tolerance-s", "-1"], "--tolerance-s is '-1.0'"),
        ([*FAN_TRUTH, "--events", "none.csv"], "or both are"),
        (["--events", "none.csv"], "none.csv:1: cannot be read"),
        ([*FAN_TRUTH, "--plot", "curve.nope"], "curve.nope: cannot be written"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_wrong_words_say_what_is_expected(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Usage and data files that people write end with code 2."""
    code = main(
        ["tune-threshold", str(FAN), str(FAN_ROWS), "--false-alarms-per-hour", "120", *words]
    )

    assert code == 2
    assert message in capsys.readouterr().err


def test_an_event_of_an_unknown_recording_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name must not turn an event into time without one."""
    events = tmp_path / "events.csv"
    events.write_text("recording,start,end,label\nother.csv,0,1,unbalance-1\n")
    words = ["--events", str(events), "--false-alarms-per-hour", "120"]

    code = main(["tune-threshold", str(FAN), str(FAN_ROWS), *words])

    assert code == 2
    assert "an event is of the recording 'other.csv'" in capsys.readouterr().err


def test_a_temperature_belongs_to_one_model(
    cascade_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cascade has several, and none is fitted on answers of all."""
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b,worn\n1,2,0\n")
    words = ["--false-alarms-per-hour", "1", "--label-column", "worn", "--event", "1=worn"]

    code = main(["tune-threshold", str(cascade_bundle()), str(rows), *words, "--fit-temperature"])

    told = capsys.readouterr().err
    assert code == 2
    assert "--fit-temperature on pump@1, which has a cascade" in told
    assert "Leave the flag out" in told
