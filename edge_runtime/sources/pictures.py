"""Pictures of any size and format → the lines of the image that a model needs."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from edge_runtime.errors import ConfigError, MissingExtra
from edge_runtime.spec import ImageSpec, StreamSpec

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "Shaper", "YuvKind", "image_of"]

FORMATS = ("JPEG", "PNG", "PPM")
_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"})
_MOST_PIXELS = 1 << 26
# A JPEG is decoded at a fraction of its size where that still has so many times the
# pixels needed: the filter then does the rest, and the numbers hardly differ.
_SPARE_PIXELS = 2


class YuvKind(NamedTuple):
    """What the numbers of a YUV picture stand for.

    Attributes:
        is_full_range: Luma from 0 to 255, not from 16 to 235.
        is_hd: Weights of ITU-R BT.709, not of BT.601.
    """

    is_full_range: bool = False
    is_hd: bool = False


class _Fit(NamedTuple):
    """Which part of a picture is taken, as fractions of its sides, and the size it gets."""

    left: float
    top: float
    width: int
    height: int

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return that part of a plane with so many pixels."""
        left, top = self.left * width, self.top * height
        return (left, top, width - left, height - top)


def image_of(need: StreamSpec, plugin: str) -> ImageSpec:
    """Return what the model says of its images.

    Raises:
        ConfigError: Its samples are no lines of images.
    """
    if need.image is None:
        raise ConfigError(
            f"the model's stream has {len(need.channels)} channels and no image",
            where=plugin,
            expected="stream.image in bundle.yaml: height, width, colour and fit",
            remedy="Declare it in the bundle, or feed this model from another source.",
        )
    return need.image


class Shaper:
    """Brings pictures to size and colour; used by one thread.

    Every method returns the lines of one image, shape (height, width x colours), uint8.

    Args:
        image: What the model needs.
        plugin: Who asks, for the message.

    Raises:
        MissingExtra: Pillow is not installed.
    """

    def __init__(self, image: ImageSpec, plugin: str) -> None:
        try:
            from PIL import Image
        except ImportError as error:
            raise MissingExtra.of(f'source "{plugin}"', "Pillow", "camera") from error
        self._pillow = Image
        self._image = image
        self._mode = "L" if image.colour == "grey" else "RGB"

    def decode(self, file: BinaryIO) -> np.ndarray:
        """Read a picture in one of `FORMATS`, first frame, as its pixels stand in the file.

        Raises:
            ValueError: It is none, is damaged, or is larger than 64 megapixels.
        """
        pillow = self._pillow
        try:
            with pillow.open(file, formats=FORMATS) as picture:
                self._check(picture)
                fit = self._fit(*picture.size)
                picture.draft(self._mode, self._spare(fit))
                return self._lines(picture, fit)
        # What Pillow's parsers raise on bytes that are no picture.
        except (OSError, SyntaxError, EOFError, struct.error, zlib.error) as error:
            raise ValueError(str(error) or type(error).__name__) from error
        except pillow.DecompressionBombError as error:
            raise ValueError(str(error)) from error

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Take red, green and blue, shape (height, width, 3), or grey, (height, width), uint8."""
        picture = self._pillow.fromarray(pixels)
        return self._lines(picture, self._fit(*picture.size))

    def yuyv(self, rows: np.ndarray, kind: YuvKind) -> np.ndarray:
        """Take YUV 4:2:2, shape (height, 2 x width), uint8: Y0 U Y1 V for two pixels.

        The planes are made smaller first: both steps are linear, and there are far
        fewer pixels to convert then.
        """
        height, width = len(rows), rows.shape[1] // 2
        fit = self._fit(width, height)
        luma = self._plane(rows[:, ::2], fit)
        luma = luma if kind.is_full_range else (luma - 16) * (255 / 219)
        if self._mode == "L":
            return self._finish(_to_bytes(luma))
        blue, red = (self._plane(rows[:, first::4], fit) - 128 for first in (1, 3))
        gain = 1.0 if kind.is_full_range else 255 / 224
        return self._finish(_to_bytes(_rgb(luma, gain * blue, gain * red, is_hd=kind.is_hd)))

    def _check(self, picture: Image) -> None:
        if picture.width * picture.height > _MOST_PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels")
        if picture.mode not in _MODES:
            raise ValueError(f"its pixels are {picture.mode}, not of 8 bits")

    def _fit(self, width: int, height: int) -> _Fit:
        image = self._image
        across, down = width / image.width, height / image.height
        if image.fit == "crop":
            scale = min(across, down)
            return _Fit((1 - scale / across) / 2, (1 - scale / down) / 2, image.width, image.height)
        if image.fit == "letterbox":
            scale = max(across, down)
            return _Fit(0, 0, max(1, round(width / scale)), max(1, round(height / scale)))
        return _Fit(0, 0, image.width, image.height)

    def _spare(self, fit: _Fit) -> tuple[int, int]:
        """Return the smallest size of a whole picture that has the pixels needed to spare."""
        return (
            round(_SPARE_PIXELS * fit.width / (1 - 2 * fit.left)),
            round(_SPARE_PIXELS * fit.height / (1 - 2 * fit.top)),
        )

    def _lines(self, picture: Image, fit: _Fit) -> np.ndarray:
        converted = picture if picture.mode == self._mode else picture.convert(self._mode)
        return self._finish(np.asarray(self._resized(converted, fit)))

    def _resized(self, picture: Image, fit: _Fit) -> Image:
        size = (fit.width, fit.height)
        return picture.resize(size, self._pillow.Resampling.BILINEAR, fit.box(*picture.size))

    def _plane(self, plane: np.ndarray, fit: _Fit) -> np.ndarray:
        picture = self._pillow.fromarray(np.ascontiguousarray(plane))
        return np.asarray(self._resized(picture, fit)).astype(np.float32)

    def _finish(self, pixels: np.ndarray) -> np.ndarray:
        """Put pixels into the middle of the image, in the model's order of colours."""
        image = self._image
        ordered = pixels[:, :, ::-1] if image.colour == "bgr" else pixels
        height, width = pixels.shape[:2]
        if (height, width) != (image.height, image.width):
            top, left = (image.height - height) // 2, (image.width - width) // 2
            canvas = np.zeros((image.height, image.width, *pixels.shape[2:]), np.uint8)
            canvas[top : top + height, left : left + width] = ordered
            ordered = canvas
        return np.ascontiguousarray(ordered).reshape(image.height, image.line_values)


def _rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, *, is_hd: bool) -> np.ndarray:
    """Convert Y' (0 to 255), Cb and Cr (around 0) to R'G'B', shape (height, width, 3).

    Source: ITU-R BT.601-7, 2.5.1 and 2.5.2, and BT.709-6, item 3, solved for R', G', B'.
    """
    of_red, of_blue = (0.2126, 0.0722) if is_hd else (0.299, 0.114)
    r = luma + 2 * (1 - of_red) * red
    b = luma + 2 * (1 - of_blue) * blue
    g = (luma - of_red * r - of_blue * b) / (1 - of_red - of_blue)
    return np.stack((r, g, b), axis=2)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    bytes_: np.ndarray = np.rint(values).clip(0, 255).astype(np.uint8)
    return bytes_
