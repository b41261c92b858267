"""Pictures become the lines that a model needs, whatever their shape and colours."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import ConfigError, MissingExtra
from edge_runtime.sources.pictures import Shaper, YuvKind, image_of
from edge_runtime.spec import ChannelSpec, ImageSpec, StreamSpec

RED, GREY = (200, 30, 40), 77


def _shaper(height: int, width: int, **options: Any) -> Shaper:
    return Shaper(ImageSpec(height, width, **options), "camera")


def _encoded(pixels: np.ndarray, format: str = "PNG", **options: Any) -> io.BytesIO:  # noqa: A002
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return io.BytesIO(file.getvalue())


def _noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "PPM"])
def test_a_picture_of_the_right_size_keeps_its_pixels(kind: str) -> None:
    """Pixel by pixel from left to right, red, green and blue side by side."""
    pixels = _noise(5, 7)

    lines = _shaper(5, 7).decode(_encoded(pixels, kind))

    assert lines.dtype == np.uint8
    assert (lines == pixels.reshape(5, 21)).all()


@pytest.mark.parametrize(("colour", "order"), [("rgb", [0, 1, 2]), ("bgr", [2, 1, 0])])
def test_colours_come_in_the_order_of_the_model(colour: str, order: list[int]) -> None:
    """In a decoded picture and in one from a camera alike."""
    pixels = _noise(4, 4)
    expected = pixels[:, :, order].reshape(4, 12)

    assert (_shaper(4, 4, colour=colour).decode(_encoded(pixels)) == expected).all()
    assert (_shaper(4, 4, colour=colour).pixels(pixels) == expected).all()


def test_a_grey_model_sees_the_luma_of_a_picture() -> None:
    """ITU-R BT.601: 0.299 red, 0.587 green, 0.114 blue."""
    pixels = np.full((3, 3, 3), RED, np.uint8)

    lines = _shaper(3, 3, colour="grey").decode(_encoded(pixels))

    assert lines.shape == (3, 3)
    assert np.abs(lines - np.dot(RED, (0.299, 0.587, 0.114))).max() <= 1


def test_a_grey_picture_feeds_a_model_that_needs_colours() -> None:
    """All three are the same then."""
    grey = np.full((3, 3), GREY, np.uint8)

    assert (_shaper(3, 3).pixels(grey) == GREY).all()
    assert _shaper(3, 3).decode(_encoded(grey)).shape == (3, 9)


@pytest.mark.parametrize(
    ("fit", "expected"),
    [
        ("stretch", [[200, 0, 9, 200]] * 4),
        ("crop", [[0, 0, 9, 9]] * 4),
        ("letterbox", [[0] * 4, [200, 0, 9, 200], [200, 0, 9, 200], [0] * 4]),
    ],
)
def test_a_wide_picture_is_made_to_fit(
    fit: Literal["stretch", "crop", "letterbox"], expected: list[list[int]]
) -> None:
    """The whole picture squeezed, its middle, or the whole with black above and below."""
    pixels = np.repeat(np.array([[200, 0, 9, 200]], np.uint8), 20, axis=1).repeat(40, axis=0)

    lines = _shaper(4, 4, colour="grey", fit=fit).pixels(pixels)

    # The filter mixes in a little of what lies next to a pixel.
    assert np.abs(lines.astype(int) - expected).max() <= 30


@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from(["stretch", "crop", "letterbox"]))
def test_every_shape_fits(height: int, width: int, fit: str) -> None:
    """However thin a picture is, the image has the model's size, and no colour is invented."""
    lines = _shaper(6, 9, fit=fit).pixels(np.full((height, width, 3), RED, np.uint8))

    pixels = lines.reshape(6, 9, 3)
    is_red = (pixels == RED).all(axis=2)
    assert (is_red | (pixels == 0).all(axis=2)).all()
    assert is_red.all() == (fit != "letterbox" or is_red.all())
    assert is_red.any()


def test_a_large_jpeg_is_decoded_small_with_nearly_the_same_numbers() -> None:
    """The short cut costs less than one step of 255 on average."""
    y, x = np.mgrid[0:480, 0:640]
    pixels = np.stack([x % 256, y % 256, (x + y) // 5 % 256], axis=2).astype(np.uint8)
    file = _encoded(pixels, "JPEG", quality=90)
    whole = np.asarray(Image.open(io.BytesIO(file.getvalue())))

    short, long = _shaper(96, 96).decode(file), _shaper(96, 96).pixels(whole)

    assert np.abs(short.astype(int) - long).mean() < 1


def test_a_jpeg_without_huffman_tables_is_read() -> None:
    """Many USB cameras leave out the tables that every decoder knows."""
    content = _encoded(_noise(32, 32), "JPEG").getvalue()
    bare = content
    while (first := bare.find(b"\xff\xc4")) >= 0:
        length = int.from_bytes(bare[first + 2 : first + 4], "big")
        bare = bare[:first] + bare[first + 2 + length :]

    assert len(bare) < len(content)
    decode = _shaper(32, 32).decode
    assert (decode(io.BytesIO(bare)) == decode(io.BytesIO(content))).all()


@pytest.mark.parametrize("colour", [RED, (0, 0, 0), (255, 255, 255), (10, 240, 90)])
@pytest.mark.parametrize("kind", [YuvKind(), YuvKind(True), YuvKind(False, True)])
def test_yuv_gives_the_colours_it_was_made_of(colour: tuple[int, int, int], kind: YuvKind) -> None:
    """Full and limited range, old and new weights, there and back."""
    rows = np.tile(np.array(_to_yuyv(colour, kind), np.uint8), (8, 6))

    lines = _shaper(4, 4).yuyv(rows, kind)

    assert np.abs(lines.reshape(-1, 3).astype(int) - colour).max() <= 3


def _to_yuyv(colour: tuple[int, int, int], kind: YuvKind) -> list[int]:
    red, green, blue = (float(part) for part in colour)
    of_red, of_blue = (0.2126, 0.0722) if kind.is_hd else (0.299, 0.114)
    y = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    u, v = (blue - y) / (2 - 2 * of_blue), (red - y) / (2 - 2 * of_red)
    if not kind.is_full_range:
        y, u, v = 16 + y * 219 / 255, u * 224 / 255, v * 224 / 255
    return [round(min(max(value, 0), 255)) for value in (y, u + 128, y, v + 128)]


def test_a_grey_model_takes_only_the_luma_of_yuv() -> None:
    """16 is black and 235 is white where the range is limited."""
    rows = np.tile(np.array([16, 200, 235, 50], np.uint8), (2, 1))

    assert _shaper(2, 2, colour="grey").yuyv(rows, YuvKind()).tolist() == [[0, 255]] * 2


@given(st.data())
def test_damaged_pictures_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    """Cut off or changed anywhere, the bytes give an image of the right size or a ValueError."""
    format_ = data.draw(st.sampled_from(["PNG", "JPEG", "PPM"]))
    content = bytearray(_encoded(_noise(9, 9), format_).getvalue())
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))

    try:
        lines = _shaper(4, 4).decode(io.BytesIO(bytes(content[:cut])))
    except ValueError:
        return

    assert lines.shape == (4, 12)


def test_a_picture_of_16_bits_is_refused() -> None:
    """Its numbers would be cut off in silence."""
    with pytest.raises(ValueError, match="not of 8 bits"):
        _shaper(2, 2).decode(_encoded(np.full((2, 2), 300, np.uint16)))


def test_a_huge_picture_is_refused_before_it_is_decoded() -> None:
    """A header of a few bytes may ask for gigabytes."""
    with pytest.raises(ValueError, match="9000 x 9000 pixels"):
        _shaper(2, 2).decode(io.BytesIO(b"P6 9000 9000 255\n"))


def test_a_model_without_images_is_refused() -> None:
    """The bundle must say what its images look like."""
    with pytest.raises(ConfigError, match=r"stream\.image in bundle\.yaml"):
        image_of(StreamSpec((ChannelSpec("x"),), 10.0), "camera")


def test_without_pillow_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra of its own."""
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)

    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[camera\]"'):
        _shaper(2, 2)
