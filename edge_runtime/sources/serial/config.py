"""Options of a sensor on a serial port."""

from __future__ import annotations

import struct
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError
from edge_runtime.sources.suspects import Patience, Scales, check_scales

__all__ = [
    "Binary",
    "Checksum",
    "Delimited",
    "Format",
    "JsonLines",
    "KeyValue",
    "SequenceField",
    "SerialConfig",
    "Usb",
]

Checksum = Literal["none", "sum8", "xor8", "crc16-modbus", "crc16-ccitt"]
_Character = Annotated[str, Meta(min_length=1, max_length=1)]
_MOST_FRAME_BYTES = 4096


class _Format(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"
):
    """What every format has."""


class _Lines(_Format, frozen=True, kw_only=True):
    """What every format of lines has; a line ends with a newline.

    Attributes:
        most_bytes: Longest line; what is longer is noise.
    """

    most_bytes: Annotated[int, Meta(ge=8, le=65536)] = 1024


class Delimited(_Lines, frozen=True, kw_only=True, tag="delimited"):
    """Numbers in a fixed order; an empty one is missing.

    Attributes:
        fields: Name of each field in order; an empty name is a field to skip.
        delimiter: What parts them; a blank stands for any run of blanks.
    """

    fields: Annotated[tuple[str, ...], Meta(min_length=1)]
    delimiter: _Character = ","


class KeyValue(_Lines, frozen=True, kw_only=True, tag="key_value"):
    """``key=value`` pairs in any order; a pair that is left out is missing.

    Attributes:
        keys: Which key holds a channel; one that is not named is its own key.
        delimiter: What parts the pairs; a blank stands for any run of blanks.
        assign: What parts key and value.
    """

    keys: dict[str, str] = {}
    delimiter: _Character = ","
    assign: _Character = "="


class JsonLines(_Lines, frozen=True, kw_only=True, tag="json"):
    """One JSON object a line; null, and a key that is left out, are missing.

    Attributes:
        keys: Which key holds a channel; one that is not named is its own key.
    """

    keys: dict[str, str] = {}


class Binary(_Format, frozen=True, kw_only=True, tag="binary"):
    """Frames of one length: sync bytes, numbers, checksum.

    Attributes:
        sync: Bytes that every frame begins with, in hexadecimal.
        layout: The numbers after them, in the notation of Python's `struct`, with
            ``<`` or ``>`` in front.
        fields: Name of each number in order; an empty name is a number to skip.
        checksum: What follows the numbers.
        order: Byte order of a checksum of two bytes.
        covers: What the checksum is of: ``numbers``, or ``frame`` with the sync bytes.
    """

    sync: Annotated[str, Meta(pattern="^([0-9a-fA-F]{2}){1,8}$")]
    layout: Annotated[str, Meta(pattern="^[<>][0-9bBhHiIlLqQefdx]+$")]
    fields: Annotated[tuple[str, ...], Meta(min_length=1)]
    checksum: Checksum = "none"
    order: Literal["little", "big"] = "little"
    covers: Literal["numbers", "frame"] = "numbers"

    def __post_init__(self) -> None:
        try:
            size_bytes = struct.calcsize(self.layout)
            numbers = len(struct.unpack(self.layout, bytes(size_bytes)))
        except (struct.error, MemoryError, OverflowError) as error:
            raise ConfigError(f"layout is {self.layout!r} ({error})") from error
        if numbers != len(self.fields) or size_bytes > _MOST_FRAME_BYTES:
            raise ConfigError(
                f"layout {self.layout!r} has {numbers} numbers in {size_bytes} bytes",
                expected=f"the {len(self.fields)} of fields in {_MOST_FRAME_BYTES} at most",
                remedy="Name every number in fields; an empty name skips one.",
            )


Format = Delimited | KeyValue | JsonLines | Binary


class SequenceField(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number in every message that tells how many samples lie between two.

    Attributes:
        field: Its field or key.
        modulus: Where it starts over at 0.
        step: How much it grows from sample to sample: 1 for a counter, 10 for
            milliseconds at 100 Hz.
    """

    field: str
    modulus: Annotated[int, Meta(ge=2, le=1 << 53)] = 1 << 16
    step: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        if self.step >= self.modulus / 2:
            raise ConfigError(
                f"step is {self.step:g} and modulus {self.modulus}",
                expected="a step below half the modulus",
                remedy="With a larger step, a lost message looks like none.",
            )


class Usb(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An adapter, whatever number its port has got.

    Attributes:
        vid: Vendor.
        pid: Product.
        serial: Serial number; None takes the only adapter of this kind.
    """

    vid: Annotated[int, Meta(ge=0, le=0xFFFF)]
    pid: Annotated[int, Meta(ge=0, le=0xFFFF)]
    serial: str | None = None


class SerialConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a sensor on a serial port.

    Attributes:
        format: What the messages look like.
        port: The device node; a name under ``/dev/serial/by-id`` stays the same
            when an adapter is plugged in again.
        usb: Finds the port by its adapter instead.
        baud: Bits a second.
        data_bits: Bits of a character.
        parity: Its check.
        stop_bits: What ends it.
        flow: How the sensor is told to wait.
        sequence: A number that shows lost messages; None goes by the arrivals.
        block_s: Time to gather messages before they are decoded together.
        frozen_s: The same readings for so long are a fault; None never counts.
        full_scale: Least and largest number of a channel; at either it is saturated.
    """

    format: Format
    port: str | None = None
    usb: Usb | None = None
    baud: Annotated[int, Meta(ge=50, le=12_000_000)] = 115200
    data_bits: Literal[5, 6, 7, 8] = 8
    parity: Literal["none", "even", "odd", "mark", "space"] = "none"
    stop_bits: Literal[1, 2] = 1
    flow: Literal["none", "rts_cts", "xon_xoff"] = "none"
    sequence: SequenceField | None = None
    block_s: Annotated[float, Meta(ge=0, le=0.1)] = 0.02
    frozen_s: Patience = None
    full_scale: Scales = {}

    def __post_init__(self) -> None:
        if (self.port is None) == (self.usb is None):
            raise ConfigError(
                "port and usb are both given" if self.port else "there is neither port nor usb",
                expected="one of the two",
                remedy="List the ports: python -m serial.tools.list_ports -v.",
            )
        check_scales(self.full_scale, self.declared_channels or tuple(self.full_scale))
        if isinstance(self.format, Delimited | Binary) and self.sequence is not None:
            _check_field(self.sequence.field, self.format.fields)

    @property
    def declared_channels(self) -> tuple[str, ...] | None:
        """Names of the fields; None where the messages themselves name them."""
        if isinstance(self.format, Delimited | Binary):
            return tuple(name for name in self.format.fields if name)
        return None


def _check_field(name: str, fields: tuple[str, ...]) -> None:
    if name not in fields:
        raise ConfigError(
            f"sequence.field is {name!r}",
            expected=f"one of {', '.join(filter(None, fields))}",
            remedy="Name a field of the format.",
        )
