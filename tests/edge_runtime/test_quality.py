"""Masks of samples and their names."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import ShapeError
from edge_runtime.quality import MASK, Quality, joined_masks, marked, names_of_mask
from edge_runtime.types import Frame


def test_bits_have_the_numbers_that_are_stored() -> None:
    """Rows of years ago mean what they meant."""
    numbers = {flag.name: flag.value for flag in Quality}

    assert numbers == {"SATURATED": 1, "FROZEN": 2, "LOST_BEFORE": 4, "FILLED": 8}


@pytest.mark.parametrize(
    ("mask", "names"),
    [
        (0, []),
        (1, ["saturated"]),
        (14, ["frozen", "lost_before", "filled"]),
        (1 << 15 | 2, ["frozen", "bit_15"]),
    ],
)
def test_a_mask_has_a_name_for_every_bit(mask: int, names: list[str]) -> None:
    """A bit from a newer version is shown by its place, not hidden."""
    assert names_of_mask(mask) == names


def test_samples_that_are_all_well_have_no_masks() -> None:
    """The usual case costs nothing further on."""
    well = np.zeros(3, bool)

    assert marked((well, Quality.SATURATED), (well, Quality.FROZEN)) is None


def test_several_faults_of_a_sample_share_its_mask() -> None:
    """Each fault has its own bit."""
    masks = marked(
        (np.array([True, False, True]), Quality.SATURATED),
        (np.array([False, False, True]), Quality.FROZEN),
    )

    assert masks is not None
    assert masks.dtype == MASK
    assert masks.tolist() == [1, 0, 3]


def test_blocks_without_masks_are_filled_up_with_zeros() -> None:
    """Where one block of several is suspect, the others say that they are not."""
    joined = joined_masks([(None, 2), (np.array([3], MASK), 1), (None, 1)])

    assert joined is not None
    assert joined.tolist() == [0, 0, 3, 0]
    assert joined_masks([(None, 2), (None, 1)]) is None


@pytest.mark.parametrize("quality", [np.zeros(2, MASK), np.zeros(3, np.int64)])
def test_a_frame_has_one_mask_for_every_sample(quality: np.ndarray) -> None:
    """Another number of them, or another type, is a bug of the source and told as one."""
    with pytest.raises(ShapeError, match="has quality") as caught:
        Frame("main", 0, np.arange(3), np.zeros((3, 1)), quality=quality)

    assert "uint16 (3,), or None" in str(caught.value)
