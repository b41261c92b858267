"""What is said to the kernel is what its header declares."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.sources import v4l2
from edge_runtime.sources.v4l2 import LinuxKernel, VideoDevice

HEADER = Path("/usr/include/linux/videodev2.h")
PROGRAM = """
#include <stdio.h>
#include <stddef.h>
#include <linux/videodev2.h>
int main(void) {{
{requests}
  printf("offset %zu\\n", offsetof(struct v4l2_format, fmt.pix));
  printf("offset %zu\\n", offsetof(struct v4l2_format, fmt.pix.quantization));
  printf("offset %zu\\n", offsetof(struct v4l2_buffer, timestamp));
  printf("offset %zu\\n", offsetof(struct v4l2_buffer, sequence));
  printf("offset %zu\\n", offsetof(struct v4l2_buffer, m.offset));
  printf("offset %zu\\n", offsetof(struct v4l2_buffer, length));
  printf("offset %zu\\n", offsetof(struct v4l2_streamparm, parm.capture.timeperframe));
  printf("offset %zu\\n", offsetof(struct v4l2_fmtdesc, pixelformat));
  printf("offset %zu\\n", offsetof(struct v4l2_frmsizeenum, discrete));
  printf("offset %zu\\n", offsetof(struct v4l2_capability, device_caps));
  return 0;
}}
"""


def _offset(layout: v4l2.Struct, field: int) -> int:
    """Return where a field begins: pack a mark there and look for it."""
    values = [b"" if isinstance(value, bytes) else 0 for value in _blank(layout)]
    values[field] = 0x5A
    return layout.pack(*values).index(0x5A)


def _blank(layout: v4l2.Struct) -> tuple[int | bytes, ...]:
    return layout.unpack(bytes(layout.size))


@pytest.mark.skipif(
    not (HEADER.exists() and shutil.which("cc")),
    reason="needs a C compiler and linux/videodev2.h (linux-libc-dev)",
)
def test_requests_and_layouts_are_those_of_the_kernels_header(tmp_path: Path) -> None:
    """Numbers, sizes and the places of the fields, as a C compiler sees them here."""
    lines = "\n".join(f'  printf("{name} %lu\\n", {name});' for name in v4l2.REQUESTS)
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(PROGRAM.format(requests=lines))
    subprocess.run(["cc", "-o", program, source], check=True)

    told = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split("\n")

    expected = [f"{name} {number}" for name, number in v4l2.REQUESTS.items()]
    places = [
        _offset(v4l2.FORMAT, 1),
        _offset(v4l2.FORMAT, 11),
        _offset(v4l2.BUFFER, 5),
        _offset(v4l2.BUFFER, 8),
        _offset(v4l2.BUFFER, 10),
        _offset(v4l2.BUFFER, 11),
        _offset(v4l2.PARAMETERS, 3),
        _offset(v4l2.FORMAT_DESCRIPTION, 4),
        _offset(v4l2.FRAME_SIZE, 3),
        _offset(v4l2.CAPABILITY, 5),
    ]
    assert told[:-1] == [*expected, *(f"offset {place}" for place in places)]


def test_a_file_that_is_no_device_is_refused_by_the_real_kernel(tmp_path: Path) -> None:
    """Its answer becomes an error with four parts."""
    (tmp_path / "video0").write_bytes(b"")

    with pytest.raises(ConfigError, match="is no camera") as caught:
        VideoDevice(tmp_path / "video0", LinuxKernel())
    with pytest.raises(SourceError, match="No such file") as missing:
        VideoDevice(tmp_path / "video7", LinuxKernel())

    for error in (caught.value, missing.value):
        assert all((error.where, error.expected, error.remedy))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "usermod -aG video"),
        (errno.EBUSY, "Another program"),
        (errno.ENODEV, "unplugged"),
        (errno.ENXIO, "unplugged"),
        (errno.ENOENT, "Plug the camera in"),
        (errno.EIO, "plug it in again"),
    ],
)
def test_what_the_kernel_says_at_open_has_a_remedy(number: int, remedy: str) -> None:
    """Each reason has its own."""

    class Refusing(LinuxKernel):
        def open(self, path: Path) -> int:
            raise OSError(number, "refused")

    with pytest.raises(SourceError, match=remedy):
        VideoDevice(Path("/dev/video0"), Refusing())
