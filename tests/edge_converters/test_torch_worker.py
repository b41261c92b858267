"""PyTorch models become ONNX in bundles, or say why not, in an environment of their own.

It is made where CI runs, and taken where it is; it weighs 1 GB.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge_converters import Outcome, Request, convert
from edge_converters.recipes import load_recipe, replayed
from edge_converters.workers.borrowed import borrow, give_back
from edge_converters.workers.environments import environment
from edge_runtime.bundle import load_bundle
from edge_runtime.errors import BundleError, ConfigError, EdgeError, TrustError

pytestmark = pytest.mark.slow

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "convert-a-model.md"
# What users have: networks in a module, a function for each.
NETWORKS = """
import torch
from torch import nn


class Cnn(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv1d(3, 8, 5, stride=2), nn.BatchNorm1d(8), nn.ReLU(),
            nn.Conv1d(8, 16, 5, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 6), nn.Softmax(-1),
        )

    def forward(self, x):
        return super().forward(x.transpose(1, 2))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.block(self.first(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(3, 12, batch_first=True)
        self.last = nn.Linear(12, 4)

    def forward(self, x):
        return self.last(self.cells(x)[0][:, -1])


class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


class Fixed(nn.Module):
    def forward(self, x):
        return x.reshape(1, 9) * 2


class Two(nn.Module):
    def forward(self, x, y):
        return x + y


class Svd(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x.reshape(-1, 3, 3))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 32), nn.ReLU(), nn.Linear(32, 1))


def nothing():
    return {"weights": 1}
"""
MODELS = """
import sys
sys.path.insert(0, "")
import torch
from torch import nn
import networks as n

torch.manual_seed(0)
batch = torch.export.Dim("batch", min=1)


def saved(name, network, *shape, **more):
    program = torch.export.export(network.eval(), (torch.zeros(2, *shape),), **more)
    torch.export.save(program, f"{name}.pt2")
    return network


free = {"dynamic_shapes": ({0: batch},)}
mlp = saved("mlp", n.mlp(), 9, **free)
saved("cnn", n.Cnn(), 64, 3, **free)
saved("transformer", n.Transformer(), 16, 3, **free)
saved("lstm", n.Recurrent(nn.LSTM), 20, 3, **free)
saved("gru", n.Recurrent(nn.GRU), 20, 3, **free)
saved("rnn", n.Recurrent(nn.RNN), 20, 3, **free)
saved("fixed-batch", n.mlp(), 9)
saved("svd", n.Svd(), 9, **free)
two = torch.export.export(n.Two(), (torch.zeros(1, 3), torch.zeros(1, 3)))
torch.export.save(two, "two.pt2")


@torch.library.custom_op("mine::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x):
    return torch.empty_like(x)


class Custom(nn.Module):
    def forward(self, x):
        return torch.ops.mine.twice(x)


torch.export.save(torch.export.export(Custom(), (torch.zeros(1, 3),)), "custom.pt2")
torch.save(mlp, "whole.pt")
torch.save(mlp, "whole-old.pt", _use_new_zipfile_serialization=False)
torch.save(mlp.state_dict(), "weights.pt")
torch.save(mlp.state_dict(), "weights-old.pt", _use_new_zipfile_serialization=False)
torch.jit.trace(mlp, torch.zeros(1, 9)).save("script.pt")
"""


@pytest.fixture(scope="module")
def models(
    tmp_path_factory: pytest.TempPathFactory, made_in: Callable[[str, str, Path], Path]
) -> Path:
    """Return a folder with networks as users save them, and the module they come from."""
    folder = tmp_path_factory.mktemp("torch")
    (folder / "networks.py").write_text(NETWORKS)
    blocks = re.findall(r"^```\n(.*?)^```$", HOWTO.read_text(), re.M | re.S)
    (shown,) = (one for one in blocks if "torch.export.save" in one)
    return made_in("torch", f"{MODELS}\nnetwork = n.Cnn()\n{shown}", folder)


@pytest.fixture
def made(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Convert into ``bundle``, started in the folder of the models."""
    monkeypatch.chdir(models)

    def convert_into(model: str, **asked: Any) -> Outcome:
        return convert(Request(model=model, output=tmp_path / "bundle", **asked))

    return convert_into


Made = Callable[..., Outcome]
Programs = Callable[[str], tuple[Outcome, Path]]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Programs:
    """Convert a program by itself, once for all that is asked of it; give its bundle too."""

    @functools.cache
    def converted(name: str) -> tuple[Outcome, Path]:
        bundle = tmp_path_factory.mktemp(name) / "bundle"
        return convert(Request(model=str(models / f"{name}.pt2"), output=bundle)), bundle

    return converted


def graph_of(bundle: Path) -> Any:
    return onnx.load_from_string(load_bundle(bundle).files["model.onnx"]).graph


# --- what works -------------------------------------------------------------------------


# The last one is exported as the how-to page shows.
@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "transformer", "lstm", "gru", "rnn", "fall_detector"]
)
def test_an_exported_program_answers_as_it_did(programs: Programs, name: str) -> None:
    """Above the float gate, with a free batch axis, without trust."""
    outcome, bundle = programs(name)

    parity = outcome.steps[0].parity
    assert parity is not None
    assert parity.windows == 16
    assert parity.snr_db is None or parity.snr_db > 100
    assert graph_of(bundle).input[0].type.tensor_type.shape.dim[0].dim_param


def test_no_place_of_this_machine_is_in_the_file(models: Path, programs: Programs) -> None:
    """The exporter writes source lines with their paths; they are stripped."""
    content = load_bundle(programs("cnn")[1]).files["model.onnx"]

    assert b"networks.py" not in content
    assert str(models).encode() not in content


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrent_layer_stays_one_operator(programs: Programs, name: str) -> None:
    """It is not unrolled into hundreds."""
    kinds = [one.op_type for one in graph_of(programs(name)[1]).node]

    assert kinds.count(name.upper()) == 1


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_a_recurrent_program_becomes_a_cell(tmp_path: Path, made: Made, name: str) -> None:
    """Its state goes in and comes out, and it ends where the whole did."""
    outcome = made(f"{name}.pt2", hop=4)

    cut = outcome.steps[-1]
    assert cut.name == "cut"
    assert cut.parity is not None
    assert cut.parity.snr_db is None or cut.parity.snr_db > 100
    state = load_bundle(tmp_path / "bundle").spec.state
    assert len(state.tensors) == (2 if name == "lstm" else 1)


def test_an_unrolled_program_is_no_cell(made: Made) -> None:
    """PyTorch writes nn.RNN as single products; it is said what to use."""
    with pytest.raises(BundleError, match="no LSTM, GRU or RNN") as raised:
        made("rnn.pt2", hop=1)

    assert "nn.GRU" in raised.value.remedy


def test_given_windows_are_what_both_are_asked(tmp_path: Path, made: Made) -> None:
    """And they make integers, as for any ONNX file."""
    dice = np.random.default_rng(0)
    walk = np.cumsum(dice.normal(size=(100, 64, 3)), axis=1).astype(np.float32)
    np.savez(tmp_path / "calib.npz", inputs=walk, allow_pickle=False)

    outcome = made("cnn.pt2", calib=tmp_path / "calib.npz")

    assert {"float32", "int8"} <= {one.precision for one in outcome.candidates}


@pytest.mark.parametrize("model", ["networks:mlp", "networks:Cnn", "whole.pt", "whole-old.pt"])
def test_a_module_is_exported_where_it_is_trusted(made: Made, model: str) -> None:
    """By import path, from where the tool was started, or from its pickle."""
    outcome = made(model, shape=(64, 3) if "Cnn" in model else (9,), is_trusted=True)

    parity = outcome.steps[0].parity
    assert parity is not None
    assert parity.snr_db is None or parity.snr_db > 100


def test_a_batch_that_the_network_fixes_is_one(made: Made) -> None:
    """And it is said."""
    outcome = made("networks:Fixed", shape=(9,), is_trusted=True)

    assert any("fixes its batch" in text for text in outcome.steps[0].notes)


def test_a_module_is_converted_again_to_the_byte(tmp_path: Path, made: Made) -> None:
    """Its source and its weights are its identity, and the worker's versions are recorded."""
    first = made("networks:mlp", shape=(9,), is_trusted=True)
    recipe = load_recipe(tmp_path / "bundle" / "recipe.json")
    here = Request(model="networks:mlp", output=tmp_path / "again", is_trusted=True)

    second = convert(replayed(recipe, here))

    assert second.digest == first.digest
    assert recipe.worker.startswith("torch 2.")
    other = Request(model="networks:Cnn", output=tmp_path / "other", is_trusted=True)
    with pytest.raises(EdgeError):
        convert(replayed(recipe, other))


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        ("custom.pt2", BundleError, "mine::twice"),
        ("svd.pt2", BundleError, "linalg_svd"),
        ("two.pt2", BundleError, "2 inputs"),
        ("fixed-batch.pt2", BundleError, "batch is fixed"),
        ("weights.pt", BundleError, "no network"),
        ("weights-old.pt", BundleError, "no network"),
        ("script.pt", BundleError, "TorchScript"),
        ("networks:Branch", BundleError, "cannot follow"),
        ("networks:nothing", BundleError, "no network"),
        ("networks:absent", BundleError, "absent"),
        ("no_such_package:net", BundleError, "no_such_package"),
    ],
)
def test_what_cannot_be_converted_says_why(
    tmp_path: Path, made: Made, model: str, kind: type[EdgeError], said: str
) -> None:
    """Each by the name of what is in the way, with something to do."""
    with pytest.raises(kind, match=said) as raised:
        made(model, shape=(9,), is_trusted=True)

    assert raised.value.remedy
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("model", ["networks:mlp", "whole.pt", "whole-old.pt"])
def test_code_is_not_run_without_trust(made: Made, model: str) -> None:
    """Exit code 3: importing and unpickling run whatever is there."""
    with pytest.raises(TrustError, match="--trust") as raised:
        made(model, shape=(9,))

    assert raised.value.exit_code == 3


def test_a_pickle_inside_a_program_is_not_opened_without_trust(
    tmp_path: Path, models: Path, made: Made
) -> None:
    """An archive can name a weight as pickled; what it would run is not run."""
    evil = _with_pickled_weight(models / "mlp.pt2", tmp_path / "evil.pt2", tmp_path / "touched")

    with pytest.raises(TrustError, match="pickle"):
        made(str(evil))

    assert not (tmp_path / "touched").exists()


def _with_pickled_weight(source: Path, target: Path, touched: Path) -> Path:
    """Copy an archive with a weight replaced by a pickle that makes a file when it is opened."""
    call = f"cbuiltins\nopen\n(V{touched}\nVw\ntR."
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("model_weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
                content = content.replace(b'"use_pickle":false', b'"use_pickle":true', 1)
            if name.endswith("weights/weight_0"):
                content = _legacy_save(call.encode())
            after.writestr(name.replace(source.stem, target.stem), content)
    return target


def _legacy_save(pickled: bytes) -> bytes:
    """Return what torch.load takes for a file of torch.save, with a pickle of ours inside."""
    magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    return magic + b"\x80\x02M\xe9\x03." + b"\x80\x02}q\x00." + pickled


def test_a_module_needs_the_shape_of_a_window(made: Made) -> None:
    """It does not tell; and it is said how to."""
    with pytest.raises(BundleError, match="does not tell") as raised:
        made("networks:mlp", is_trusted=True)

    assert "--shape" in raised.value.remedy


def test_a_truncated_program_says_so(tmp_path: Path, models: Path, made: Made) -> None:
    """By what is missing, never by a traceback."""
    content = (models / "mlp.pt2").read_bytes()
    (tmp_path / "cut.pt2").write_bytes(content[: len(content) // 2])

    with pytest.raises(BundleError, match="damaged"):
        made(str(tmp_path / "cut.pt2"))


# --- an interpreter that has PyTorch already --------------------------------------------


def test_an_interpreter_of_ones_own_stands_in(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are checked when it is named, and recorded in what it makes."""
    python = environment("torch").python
    monkeypatch.setenv("EDGE_RUNTIME_WORKERS", str(tmp_path / "workers"))

    named = borrow("torch", str(python))
    outcome = convert(Request(model=str(models / "mlp.pt2"), output=tmp_path / "bundle"))

    assert named.versions["torch"] in outcome.recipe.worker
    give_back("torch")
    with pytest.raises(EdgeError, match="env sync torch"):
        convert(Request(model=str(models / "mlp.pt2"), output=tmp_path / "bundle"))


def test_a_recipe_is_not_played_with_another_version(
    tmp_path: Path, models: Path, programs: Programs
) -> None:
    """Its worker decides bytes too."""
    told = (programs("mlp")[1] / "recipe.json").read_text()
    (tmp_path / "recipe.json").write_text(told.replace("torch 2.", "torch 1."))
    here = Request(model=str(models / "mlp.pt2"), output=tmp_path / "again")

    with pytest.raises(ConfigError, match="it was opened by torch"):
        convert(replayed(load_recipe(tmp_path / "recipe.json"), here))


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="takes the network away as root"
)
def test_the_worker_needs_no_network(programs: Programs) -> None:
    """It was taken away, and the exporter did not miss it."""
    notes = programs("mlp")[0].steps[0].notes

    assert not any("network could not be taken" in text for text in notes)
