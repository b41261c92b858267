"""Sound comes in blocks with their times; what is lost is told, whichever way it comes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, EdgeError, MissingExtra, SourceError
from edge_runtime.quality import Quality, joined_masks
from edge_runtime.sources.microphone import MicrophoneConfig, MicrophoneSource
from edge_runtime.sources.microphones import PortAudioMicrophone
from edge_runtime.spec import ChannelSpec, StreamSpec
from edge_runtime.testing import FakeClock
from edge_runtime.testing.portaudio import FakeDevice, FakePortAudio
from edge_runtime.types import Frame

RATE_HZ, BLOCK = 16_000, 320
BLOCK_S, PERIOD_NS = 0.02, 62_500
NEED = StreamSpec((ChannelSpec("audio"),), float(RATE_HZ))
STEREO = StreamSpec((ChannelSpec("left"), ChannelSpec("right")), float(RATE_HZ))
HARDWARE = FakeDevice("USB PnP Sound Device: Audio (hw:1,0)", 1, (48_000, 16_000))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stream of another test is open: the library is one for the whole process."""
    monkeypatch.setattr(PortAudioMicrophone, "_streams", 0)
    monkeypatch.setattr(PortAudioMicrophone, "_is_used", False)


class Room:
    """A microphone behind a stand-in of PortAudio, and a clock between them."""

    def __init__(self, *devices: FakeDevice, **options: Any) -> None:
        self.clock = FakeClock()
        self.library = FakePortAudio(*(devices or (HARDWARE,)))
        options.setdefault("block_s", BLOCK_S)
        self.source = MicrophoneSource(
            MicrophoneConfig(**options), clock=self.clock, sounddevice=self.library
        )
        self.said = 0

    def open(self, need: StreamSpec = NEED, index: int = 0) -> None:
        self.source.open("s", need, index)

    def say(self, blocks: int = 1, **options: Any) -> None:
        """Let blocks come on time; their samples count up."""
        stream = self.library.streams[-1]
        for _ in range(blocks):
            self.clock.advance(BLOCK_S)
            channels = stream.asked["channels"]
            numbers = np.arange(self.said, self.said + BLOCK * channels) % 30_000
            stream.feed(numbers.astype(np.int16).reshape(BLOCK, channels), **options)
            self.said += BLOCK * channels

    def frames(self) -> list[Frame]:
        """Return everything that can be read now."""
        found = []
        while (frame := self.source.read(0.0)) is not None:
            found.append(frame)
        return found


@pytest.fixture
def room() -> Room:
    return Room()


def _samples(frames: list[Frame]) -> list[int]:
    joined: list[int] = np.concatenate([frame.samples[:, 0] for frame in frames]).tolist()
    return joined


# --- through PortAudio ----------------------------------------------------------------


def test_blocks_become_frames_of_16_bits(room: Room) -> None:
    """In order, with growing index, and the newest sample is as old as its block."""
    room.open(index=7)
    room.say(3)

    frames = room.frames()

    assert [frame.index for frame in frames] == [7, 7 + BLOCK, 7 + 2 * BLOCK]
    assert frames[0].samples.dtype == np.int16 and frames[0].samples.shape == (BLOCK, 1)
    assert _samples(frames) == list(range(3 * BLOCK))
    times = np.concatenate([frame.time_ns for frame in frames])
    assert times[-1] == room.clock.now_ns()
    assert (np.diff(times) == PERIOD_NS).all()


def test_the_device_is_asked_for_the_models_rate(room: Room) -> None:
    """16 bits, as many channels as are needed, in blocks as long as configured."""
    room.open()

    asked = room.library.streams[0].asked

    assert {key: asked[key] for key in ("samplerate", "channels", "dtype", "blocksize")} == {
        "samplerate": RATE_HZ,
        "channels": 1,
        "dtype": "int16",
        "blocksize": BLOCK,
    }


def test_channels_are_taken_as_they_are_mapped() -> None:
    """The model's left may be the device's third."""
    array = FakeDevice("array (hw:2,0)", 4)
    room = Room(array, channels={"left": 2, "right": 0})
    room.open(STEREO)
    room.say()

    frame = room.frames()[0]

    assert room.library.streams[0].asked["channels"] == 3
    assert frame.samples[:2].tolist() == [[2, 0], [5, 3]]


def test_a_device_may_have_more_channels_than_are_used() -> None:
    """Some offer stereo alone; the first channel is taken."""
    room = Room(FakeDevice("stereo (hw:1,0)", 2), device_channels=2)
    room.open()
    room.say()

    assert room.frames()[0].samples[:3, 0].tolist() == [0, 2, 4]


def test_an_overflow_is_lost_counted_and_makes_a_gap(room: Room) -> None:
    """The time between two blocks tells how much is missing."""
    room.open()
    room.say(2)
    room.clock.advance(0.1)
    room.say(1, has_overflowed=True)

    frames = room.frames()

    assert room.source.health().lost_samples == 1600
    assert room.source.health().faults == {"overflow": 1}
    assert frames[2].time_ns[0] - frames[1].time_ns[-1] == 1601 * PERIOD_NS


def test_an_overflow_of_unknown_length_is_at_least_one_sample(room: Room) -> None:
    """A gap all the same: no window spans it."""
    room.open()
    room.say(1)
    room.say(1, has_overflowed=True)

    frames = room.frames()

    assert room.source.health().lost_samples == 1
    gap_ns = int(frames[1].time_ns[0] - frames[0].time_ns[-1])
    assert gap_ns == pytest.approx(2 * PERIOD_NS, rel=0.01)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=4))
def test_what_finds_no_room_is_counted_to_the_sample(turns: list[int]) -> None:
    """A pipeline that stalls loses the newest blocks; nothing else, and nothing unseen."""
    room = Room()
    room.open()
    frames = []
    for blocks in turns:
        room.say(blocks)
        frames += room.frames()
    room.say(1)
    frames += room.frames()

    delivered = sum(map(len, frames))
    assert delivered + room.source.health().lost_samples == (sum(turns) + 1) * BLOCK
    times = np.concatenate([frame.time_ns for frame in frames])
    assert (np.diff(times) > 0).all()
    assert abs(int(times[-1]) - room.clock.now_ns()) < 5_000_000


def test_clipped_sound_is_kept_counted_and_marked(room: Room) -> None:
    """Full scale, either way, sample by sample."""
    room.open()
    stream = room.library.streams[0]
    for low, high in [(-32768, 0), (0, 32767), (-5, 5)]:
        room.clock.advance(BLOCK_S)
        stream.feed(np.array([[low], [high]] * (BLOCK // 2), np.int16))
    frames = room.frames()

    assert room.source.health().faults == {"saturated": BLOCK}
    first, second, third = (frame.quality for frame in frames)
    assert first is not None and second is not None and third is None
    assert first.tolist() == [Quality.SATURATED, 0] * (BLOCK // 2)
    assert second.tolist() == [0, Quality.SATURATED] * (BLOCK // 2)


@pytest.mark.parametrize(("frozen_s", "frozen"), [(2 * BLOCK_S, 2 * BLOCK), (None, 0)])
def test_sound_that_does_not_move_is_noted(frozen_s: float | None, frozen: int) -> None:
    """Muted, or a broken wire, unless that is usual: a gate in front of it, say."""
    room = Room(frozen_s=frozen_s)
    room.open()
    stream = room.library.streams[0]
    for _ in range(4):
        room.clock.advance(BLOCK_S)
        stream.feed(np.full((BLOCK, 1), 5, np.int16))
    frames = room.frames()

    masks = joined_masks((frame.quality, len(frame)) for frame in frames)
    assert room.source.health().faults == ({"frozen": frozen} if frozen else {})
    assert (0 if masks is None else np.count_nonzero(masks & Quality.FROZEN)) == frozen


def test_the_first_sample_behind_a_loss_is_marked(room: Room) -> None:
    """The block before the hole is good, and so is the rest of the one behind it."""
    room.open()
    room.say(400)
    frames = room.frames()
    room.say(1)
    frames += room.frames()

    assert room.source.health().lost_samples > 0
    masks = joined_masks((frame.quality, len(frame)) for frame in frames)
    assert masks is not None
    assert np.flatnonzero(masks).tolist() == [sum(map(len, frames[:-1]))]
    assert masks.max() == Quality.LOST_BEFORE


def test_an_unplugged_microphone_fails_and_is_found_again(room: Room) -> None:
    """What was heard before is still delivered; the library is started again to look."""
    room.open()
    room.say(2)
    room.library.devices.clear()
    room.library.streams[0].end()

    assert len([room.source.read(0.0) for _ in range(2)]) == 2
    with pytest.raises(SourceError, match="the sound has ended") as caught:
        room.source.read(0.0)
    room.source.close()
    with pytest.raises(SourceError, match="none: no microphone is connected"):
        room.open(index=2 * BLOCK)
    room.library.devices.append(HARDWARE)
    room.open(index=2 * BLOCK)
    room.say()

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))
    assert room.frames()[0].index == 2 * BLOCK
    assert room.library.starts == 2


def test_the_library_is_not_started_again_under_another_stream(room: Room) -> None:
    """That would end the other source's sound."""
    room.open()
    other = MicrophoneSource(MicrophoneConfig(device="none"), sounddevice=room.library)

    with pytest.raises(SourceError, match="there is no such device"):
        other.open("s", NEED, 0)

    assert room.library.starts == 0
    room.source.close()


def test_a_microphone_that_gives_nothing_has_failed(room: Room) -> None:
    """After three seconds somebody should try again."""
    room.open()
    room.say()
    room.frames()
    room.clock.advance(3.5)

    with pytest.raises(SourceError, match=r"nothing has come for 3\.5 s"):
        room.source.read(0.0)


@pytest.mark.parametrize("device", [1, "USB PnP", None])
def test_a_device_is_found_by_number_name_or_default(device: int | str | None) -> None:
    """A loudspeaker is none."""
    room = Room(FakeDevice("loud", 0), HARDWARE, device=device)

    room.open()

    assert room.library.streams[0].asked["device"] == 1


def test_a_device_that_is_not_there_tells_which_are(room: Room) -> None:
    """With their numbers."""
    room = Room(HARDWARE, device="Yeti")

    with pytest.raises(SourceError, match=r"microphone Yeti: there is no such device.*0 'USB"):
        room.open()


@pytest.mark.parametrize(
    ("device", "options", "need", "message"),
    [
        (FakeDevice("mic (hw:1,0)", 1, (48_000,)), {}, NEED, "Invalid sample rate"),
        (HARDWARE, {}, STEREO, "Invalid number of channels"),
        (FakeDevice("default", 32, (44_100, 16_000)), {}, NEED, "runs at 44100 Hz"),
        (HARDWARE, {"channels": {"x": 0}}, NEED, "leaves out audio"),
        (HARDWARE, {"device_channels": 1}, STEREO, "device_channels is 1"),
        (HARDWARE, {}, StreamSpec(NEED.channels, 0.5), "whole number"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    device: FakeDevice, options: dict[str, Any], need: StreamSpec, message: str
) -> None:
    """Nothing is resampled or made up in silence."""
    room = Room(device, **options)

    with pytest.raises(ConfigError, match=message) as caught:
        room.open(need)

    assert all((caught.value.where, caught.value.expected, caught.value.remedy))


def test_the_system_may_convert_the_rate_where_that_is_said() -> None:
    """A sound server does it well enough for many models."""
    room = Room(FakeDevice("default", 32, (44_100, 16_000)), may_resample=True)

    room.open()

    assert room.library.streams[0].asked["samplerate"] == RATE_HZ


def test_a_busy_device_may_be_free_later() -> None:
    """It is no mistake in the configuration."""
    room = Room(FakeDevice("mic (hw:1,0)", is_busy=True))

    with pytest.raises(SourceError, match="Device unavailable"):
        room.open()
    room.library.devices[0].is_busy = False
    room.open()
    room.say()

    assert len(room.frames()) == 1
    room.source.close()
    assert not room.library.streams[-1].is_open


def test_close_wakes_a_read_that_waits(room: Room) -> None:
    """From another thread, at once."""
    room.open()
    closing = threading.Timer(0.05, room.source.close)
    closing.start()

    assert room.source.read(60.0) is None
    closing.join()


def test_without_its_library_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python package is an extra."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)

    with pytest.raises(MissingExtra, match=r'pip install "edge-runtime\[microphone\]"'):
        MicrophoneSource(MicrophoneConfig()).open("s", NEED, 0)


def test_without_the_systems_library_its_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sounddevice raises OSError then, as it is imported."""
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)

    with pytest.raises(MissingExtra, match="sudo apt install libportaudio2"):
        MicrophoneSource(MicrophoneConfig()).open("s", NEED, 0)


# --- through arecord --------------------------------------------------------------------

HELLO = "echo \"Recording raw data 'stdin' : Signed 16 bit Little Endian\" >&2\n"


class Script:
    """A stand-in of arecord: a shell script that writes sound and words as a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        os.mkfifo(folder / "go")
        np.arange(4 * BLOCK, dtype="<i2").tofile(folder / "sound")

    def source(self, body: str, **options: Any) -> MicrophoneSource:
        program = self.folder / "arecord"
        program.write_text(f'#!/bin/sh\ncd "{self.folder}"\necho "$@" > asked\n{body}\n')
        program.chmod(0o755)
        config = MicrophoneConfig(through="alsa", block_s=BLOCK_S, **options)
        return MicrophoneSource(config, clock=self.clock, arecord=program)

    def go(self) -> None:
        """Let the script pass its next ``: < go``."""
        (self.folder / "go").write_text("")


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def _read(source: MicrophoneSource, samples: int) -> list[Frame]:
    frames: list[Frame] = []
    while sum(map(len, frames)) < samples:
        frame = source.read(10.0)
        if frame is not None:
            frames.append(frame)
    return frames


def test_arecord_is_asked_for_raw_sound(script: Script) -> None:
    """16 bits, little endian, at the model's rate, in blocks as long as configured."""
    source = script.source(HELLO + "cat sound; : < go", device="hw:1", device_channels=2)
    source.open("s", NEED, 3)

    frames = _read(source, 2 * BLOCK)
    source.close()

    asked = (script.folder / "asked").read_text()
    assert asked.startswith("-D hw:1 -t raw -f S16_LE -r 16000 -c 2 -v --period-time=20000 ")
    assert frames[0].index == 3 and frames[0].samples.dtype == np.int16
    assert _samples(frames) == list(range(0, 4 * BLOCK, 2))


def test_samples_that_are_cut_in_the_pipe_are_put_together(script: Script) -> None:
    """A pipe knows no samples."""
    cut = "head -c 1001 sound; : < go; tail -c +1002 sound; : < go"
    source = script.source(HELLO + cut)
    source.open("s", NEED, 0)

    frames = _read(source, BLOCK)
    script.go()
    frames += _read(source, 4 * BLOCK - len(frames[0]))
    source.close()

    assert _samples(frames) == list(range(4 * BLOCK))


def test_an_overrun_is_lost_counted_and_makes_a_gap(script: Script) -> None:
    """Arecord says how long it was."""
    overrun = "echo 'overrun!!! (at least 25.500 ms long)' >&2"
    source = script.source(f"{HELLO}cat sound; : < go; {overrun}; cat sound; : < go")
    source.open("s", NEED, 0)
    script.clock.advance(4 * BLOCK_S)
    before = _read(source, 4 * BLOCK)
    script.clock.advance(4 * BLOCK_S + 0.0255)
    script.go()
    after = _read(source, 4 * BLOCK)
    source.close()

    assert source.health().lost_samples == 408
    assert source.health().faults == {"overflow": 1}
    gap_ns = int(after[0].time_ns[0] - before[-1].time_ns[-1])
    assert gap_ns == pytest.approx(409 * PERIOD_NS, rel=0.01)


def test_a_child_that_dies_says_why_and_is_started_again(script: Script) -> None:
    """Its last words become the error."""
    last = "echo 'arecord: pcm_read:2221: read error: No such device' >&2; exit 1"
    source = script.source(f"{HELLO}cat sound; : < go; {last}")
    source.open("s", NEED, 0)
    _read(source, 4 * BLOCK)
    script.go()

    with pytest.raises(SourceError, match=r"read error: No such device") as caught:
        _read(source, 1)
    source.close()
    source.open("s", NEED, 4 * BLOCK)
    frames = _read(source, 4 * BLOCK)
    source.close()

    assert "unplugged" in caught.value.remedy
    assert frames[0].index == 4 * BLOCK


@pytest.mark.parametrize(
    ("words", "kind", "remedy"),
    [
        ("audio open error: No such file or directory", SourceError, "arecord -L"),
        ("audio open error: Device or resource busy", SourceError, "fuser -v"),
        ("audio open error: Permission denied", SourceError, "usermod -aG audio"),
        ("set_params:1358: Channels count non available", ConfigError, "device_channels"),
        ("set_params:1352: Sample format non available", ConfigError, "plughw"),
        ("something new", SourceError, "opened again"),
    ],
)
def test_what_arecord_says_at_the_start_has_a_remedy(
    script: Script, words: str, kind: type[EdgeError], remedy: str
) -> None:
    """And nothing is left running."""
    source = script.source(f"echo 'arecord: main:831: {words}' >&2; exit 1")

    with pytest.raises(kind, match=words) as caught:
        source.open("s", NEED, 0)

    assert remedy in caught.value.remedy
    assert all((caught.value.where, caught.value.expected))


CONVERTED = "echo 'Plug PCM: Rate conversion PCM (48000, sformat=S16_LE)' >&2\n"
INACCURATE = "echo 'Warning: rate is not accurate (requested = 16000Hz, got = 48000Hz)' >&2\n"


@pytest.mark.parametrize("words", [CONVERTED, INACCURATE])
def test_a_rate_that_the_device_does_not_have_is_refused(script: Script, words: str) -> None:
    """Arecord goes on in both cases, with a warning at most."""
    source = script.source(f"{HELLO}{words}cat sound; : < go")

    with pytest.raises(ConfigError, match="the device runs at 48000 Hz") as caught:
        source.open("s", NEED, 0)

    assert "--rate-hz 48000" in caught.value.remedy


def test_alsa_may_convert_the_rate_where_that_is_said(script: Script) -> None:
    """What arrives is the model's rate then."""
    source = script.source(f"{HELLO}{CONVERTED}cat sound; : < go", may_resample=True)
    source.open("s", NEED, 0)

    assert len(_read(source, 4 * BLOCK)) == 1
    source.close()


def test_close_ends_a_child_that_does_not_listen(script: Script) -> None:
    """It is asked first, and killed a second later; a waiting read returns at once."""
    source = script.source(f"trap '' TERM\n{HELLO}cat sound\nwhile :; do : < go; done")
    source.open("s", NEED, 0)
    _read(source, 4 * BLOCK)
    closing = threading.Timer(0.05, source.close)
    closing.start()

    assert source.read(60.0) is None
    closing.join()


def test_without_arecord_its_package_is_told() -> None:
    """It belongs to every Raspberry Pi OS, but not to every Linux."""
    source = MicrophoneSource(MicrophoneConfig(through="alsa"), arecord="arecord-that-is-not-there")

    with pytest.raises(MissingExtra, match="sudo apt install alsa-utils"):
        source.open("s", NEED, 0)


# --- through ALSA itself, without a card ----------------------------------------------------

ALSA = Path("/usr/share/alsa/alsa.conf")
needs_alsa = pytest.mark.skipif(
    not (ALSA.exists() and shutil.which("arecord")), reason="needs alsa-utils"
)


@pytest.fixture
def alsa(tmp_path: Path) -> str:
    """Declare ALSA devices without a card; return the value of ALSA_CONFIG_PATH."""
    np.arange(1, 20 * BLOCK + 1, dtype="<i2").tofile(tmp_path / "sound")
    (tmp_path / "asoundrc").write_text(
        f"""
pcm.mic {{ type file; slave.pcm null; file /dev/null; infile "{tmp_path}/sound"; format raw }}
pcm.slow {{ type null }}
pcm.converting {{ type plug; slave {{ pcm slow; rate 48000 }} }}
"""
    )
    return f"{ALSA}:{tmp_path}/asoundrc"


@needs_alsa
@pytest.mark.alsa
def test_arecord_delivers_a_file_through_alsa(alsa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program, the real library, and every sample in order."""
    monkeypatch.setenv("ALSA_CONFIG_PATH", alsa)
    source = MicrophoneSource(MicrophoneConfig(through="alsa", device="mic"))
    source.open("s", NEED, 0)

    frames = _read(source, 20 * BLOCK)
    source.close()

    assert _samples(frames)[: 20 * BLOCK] == list(range(1, 20 * BLOCK + 1))


@needs_alsa
@pytest.mark.alsa
@pytest.mark.parametrize(
    ("device", "kind", "message"),
    [
        ("none", SourceError, "audio open error: No such file or directory"),
        ("converting", ConfigError, "the device runs at 48000 Hz"),
    ],
)
def test_what_alsa_really_says_is_understood(
    alsa: str, monkeypatch: pytest.MonkeyPatch, device: str, kind: type[EdgeError], message: str
) -> None:
    """A device that is missing, and one behind which the rate is converted."""
    monkeypatch.setenv("ALSA_CONFIG_PATH", alsa)
    source = MicrophoneSource(MicrophoneConfig(through="alsa", device=device))

    with pytest.raises(kind, match=message):
        source.open("s", NEED, 0)


LISTEN = """
import numpy as np
from edge_runtime.sources.microphone import MicrophoneConfig, MicrophoneSource
from edge_runtime.sources.microphones import PortAudioMicrophone
from edge_runtime.spec import ChannelSpec, StreamSpec
source = MicrophoneSource(MicrophoneConfig(device="mic", may_resample=True, block_s=0.02))
for _ in range(2):
    source.open("s", StreamSpec((ChannelSpec("audio"),), 16000.0), 0)
    frames = [source.read(5.0) for _ in range(20)]
    source.close()
    print(np.concatenate([frame.samples[:, 0] for frame in frames]).tolist() == [*range(1, 6401)])
"""


@needs_alsa
@pytest.mark.alsa
def test_portaudio_delivers_a_file_through_alsa(alsa: str) -> None:
    """The real libraries in a process of their own; closed and opened again."""
    pytest.importorskip("_sounddevice")
    environment = {**os.environ, "ALSA_CONFIG_PATH": alsa}

    done = subprocess.run(
        [sys.executable, "-c", LISTEN],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "libportaudio2" in done.stderr:
        pytest.skip("needs libportaudio2")

    assert done.stdout.split() == ["True", "True"], done.stderr
