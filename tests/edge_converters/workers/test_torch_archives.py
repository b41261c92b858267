"""An archive of PyTorch is read before it is opened, and code in it stays where it is."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edge_converters.workers.jobs.torch_archives import check_archive
from edge_converters.workers.refusal import Refusal

SIZE = "Mul(Integer(16), Symbol('s77', positive=True, integer=True))"


def archive(path: Path, *more: str, **told: Any) -> str:
    """Write an archive with one node, one size and no condition, unless told otherwise."""
    node = {"target": told.get("target", "torch.ops.aten.relu.default")}
    size = {"as_expr": {"expr_str": told.get("size", SIZE)}}
    program = {"nodes": [node], "sizes": [size], "guards_code": told.get("guards", [])}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("net/models/model.json", json.dumps(program))
        for name in more:
            file.writestr(name, b"")
    return str(path)


@pytest.mark.parametrize(
    "target",
    [
        "torch.ops.aten.add.Tensor",
        "torch.ops.aten.__and__.Tensor",
        "torch.ops.higher_order.cond",
        "_operator.getitem",
        "math.floor",
        "torch.sym_int",
        "layers.0.weight",
    ],
)
def test_what_exporters_write_passes(tmp_path: Path, target: str) -> None:
    """Operators, arithmetic on sizes, and names of weights."""
    check_archive(archive(tmp_path / "m.pt2", target=target), is_trusted=False)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"target": "torch.os.system"}, "call of torch.os.system"),
        ({"target": "torch.hub.load"}, "call of torch.hub.load"),
        ({"target": "torch.ops.aten.__class__"}, "__class__"),
        ({"target": "torch.ops.aten.add.__call__"}, "__call__"),
        ({"target": "_operator.methodcaller"}, "methodcaller"),
        ({"target": "#mine:thing"}, "#mine:thing"),
        ({"size": "__import__('os').system('id')"}, "__import__"),
        ({"size": "eval('1')"}, "eval"),
        ({"size": "Symbol('s0').func"}, "func"),
        ({"size": "Symbol('a b(c)')"}, "a b"),
        ({"guards": ["print(1)"]}, "condition"),
    ],
)
def test_what_would_run_is_refused_without_trust(
    tmp_path: Path, told: dict[str, Any], said: str
) -> None:
    """By what it is; whoever made the archive may say so."""
    model = archive(tmp_path / "m.pt2", **told)

    with pytest.raises(Refusal, match=said) as raised:
        check_archive(model, is_trusted=False)

    assert raised.value.exit_code == 3
    check_archive(model, is_trusted=True)


def test_compiled_code_is_refused_without_trust(tmp_path: Path) -> None:
    """PyTorch would load it into its process."""
    model = archive(tmp_path / "m.pt2", "net/data/aotinductor/net/net.so")

    with pytest.raises(Refusal, match=r"compiled code, .*net\.so"):
        check_archive(model, is_trusted=False)


@pytest.mark.parametrize("is_trusted", [False, True])
def test_operators_of_ones_own_are_named(tmp_path: Path, is_trusted: bool) -> None:
    """Trust does not bring them."""
    model = archive(tmp_path / "m.pt2", target="torch.ops.mine.twice.default")

    with pytest.raises(Refusal, match="mine::twice") as raised:
        check_archive(model, is_trusted=is_trusted)

    assert raised.value.exit_code == 1


def test_an_archive_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """Its program is JSON."""
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as file:
        file.writestr("net/models/model.json", "{")

    with pytest.raises(Refusal, match="cannot be read"):
        check_archive(str(tmp_path / "m.pt2"), is_trusted=False)
