"""What a bundle may say about images and decisions, and what older runtimes read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from edge_runtime.errors import ConfigError
from edge_runtime.spec import (
    ArtefactSpec,
    AskNext,
    ChannelSpec,
    ImageSpec,
    Layer,
    Limit,
    ModelSpec,
    OutputSpec,
    Reject,
    Smoothing,
    StageSpec,
    StateSpec,
    StreamSpec,
    ThresholdsLayer,
    WindowSpec,
    as_builtins,
)

IMAGE = ImageSpec(height=4, width=3)


def _channels(count: int) -> tuple[ChannelSpec, ...]:
    return tuple(ChannelSpec(f"c{number}") for number in range(count))


def _model(**window: Any) -> ModelSpec:
    return ModelSpec(
        name="person",
        version="1",
        kind="classifier",
        stream=StreamSpec(_channels(9), 40.0, IMAGE),
        window=WindowSpec(**window),
        artefacts=(ArtefactSpec("tflite", "model.tflite", "int8"),),
        labels=("person",),
    )


@pytest.mark.parametrize(("colour", "values"), [("rgb", 9), ("bgr", 9), ("grey", 3)])
def test_a_line_has_a_channel_for_every_colour_of_every_pixel(colour: Any, values: int) -> None:
    """Other numbers of channels are refused, and the right one is told."""
    image = ImageSpec(4, 3, colour)

    assert StreamSpec(_channels(values), 40.0, image).image == image
    with pytest.raises(ConfigError, match=f"expected {values} channels"):
        StreamSpec(_channels(values + 1), 40.0, image)


@pytest.mark.parametrize("window", [{"length": 4, "hop": 4}, {"length": 8, "hop": 4}])
def test_a_window_is_made_of_whole_images(window: dict[str, Any]) -> None:
    """One, or several."""
    assert _model(**window).stream.image == IMAGE


@pytest.mark.parametrize(
    "change", [{"length": 6}, {"hop": 2}, {"pad": 1}, {"gap_periods": 1.2}, {"length": 1, "hop": 1}]
)
def test_a_window_that_could_mix_two_images_is_refused(change: dict[str, Any]) -> None:
    """It would begin in the middle of an image, sooner or later."""
    with pytest.raises(ConfigError, match="multiples of 4, no pad"):
        _model(**{"length": 4, "hop": 4, **change})


def test_a_bundle_without_images_reads_as_before() -> None:
    """An older runtime never sees the key, and a newer one needs none."""
    written = msgspec.to_builtins(StreamSpec(_channels(1), 10.0))

    assert "image" not in written
    assert msgspec.convert(written, StreamSpec).image is None


def test_what_is_said_of_images_is_written_and_read_again() -> None:
    """Size, colour and fit travel with the model."""
    stream = StreamSpec(_channels(9), 40.0, ImageSpec(4, 3, "bgr", "letterbox"))

    assert msgspec.convert(msgspec.to_builtins(stream), StreamSpec) == stream


def test_plain_decisions_are_written_as_before() -> None:
    """An older runtime never sees the newer keys; a layer keeps its digest."""
    layer = Layer(ThresholdsLayer((Limit("a", 0.75, 0.5),)), "ab", 1, 2)

    assert msgspec.to_builtins(Smoothing(3)) == {"windows": 3}
    assert msgspec.to_builtins(OutputSpec("softmax")) == {"activation": "softmax"}
    assert layer.digest == "2c417d2871065bebbae80c829a912d881d1dbfb2c63d84aa58264dad731d69bf"


def test_a_limit_comes_back_from_what_was_written() -> None:
    """With every key, as YAML and JSON carry it."""
    limit = Limit("a", 0.75, 0.5, (2, 3), 1.5, Reject(0.4, 0.6))

    assert msgspec.convert(msgspec.to_builtins(limit), Limit) == limit
    assert msgspec.json.decode(msgspec.json.encode(limit), type=Limit) == limit


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on": 0.4}, "on 0.4 and off 0.5"),
        ({"k_of_n": (3, 2)}, "k at most n"),
    ],
    ids=str,
)
def test_a_limit_that_contradicts_itself_is_refused(wrong: dict[str, Any], message: str) -> None:
    """The values are named."""
    with pytest.raises(ConfigError, match=message):
        Limit(**({"label": "a", "on": 0.75, "off": 0.5} | wrong))


def test_a_band_has_an_inside() -> None:
    """The lower edge of a reject band comes first."""
    with pytest.raises(ConfigError, match="low below high"):
        Reject(0.5, 0.5)


@pytest.mark.parametrize("activation", ["none", "reconstruction"])
def test_a_temperature_needs_logits(activation: Any) -> None:
    """Where the activation is not ours there are none to divide."""
    with pytest.raises(ConfigError, match="a softmax or sigmoid"):
        OutputSpec(activation, temperature=2.0)


def _cascaded(**stage: Any) -> ModelSpec:
    fields = {"name": "gate", "ask_next": AskNext(0.5), **stage}
    return ModelSpec(
        name="pump",
        version="1",
        kind="classifier",
        stream=StreamSpec(_channels(1), 40.0),
        window=WindowSpec(4, 4),
        artefacts=(ArtefactSpec("tflite", "model.tflite", "int8"),),
        labels=("ok", "worn"),
        cascade=(StageSpec(**fields),),
    )


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({"name": "model"}, "named ['model']; expected distinct names, none of them 'model'"),
        ({"name": "The gate"}, "stage name is 'The gate'"),
        ({"ask_next": AskNext(0.5, label="speech")}, "asks by the label 'speech'; expected one of"),
        ({"idle": (1.0,)}, "stage 'gate' has 1 idle values; expected 2, one for each of"),
        ({"labels": ("level",)}, "has the labels ['level'] and no idle values"),
        ({"state": StateSpec(warm_up=3)}, "has no artefacts, activation 'none' and state"),
        ({"output": OutputSpec("reconstruction")}, "activation 'reconstruction' and no state"),
    ],
)
def test_a_stage_that_cannot_answer_is_refused(stage: dict[str, Any], says: str) -> None:
    """The message has what is, what was expected and what to do."""
    with pytest.raises(ConfigError) as caught:
        _cascaded(**stage)

    assert says in str(caught.value)
    assert caught.value.expected
    assert caught.value.remedy


@pytest.mark.parametrize("bounds", [(None, None), (0.5, 0.5), (0.7, 0.2)])
def test_a_stage_must_say_what_it_leaves_to_the_next(bounds: tuple[Any, Any]) -> None:
    """At least one bound, and the lower one first."""
    with pytest.raises(ConfigError, match="expected one of them, or at_least under below"):
        AskNext(*bounds)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (AskNext(0.3, label="speech"), "speech from 0.3"),
        (AskNext(below=0.9), "the largest value below 0.9"),
        (AskNext(0.2, 0.9, "worn"), "worn from 0.2 below 0.9"),
    ],
)
def test_a_rule_reads_aloud(rule: AskNext, text: str) -> None:
    """A gate, an early exit, and the uncertain ones between two bounds."""
    assert str(rule) == text


def test_a_bundle_without_a_cascade_says_nothing_of_it() -> None:
    """Older runtimes, which refuse unknown keys, read it."""
    with_one, without = _cascaded(idle=(1.0, 0.0)), _model(length=4, hop=4)

    assert "cascade" not in as_builtins(without)
    assert msgspec.convert(as_builtins(with_one), ModelSpec) == with_one
