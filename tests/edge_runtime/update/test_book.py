"""The layers of many entities come from one file, within the base's clamps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import BundleError, ConfigError, TrustError
from edge_runtime.pipeline import Pipeline
from edge_runtime.spec import FusionLayer, Layer, LayerBody, PriorLayer, effective_id
from edge_runtime.update.book import LayerBook, load_book, save_book

TURBINE = Path(__file__).parents[3] / "examples/gas_turbine/bundles/turbine-nox-1.0.0"
BUNDLE = load_bundle(TURBINE)
FUSION = FusionLayer(0.0, 1.0, 1.0)


def layer(body: LayerBody, scope: str = "fleet", seq: int = 1, base: str = BUNDLE.digest) -> Layer:
    return Layer(body, base, seq, 1_700_000_000_000_000_000, scope)


def prior(value: float) -> PriorLayer:
    return PriorLayer((value,), (0.0,))


def book_of(*layers: Layer, bundle: Bundle = BUNDLE) -> LayerBook:
    return LayerBook(layers, bundle.spec, bundle.digest)


def test_an_entity_has_its_own_layers_and_the_fleets() -> None:
    """Its own kind replaces the fleet's; a stranger has the fleet's alone."""
    fusion, common, own = layer(FUSION), layer(prior(1.0)), layer(prior(2.0), "device:anna")

    book = book_of(own, common, fusion)

    assert book.of("anna") == (fusion, own)
    assert book.of("stranger") == (fusion, common)
    assert "anna" in book and "stranger" not in book and len(book) == 1


def test_an_empty_book_leaves_the_base_alone() -> None:
    """Nobody has layers that nobody wrote."""
    assert book_of().of("anna") == ()


@given(st.permutations([layer(FUSION), *(layer(prior(n), "device:a", n) for n in range(1, 5))]))
def test_the_highest_number_counts_in_any_order(layers: list[Layer]) -> None:
    """How the lines of a book are ordered changes no effective id."""
    expected = (layer(FUSION), layer(prior(4), "device:a", 4))

    found = book_of(*layers).of("a")

    assert found == expected
    assert effective_id(BUNDLE.digest, found) == effective_id(BUNDLE.digest, expected)


def test_a_written_book_is_read_again(tmp_path: Path) -> None:
    """A file keeps every bit of every layer, and an older file is replaced."""
    path = tmp_path / "night.layers"
    save_book(path, [layer(FUSION)])
    layers = [layer(prior(n / 7), f"device:c{n}") for n in range(50)]

    save_book(path, layers)
    book = load_book(path, BUNDLE)

    assert [book.of(f"c{n}") for n in range(50)] == [(each,) for each in layers]
    assert list(tmp_path.iterdir()) == [path]


def test_two_entities_share_a_model_and_not_a_prior() -> None:
    """Around one session each entity's answer is moved by its own prior, by just as much."""
    from edge_runtime.backends import open_session
    from edge_runtime.types import Frame

    session = open_session(BUNDLE)
    book = book_of(layer(prior(1.5), "device:anna"), layer(prior(-2.0), "device:bert"))
    frame_ns = np.array([1_700_000_000_000_000_001])

    def answer(entity: str) -> tuple[float, float]:
        pipeline = Pipeline(
            BUNDLE.spec, session, base=BUNDLE.digest, stream=entity, layers=book.of(entity)
        )
        estimates = pipeline.push(Frame(entity, 0, frame_ns, np.full((1, 9), 20.0))).estimates
        return estimates.score.item(), estimates.value.item()

    answers = [answer(entity) for entity in ("anna", "bert", "carl")]

    assert len({score for score, _ in answers}) == 1
    assert [value - score for score, value in answers] == pytest.approx([1.5, -2.0, 0.0])


@pytest.mark.parametrize(
    ("bad", "error", "says"),
    [
        (layer(FUSION, "group:north"), ConfigError, "group:north"),
        (layer(FUSION, "device:Über"), ConfigError, "Über"),
        (layer(FUSION, base="0" * 64), TrustError, "requires"),
        (layer(FusionLayer(0.0, 99.0, 1.0)), TrustError, "clamp"),
        (layer(PriorLayer((1.0, 2.0), (0.0, 0.0))), TrustError, "shape"),
    ],
)
def test_an_unfit_layer_refuses_the_book(bad: Layer, error: type[Exception], says: str) -> None:
    """Half a book is never taken: one unfit layer, and the error says why."""
    with pytest.raises(error, match=says):
        book_of(layer(FUSION), bad)


def test_two_layers_with_one_number_are_refused() -> None:
    """Which of two counts is never left to chance."""
    with pytest.raises(BundleError, match="have the number 1"):
        book_of(layer(prior(1.0), "device:a"), layer(prior(2.0), "device:a"))


@pytest.mark.parametrize("content", [b"{}\n", b"\xff\n", b"[" * 100_000, b"x" * 200_000])
def test_a_line_that_is_no_layer_is_named(tmp_path: Path, content: bytes) -> None:
    """The error names file and line, and no line is read without a limit."""
    path = tmp_path / "night.layers"
    path.write_bytes(layer(FUSION).encode() + b"\n" + content)

    with pytest.raises(ConfigError, match=r"night\.layers:2: is no layer"):
        load_book(path, BUNDLE)


def test_a_missing_book_says_so(tmp_path: Path) -> None:
    """A path that cannot be read is a matter of configuration."""
    with pytest.raises(ConfigError, match="No such file"):
        load_book(tmp_path / "none.layers", BUNDLE)
