"""New weights become a signed base in the scales that devices have, with a record."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_cloud.boards.kept import Boards
from edge_cloud.jobs import Jobs
from edge_cloud.refit.release import RefitWish, read_refits, release_refit
from edge_cloud.refit.windows import LEAST_WINDOWS, stored_windows
from edge_cloud.registry import Registry
from edge_cloud.signing import SigningKey
from edge_cloud.store import Store
from edge_converters import Request, convert
from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.bundle.bundle import MANIFEST, assemble
from edge_runtime.cli import main
from edge_runtime.config.document import dump_yaml
from edge_runtime.errors import BundleError
from edge_runtime.pipeline import Pipeline, estimates_table
from edge_runtime.spec import ArtefactSpec, as_builtins
from edge_runtime.sync.frames import RowFrame
from edge_runtime.sync.messages import BoardTimes, FileTime, Life
from edge_runtime.types import Windows
from edge_runtime.update.admission import admit
from edge_runtime.update.trust import Trust

pytest.importorskip("litert_quantizer")

MODELS = Path(__file__).parents[2] / "data" / "models"
FLOAT = MODELS / "hello_world_float.tflite"
ROWS = 200

Nudge = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def sine(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Give the int8 bundle that devices have, converted from a float network."""
    folder = tmp_path_factory.mktemp("sine")
    np.savez(folder / "calib.npz", inputs=_angles(256))
    convert(
        Request(
            model=str(FLOAT),
            output=folder / "sine",
            calib=folder / "calib.npz",
            precisions=("int8",),
            name="sine",
            version="1.0",
        )
    )
    return load_bundle(folder / "sine")


@pytest.fixture
def cloud(store: Store, sine: Bundle, release_key: SigningKey) -> Store:
    """Give a store with that base, and a device that runs it."""
    Registry(store).release(sine, release_key)
    Jobs(store).note_life(Life("pump-1", 1, 7, True, base={"main": sine.digest}))
    return store


def _angles(n: int) -> np.ndarray:
    steps = np.linspace(0, 2 * np.pi, n, dtype=np.float32)
    return (steps + 0.01 * np.sin(40 * steps)).reshape(n, 1, 1)


def _refitted(folder: Path, nudge: Nudge) -> Path:
    """Write the float network with other weights."""
    from edge_converters.quantise.tflite import TFLiteQuantiser
    from edge_converters.quantise.tflite_tools import Tools

    quantiser = TFLiteQuantiser(FLOAT.read_bytes())
    values = {name: nudge(one) for name, one in quantiser.weights({}).items()}
    path = folder / "refitted.tflite"
    path.write_bytes(Tools().exchanged(FLOAT.read_bytes(), values))
    return path


def _shrunk(weights: np.ndarray) -> np.ndarray:
    """Move weights by a few percent, away from the ends of their scales."""
    return weights * np.random.default_rng(2).uniform(0.96, 1.0, weights.shape).astype(np.float32)


def _upload(store: Store, bundle: Bundle) -> np.ndarray:
    """Send rows with their windows, as a device does."""
    windows = _angles(ROWS)
    index = np.arange(ROWS)
    times = index * 10**9
    pipeline = Pipeline(
        bundle.spec, open_session(bundle), base=bundle.digest, upload="windows", block=1
    )
    table = estimates_table(pipeline.score_windows(Windows(index, times, times, windows)))
    store.ingest([RowFrame("pump-1", "main", 1, 7, 0, ROWS, "estimate", table)])
    return windows


def test_new_weights_are_released_with_a_record(
    cloud: Store, sine: Bundle, release_key: SigningKey, tmp_path: Path
) -> None:
    """The base is signed and admitted, and what it lost against float is kept beside it."""
    _upload(cloud, sine)
    wish = RefitWish(base="sine@1.0", model=_refitted(tmp_path, _shrunk))

    entry, row = release_refit(wish, store=cloud, key=release_key)

    statement = Trust([release_key.public]).verify_base(Registry(cloud).signed(entry.digest))
    assert (statement.digest, statement.seq) == (row.base, 2)
    assert admit(Registry(cloud).archive(entry.digest)).is_admitted
    assert (row.ref, row.before, row.windows) == ("sine@1.1", sine.digest, "uploaded")
    assert row.keeps_scales
    assert row.clipped < 0.001
    assert row.metric == "snr"
    assert row.snr_db is not None and row.snr_db > 20
    assert 0 < row.delta_bytes <= row.anew_delta_bytes
    assert read_refits(cloud) == [row]


def test_the_job_names_the_base_whose_record_it_is(
    cloud: Store, release_key: SigningKey, tmp_path: Path
) -> None:
    """Whoever looks at a job finds what int8 lost: the record has the same digest."""
    wish = RefitWish(base="sine@1.0", model=_refitted(tmp_path, _shrunk))
    entry, row = release_refit(wish, store=cloud, key=release_key)

    made = Jobs(cloud).publish(Registry(cloud), entry.digest)

    (job,) = [one for one in Jobs(cloud).all() if one.job.id in made]
    assert job.requires == row.base
    assert row.windows == "golden"


def test_what_boards_took_for_the_base_before_counts_for_the_new_one(
    cloud: Store, sine: Bundle, release_key: SigningKey, tmp_path: Path
) -> None:
    """The network is the same: no estimate, and for the board that most devices are of."""
    boards = Boards(cloud.folder, Registry(cloud))
    sha256 = hashlib.sha256(sine.files["model.tflite"]).hexdigest()
    for number, board in enumerate(["raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-4"]):
        files = (FileTime(sha256, "litert", 10.0 + number),)
        times = BoardTimes(sine.digest, board, "0123456789ab", "Cortex-A72", 1, files)
        boards.note(
            Life(
                f"pump-{number}",
                1,
                7,
                True,
                base={"main": sine.digest},
                board_times={"main": times},
            )
        )
    wish = RefitWish(base="sine@1.0", model=_refitted(tmp_path, _shrunk))

    _, row = release_refit(wish, store=cloud, key=release_key)

    measured = "measured on 2 boards (raspberry-pi-4), 2 runs with the weights before"
    assert row.latency == f"11.5 µs (11 µs to 12 µs), {measured}"
    assert read_refits(cloud) == [row]


def test_weights_that_outgrew_their_scales_get_new_ones(
    cloud: Store, release_key: SigningKey, tmp_path: Path
) -> None:
    """The record states how many the old scales would have clipped."""
    wish = RefitWish(base="sine@1.0", model=_refitted(tmp_path, lambda one: 1.5 * one))

    _, row = release_refit(wish, store=cloud, key=release_key)

    assert not row.keeps_scales
    assert row.clipped > 0.001
    assert f"clip {row.clipped:.2%}" in row.verdict
    assert row.delta_bytes == row.anew_delta_bytes


def test_files_in_other_formats_are_told_to_stay_behind(
    store: Store, sine: Bundle, release_key: SigningKey, tmp_path: Path
) -> None:
    other = ArtefactSpec("tflite", "float.tflite", "float32")
    spec = msgspec.structs.replace(sine.spec, artefacts=(*sine.spec.artefacts, other))
    files = {MANIFEST: dump_yaml(as_builtins(spec)).encode(), other.file: FLOAT.read_bytes()}
    Registry(store).release(assemble(sine.files | files, "two files"), release_key)
    wish = RefitWish(base="sine@1.0", model=_refitted(tmp_path, _shrunk))

    _, row = release_refit(wish, store=store, key=release_key)

    assert row.left_out == ("float.tflite",)


def test_a_base_that_tells_no_scales_leaves_everything_as_it_was(
    store: Store, bundle: Bundle, release_key: SigningKey, tmp_path: Path
) -> None:
    """Nothing is signed, kept or offered."""
    Registry(store).release(bundle, release_key)

    with pytest.raises(BundleError, match="how its integers were made"):
        release_refit(
            RefitWish(base="turbine@1", model=_refitted(tmp_path, _shrunk)),
            store=store,
            key=release_key,
        )

    assert len(Registry(store).entries()) == 1
    assert read_refits(store) == []


def test_windows_come_from_the_streams_that_run_the_line(cloud: Store, sine: Bundle) -> None:
    """The newest of what was uploaded; too few are as good as none."""
    registry, jobs = Registry(cloud), Jobs(cloud)
    assert stored_windows(cloud, registry, jobs, sine.spec) is None

    sent = _upload(cloud, sine)
    found = stored_windows(cloud, registry, jobs, sine.spec)

    assert found is not None
    assert len(found) == ROWS >= LEAST_WINDOWS
    assert found.tobytes() == sent.tobytes()


def test_the_command_offers_what_it_made(
    cloud: Store,
    release_key: SigningKey,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One job for the device, the record as JSON, and the same record afterwards."""
    release_key.save(tmp_path / "release.key")
    config = tmp_path / "cloud.yaml"
    config.write_text(f"schema: 1\nstore: {cloud.folder}\nbroker: {{port: 1}}\n")
    model = str(_refitted(tmp_path, _shrunk))
    key = ["--key", str(tmp_path / "release.key")]

    assert main(["cloud", "refit", str(config), "sine@1.0", model, *key, "--json"]) == 0

    told = json.loads(capsys.readouterr().out)
    assert len(told["jobs"]) == 1
    assert told["keeps_scales"]
    assert main(["cloud", "refits", str(config)]) == 0
    assert capsys.readouterr().out.startswith(f"sine@1.1 is {told['base'][:16]}")


def test_a_cloud_that_never_refits_imports_no_converter() -> None:
    """The command and all its verbs are there without the conversion library."""
    code = "import sys, edge_cloud.cli; print([m for m in sys.modules if 'edge_converters' in m])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
