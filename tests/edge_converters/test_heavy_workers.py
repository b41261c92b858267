"""Models of whole frameworks become bundles, in environments of their own.

The environments are made where CI runs, and taken where they are; they weigh 350 MB
and 1.6 GB, and need a package index.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from edge_converters import Outcome, Request, convert
from edge_converters.operations import known
from edge_converters.operations.probe import MISSING, graph_of
from edge_converters.quantise.tflite import TFLiteQuantiser
from edge_runtime.backends import load_session
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import BundleError, ConfigError, EdgeError, ModelError, TrustError

pytestmark = pytest.mark.slow

MODELS = Path(__file__).parents[1] / "data" / "models"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "models"

MadeIn = Callable[[str, str, Path], Path]

FORESTS = """
import joblib, numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import *
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import LocalOutlierFactor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
dice = np.random.default_rng(0)
X = dice.normal(size=(500, 6)) * [1, 10, 100, 1e-3, 1, 1]
y = (X[:, 0] + X[:, 1] / 10 > 0).astype(int) + (X[:, 2] > 100)
models = {
    "forest": RandomForestClassifier(30, random_state=0),
    "extra": ExtraTreesRegressor(20, random_state=0),
    "boosting": GradientBoostingRegressor(n_estimators=20, random_state=0),
    "histogram": HistGradientBoostingClassifier(max_iter=15, random_state=0),
    "histogram-regressor": HistGradientBoostingRegressor(max_iter=15, random_state=0),
    "isolation": IsolationForest(n_estimators=50, max_features=0.5, random_state=0),
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "mlp": make_pipeline(
        StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), random_state=0, max_iter=50)
    ),
    "lambda": make_pipeline(FunctionTransformer(np.sin), LogisticRegression()),
}
of_values = ("extra", "boosting", "histogram-regressor", "mlp")
for name, model in models.items():
    joblib.dump(model.fit(X, X[:, 0] if name in of_values else y), f"{name}.joblib")
joblib.dump(RandomForestClassifier(3), "unfitted.joblib")
joblib.dump({"weights": X}, "dict.joblib")
"""
NETWORKS = """
import keras
from keras import layers as L
keras.utils.set_random_seed(0)
def net(name, *layers): keras.Sequential(layers).save(f"{name}.keras")
cnn = keras.Sequential([
    L.Input((128, 3)), L.Conv1D(8, 5, strides=2, activation="relu"), L.BatchNormalization(),
    L.Conv1D(16, 5, strides=2, activation="relu"), L.GlobalAveragePooling1D(),
    L.Dense(6, activation="softmax"),
])
cnn.save("cnn.keras")
cnn.export("cnn", verbose=False)
net("gru", L.Input((64, 3)), L.GRU(24), L.Dense(4))
net("lstm", L.Input((64, 3)), L.LSTM(24), L.Dense(4))
net("gru-behind-conv", L.Input((64, 3)), L.Conv1D(8, 5), L.GRU(24), L.Dense(4))
net("lambda", L.Input((8,)), L.Lambda(lambda x: x * 2), L.Dense(2))
net("free", L.Input((None, 3)), L.Conv1D(4, 3), L.GlobalAveragePooling1D(), L.Dense(2))
net(
    "stacked", L.Input((20, 3)), L.Rescaling(0.5, 0.1), L.BatchNormalization(),
    L.GRU(8, return_sequences=True), L.Dropout(0.2),
    L.GRU(6, reset_after=False, return_sequences=True), L.LayerNormalization(),
    L.TimeDistributed(L.Dense(5, activation="relu")), L.SimpleRNN(4), L.Dense(3, "softmax"),
)
net("every-step", L.Input((20, 3)), L.LSTM(8, return_sequences=True), L.Dense(2))
net("both-ways", L.Input((20, 3)), L.Bidirectional(L.LSTM(8)), L.Dense(2))
net("hard", L.Input((20, 3)), L.LSTM(8, recurrent_activation="hard_sigmoid"), L.Dense(2))
a, b = L.Input((4,)), L.Input((4,))
keras.Model([a, b], L.Dense(1)(L.Concatenate()([a, b]))).save("two.keras")
@keras.saving.register_keras_serializable(package="mine")
class Odd(L.Layer):
    def call(self, x): return x * 3
net("odd", L.Input((8,)), Odd(), L.Dense(2))
"""


@pytest.fixture(scope="module")
def forests(tmp_path_factory: pytest.TempPathFactory, made_in: MadeIn) -> Path:
    """Return a folder with pickles of scikit-learn."""
    return made_in("sklearn", FORESTS, tmp_path_factory.mktemp("sklearn"))


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, made_in: MadeIn) -> Path:
    """Return a folder with models of Keras, and one SavedModel."""
    return made_in("keras", NETWORKS, tmp_path_factory.mktemp("keras"))


def converted(model: Path, output: Path, *, is_trusted: bool = True) -> Outcome:
    return convert(Request(model=str(model), output=output, is_trusted=is_trusted))


# --- scikit-learn -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forest", "classifier"),
        ("extra", "regressor"),
        ("boosting", "regressor"),
        ("histogram", "classifier"),
        ("histogram-regressor", "regressor"),
        ("isolation", "scorer"),
        ("logistic", "classifier"),
        ("mlp", "regressor"),
    ],
)
def test_a_classic_model_answers_as_it_did(
    tmp_path: Path, forests: Path, name: str, kind: str
) -> None:
    """On 2048 rows that lie on its thresholds and right beside them: no class differs."""
    outcome = converted(forests / f"{name}.joblib", tmp_path / "bundle")

    parity = outcome.steps[0].parity
    assert parity is not None
    assert parity.windows == 2048
    assert parity.top1 in (None, 1.0)
    assert parity.snr_db is None or parity.snr_db > 100
    assert load_bundle(tmp_path / "bundle").spec.kind == kind


def test_an_isolation_forest_is_four_nodes(tmp_path: Path, forests: Path) -> None:
    """Not thousands; and its own threshold is the bundle's limit."""
    converted(forests / "isolation.joblib", tmp_path / "bundle")

    bundle = load_bundle(tmp_path / "bundle")
    assert len(onnx.load_from_string(bundle.files["model.onnx"]).graph.node) <= 4
    assert (bundle.spec.labels, bundle.spec.limits[0].on) == (("anomaly",), 0.5)


def test_a_pickle_is_not_opened_without_trust(tmp_path: Path, forests: Path) -> None:
    """Exit code 3: it could run any code."""
    with pytest.raises(TrustError, match="--trust") as raised:
        converted(forests / "forest.joblib", tmp_path / "bundle", is_trusted=False)

    assert raised.value.exit_code == 3


def test_a_pickle_cannot_be_taken_over_as_it_is(tmp_path: Path, forests: Path) -> None:
    """A device runs no pickles."""
    request = Request(
        model=str(forests / "forest.joblib"),
        output=tmp_path / "bundle",
        precisions=("as-is",),
        is_trusted=True,
    )

    with pytest.raises(ConfigError, match="as-is"):
        convert(request)


@pytest.mark.parametrize(
    ("name", "said"),
    [("lambda", "FunctionTransformer"), ("unfitted", "not fitted"), ("dict", "builtins.dict")],
)
def test_a_pickle_that_cannot_be_converted_says_why(
    tmp_path: Path, forests: Path, name: str, said: str
) -> None:
    """By the name of what is in the way."""
    with pytest.raises(BundleError, match=said):
        converted(forests / f"{name}.joblib", tmp_path / "bundle")

    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("content", [b"\x80\x04", b"\x80\x04cno_such_module\nThing\n."])
def test_a_damaged_pickle_says_so(tmp_path: Path, forests: Path, content: bytes) -> None:
    """In words, with the version of scikit-learn that is expected."""
    (tmp_path / "m.pkl").write_bytes(content)

    with pytest.raises(BundleError, match=r"does not open.*scikit-learn 1\."):
        converted(tmp_path / "m.pkl", tmp_path / "bundle")


# --- Keras ------------------------------------------------------------------------------

_CHAINS = ("gru.keras", "stacked.keras")


@pytest.mark.parametrize("name", ["cnn.keras", "cnn", "gru.keras", "lstm.keras"])
def test_a_network_answers_as_it_did(tmp_path: Path, networks: Path, name: str) -> None:
    """Above the float gate."""
    outcome = converted(networks / name, tmp_path / "bundle", is_trusted=False)

    parity = outcome.steps[0].parity
    assert parity is not None
    assert parity.snr_db is None or parity.snr_db > 100


@pytest.mark.parametrize(
    "name",
    ["cnn.keras", "cnn", "gru.keras", "stacked.keras", "lstm.keras", "gru-behind-conv.keras"],
)
def test_a_network_answers_as_it_did_in_onnx(tmp_path: Path, networks: Path, name: str) -> None:
    """Any batch, in which the bundle has answered its golden windows too; a GRU takes one.

    A chain keeps its GRU as one operator; what our emitter does not know becomes a loop.
    """
    outcome = convert(
        Request(model=str(networks / name), output=tmp_path / "bundle", formats=("onnx",))
    )

    parity = outcome.steps[0].parity
    assert parity is not None
    assert parity.snr_db is None or parity.snr_db > 100
    graph = onnx.load_from_string(load_bundle(tmp_path / "bundle").files["model.onnx"]).graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    has_loop = any(node.op_type == "Loop" for node in graph.node)
    assert has_loop == (name == "gru-behind-conv.keras")
    assert (batch.dim_value == 1) == (has_loop or name in _CHAINS)
    assert any(node.op_type == "GRU" for node in graph.node) == (name in _CHAINS)


@pytest.mark.parametrize("name", ["gru", "lstm", "stacked", "every-step"])
def test_a_recurrent_network_becomes_a_cell(tmp_path: Path, networks: Path, name: str) -> None:
    """Its weights are written as ONNX with the runtime's own operators, and cut."""
    outcome = convert(Request(model=str(networks / f"{name}.keras"), output=tmp_path / "b", hop=2))

    written, cut = outcome.steps[0], outcome.steps[-1]
    for step in (written, cut):
        assert step.parity is not None
        assert step.parity.snr_db is None or step.parity.snr_db > 100
    assert (written.name, cut.name) == ("from keras", "cut")
    bundle = load_bundle(tmp_path / "b")
    assert bundle.spec.window.length == 2
    assert bundle.spec.state.tensors


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("both-ways", "Bidirectional: it reads the sequence from its end"),
        ("hard", "recurrent_activation='hard_sigmoid'"),
        ("cnn", "Conv1D"),
        ("lambda", "Lambda"),
    ],
)
def test_a_network_that_is_no_chain_says_which_layer(
    tmp_path: Path, networks: Path, name: str, said: str
) -> None:
    """And that it can be converted whole, to TFLite."""
    model = str(networks / f"{name}.keras")

    with pytest.raises(EdgeError, match=said):
        convert(Request(model=model, output=tmp_path / "bundle", hop=1))

    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("lambda", TrustError, "Lambda"),
        ("two", BundleError, "2 inputs"),
        ("odd", BundleError, "Odd"),
        ("free", BundleError, "free axes"),
    ],
)
def test_a_network_that_cannot_be_converted_says_why(
    tmp_path: Path, networks: Path, name: str, kind: type[EdgeError], said: str
) -> None:
    """Four ways to be unfit, four reasons."""
    with pytest.raises(kind, match=said) as raised:
        converted(networks / f"{name}.keras", tmp_path / "bundle", is_trusted=False)

    assert raised.value.remedy
    assert not (tmp_path / "bundle").exists()


def test_a_recurrent_network_with_a_loop_is_not_made_integer(
    tmp_path: Path, networks: Path
) -> None:
    """What kills TensorFlow's converter ends in words here; where nobody insists, in float."""
    request = Request(
        model=str(networks / "gru.keras"),
        output=tmp_path / "bundle",
        calib=walks(tmp_path / "calib.npz"),
    )

    with pytest.raises(ModelError, match=r"3 graphs.*--stream N"):
        convert(msgspec.structs.replace(request, precisions=("int8",)))
    assert not request.output.exists()

    outcome = convert(request)

    assert [one.precision for one in outcome.candidates] == ["float32"]
    assert any("int8 could not be made" in note for note in outcome.notes)


def walks(path: Path) -> Path:
    """Write 100 sequences of 64 steps."""
    dice = np.random.default_rng(0)
    walk = np.cumsum(dice.normal(size=(100, 64, 3)), axis=1).astype(np.float32)
    np.savez(path, inputs=walk, allow_pickle=False)
    return path


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_a_cell_of_keras_becomes_integers(tmp_path: Path, networks: Path, name: str) -> None:
    """In every precision, along sequences and along one stream."""
    outcome = convert(
        Request(
            model=str(networks / f"{name}.keras"),
            output=tmp_path / "bundle",
            calib=walks(tmp_path / "calib.npz"),
            hop=1,
        )
    )

    made = {one.precision: one for one in outcome.candidates}
    assert {"float32", "float16", "dynamic", "int8"} <= made.keys()
    assert all(one.is_sound for one in made.values())
    assert made["dynamic"].size_bytes < made["float32"].size_bytes
    assert made["int8"].drift[-1].last >= 1000
    assert "QuantizeLinear" in {one.kind for one in made["int8"].operations}


def test_a_truncated_archive_says_so(tmp_path: Path, networks: Path) -> None:
    """It is told by what is missing, never by a traceback."""
    content = (networks / "cnn.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])

    with pytest.raises(BundleError, match="damaged"):
        converted(tmp_path / "cut.keras", tmp_path / "bundle")


# --- TFLite to ONNX ---------------------------------------------------------------------


def test_a_float_tflite_file_answers_as_it_did_in_onnx(tmp_path: Path, networks: Path) -> None:
    """Where it is asked for; nothing is said to be better than it was."""
    assert networks.exists()
    model = MODELS / "ic_resnet8_float.tflite"

    outcome = convert(Request(model=str(model), output=tmp_path / "bundle", formats=("onnx",)))

    parity = outcome.steps[0].parity
    assert parity is not None
    assert parity.snr_db is not None
    assert parity.snr_db > 100
    assert load_bundle(tmp_path / "bundle").spec.artefacts[0].backend == "onnx"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kws_dscnn_int8.tflite", "int8.*scales"),
        ("kws_dscnn_hybrid.tflite", "the answers changed"),
        ("face_detection_short_range.tflite", "2 outputs"),
    ],
)
def test_a_tflite_file_that_would_answer_otherwise_in_onnx_is_refused(
    tmp_path: Path, networks: Path, name: str, said: str
) -> None:
    """With the reason; what the file is made of decides, not its name."""
    assert networks.exists()
    model = next((one for place in (MODELS, SHARED) for one in place.rglob(name)), None)
    if model is None:
        pytest.skip(f"{name} is not here")

    with pytest.raises(EdgeError, match=said):
        convert(Request(model=str(model), output=tmp_path / "bundle", formats=("onnx",)))

    assert not (tmp_path / "bundle").exists()


# --- the old runtime --------------------------------------------------------------------


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory, made_in: MadeIn) -> Path:
    """Return a file that tflite-runtime 2.14 loads without complaint."""
    made_in("verify-legacy", "pass", tmp_path_factory.mktemp("legacy"))
    quantiser = TFLiteQuantiser((MODELS / "ic_resnet8_float.tflite").read_bytes())
    path = tmp_path_factory.mktemp("dynamic") / "dynamic.tflite"
    path.write_bytes(quantiser.quantise(quantiser.recipe("dynamic", None, {})))
    return path


def test_a_file_that_an_old_runtime_would_get_wrong_is_refused(
    tmp_path: Path, dynamic: Path
) -> None:
    """Where the target names that runtime; on the new one the same file is fine."""
    old = Request(model=str(dynamic), output=tmp_path / "old", target="tflite-runtime-2.14")
    new = Request(model=str(dynamic), output=tmp_path / "new")

    with pytest.raises(ModelError, match=r"FULLY_CONNECTED|dB"):
        convert(old)
    assert convert(new).choice.precision == "dynamic"
    assert not (tmp_path / "old").exists()


def test_a_float_file_is_proven_on_both_runtimes(tmp_path: Path, dynamic: Path) -> None:
    """Each with its version and its parity."""
    assert dynamic.exists()
    model = MODELS / "ic_resnet8_float.tflite"

    outcome = convert(
        Request(model=str(model), output=tmp_path / "b", target="tflite-runtime-2.14")
    )

    runtimes = [one.runtime for one in outcome.candidates[0].verified]
    assert runtimes[0].startswith("litert ")
    assert runtimes[1] == "tflite-runtime 2.14.0"
    assert load_session(None, "tflite", load_bundle(tmp_path / "b").files["model.tflite"])


PROBES = """
import json, pathlib
from tflite_runtime.interpreter import Interpreter
known = {}
for path in pathlib.Path().glob("*.tflite"):
    try:
        Interpreter(model_content=path.read_bytes())
        known[path.stem] = True
    except (RuntimeError, ValueError) as error:
        known[path.stem] = not any(one in str(error) for one in MISSING)
pathlib.Path("known.json").write_text(json.dumps(known))
"""


def test_the_table_of_the_old_runtime_is_what_it_answers(tmp_path: Path, made_in: MadeIn) -> None:
    """For every operator the newest version in the table is known there, and the next is not."""
    table = {
        kind: version
        for kind, version in msgspec.json.decode(known.TABLE.read_bytes()).items()
        if not kind.startswith("CUSTOM ")
    }
    for kind, version in table.items():
        for one in (version, version + 1):
            (tmp_path / f"{kind}-{one}.tflite").write_bytes(graph_of(kind, one))

    made_in("verify-legacy", PROBES.replace("MISSING", repr(MISSING)), tmp_path)

    answers = msgspec.json.decode((tmp_path / "known.json").read_bytes())
    assert len(table) > 150
    assert answers == {
        f"{kind}-{one}": one == version
        for kind, version in table.items()
        for one in (version, version + 1)
    }
