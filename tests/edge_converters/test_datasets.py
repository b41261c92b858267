"""Data that cannot be used say so before anything is converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_converters.datasets import check_labels, check_windows, load_dataset, sha256_of
from edge_runtime.errors import ConfigError


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


def test_inputs_and_labels_are_found_by_their_usual_names(tmp_path: Path) -> None:
    """``x`` and ``y`` are as good as ``inputs`` and ``labels``."""
    found = load_dataset(saved(tmp_path, x=np.zeros((4, 3)), y=np.arange(4)))

    assert found.inputs.shape == (4, 3)
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3]


def test_an_array_alone_has_no_labels(tmp_path: Path) -> None:
    """Calibration needs none."""
    np.save(tmp_path / "x.npy", np.zeros((4, 3), np.float32))

    assert load_dataset(tmp_path / "x.npy").labels is None


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"a": np.zeros((2, 2))}, r"arrays \['a'\]"),
        ({"inputs": np.array([[1.0, np.nan], [0, 0]])}, "1 of 2 windows hold NaN"),
        ({"inputs": np.zeros(4)}, r"shape \(4,\)"),
        ({"inputs": np.zeros((0, 4))}, r"shape \(0, 4\)"),
        ({"inputs": np.array([["a", "b"]])}, "inputs of <U1"),
        ({"inputs": np.zeros((4, 2)), "labels": np.zeros(3)}, "4 windows and labels"),
    ],
)
def test_unfit_data_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], match: str) -> None:
    """With what is there, and how to write it."""
    with pytest.raises(ConfigError, match=match) as raised:
        load_dataset(saved(tmp_path, **arrays))

    assert raised.value.exit_code == 2
    assert "numpy.savez" in raised.value.remedy


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_a_damaged_file_is_no_traceback(tmp_path: Path, content: bytes) -> None:
    """Nor is a pickle ever opened."""
    (tmp_path / "data.npz").write_bytes(content)

    with pytest.raises(ConfigError, match="cannot be read"):
        load_dataset(tmp_path / "data.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(ConfigError, match=r"nothing\.npz"):
        load_dataset(tmp_path / "nothing.npz")


def test_windows_take_the_model_s_shape(tmp_path: Path) -> None:
    """As long as they have as many values."""
    found = load_dataset(saved(tmp_path, inputs=np.zeros((2, 6))))

    assert check_windows(found, (3, 2)).shape == (2, 3, 2)
    with pytest.raises(ConfigError, match=r"\(6,\).*expected 7 values"):
        check_windows(found, (7,))


@pytest.mark.parametrize(
    ("labels", "metric", "match"),
    [
        (None, "accuracy", "has no labels"),
        (np.zeros(4, int), "accuracy", "the one label"),
        (np.array([0, 1, 2, 9]), "accuracy", "from 0 to 9.*0 to 2"),
        (np.array([-1, 1, 2, 0]), "accuracy", "from -1"),
        (np.array([0, 1, 2, 0]), "auc", "0 and 1 for auc"),
        (np.array([0.5, 1, 2, 0]), "accuracy", "float64"),
    ],
)
def test_labels_that_fit_no_metric_are_refused(
    tmp_path: Path, labels: np.ndarray | None, metric: str, match: str
) -> None:
    """A metric that cannot be computed is never computed."""
    arrays = {"inputs": np.zeros((4, 2))} | ({} if labels is None else {"labels": labels})

    with pytest.raises(ConfigError, match=match):
        check_labels(load_dataset(saved(tmp_path, **arrays)), 3, metric)


def test_a_folder_s_digest_covers_names_and_contents(tmp_path: Path) -> None:
    """And not the order in which files were made."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, "ab"), (other, "ba")):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)

    assert sha256_of(one) == sha256_of(other)
    (other / "a").rename(other / "c")
    assert sha256_of(one) != sha256_of(other)
    assert sha256_of(None) is None
