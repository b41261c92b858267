"""Drawings that can be read."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.modes.explain.charts import Line, Mark, lines

AXIS = Line("", np.array([0.0, 100.0]), np.array([0.0, 1.0]), "blue")


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30, unique=True))
def test_words_of_marks_never_lie_on_each_other(places: list[int]) -> None:
    """However close: every mark has its line, the newest its word, and no two words touch."""
    words = ["start", "end"]
    marks = [Mark(float(x), words[n % 2], "red") for n, x in enumerate(sorted(places))]

    drawn = lines([AXIS], marks=marks)

    found = re.findall(
        r'<text x="([\d.]+)" y="124" class="tick" text-anchor="(\w+)".*?>(\w+)<', drawn
    )
    spans = sorted(
        (float(x) - 6 * len(word), float(x))
        if anchor == "end"
        else (float(x), float(x) + 6 * len(word))
        for x, anchor, word in found
    )
    assert drawn.count('stroke="red"') == len(marks)
    assert found[0][2] == marks[-1].word
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
