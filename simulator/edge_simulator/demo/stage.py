"""The demo's fleet on its stage, and the offers of the story that no fleet makes by itself.

Broker, lines, cloud and devices are those of `edge-runtime simulate`. All of it
lives in one folder, which is made anew at every run.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from edge_cloud.signing import sign_layer
from edge_runtime.bundle import Bundle, assemble, load_bundle
from edge_runtime.errors import ConfigError
from edge_runtime.spec import Layer, ResidualLayer
from edge_runtime.sync.messages import Signed
from edge_runtime.update.trust import Statement
from edge_simulator.fleet.config import Cut, FaultConfig, PowerOff, Update
from edge_simulator.fleet.faults import by_hand
from edge_simulator.fleet.ingest import RealCloud
from edge_simulator.fleet.load import Fleet, load_fleet
from edge_simulator.fleet.processes import OnTold, Processes
from edge_simulator.fleet.real_device import RealDevice
from edge_simulator.places import Places, find_places

__all__ = ["FAN", "TURBINE", "Folders", "Stage", "clean_folder", "demo_fleet"]

TURBINE = ("turbine-1", "turbine")
"""Device id and stream of the gas turbine."""
FAN = ("fan-1", "fan")
"""Device id and stream of the fan."""

_MARKER = ".edge-runtime-demo"
_MARK = "Made by edge-runtime demo; the next run deletes this folder's contents.\n"
_FLEET = Path(__file__).with_name("demo.yaml")
# Nothing that a thief signs may fail for its number alone.
_THIEF_SEQ = 1_000_000
_FORGED_SEQ = 3
_WILD = 500.0


def demo_fleet() -> Fleet:
    """Read the demo's fleet; its paths are relative to the recordings that come along."""
    return load_fleet(_FLEET, folder=find_places().root)


class Folders(msgspec.Struct, frozen=True):
    """Where the demo keeps what it makes."""

    root: Path

    @property
    def store(self) -> Path:
        """The cloud's store."""
        return self.root / "store"

    @property
    def inbox(self) -> Path:
        """Where labels are put for the cloud."""
        return self.store / "labels-inbox"

    @property
    def logs(self) -> Path:
        """What every process printed."""
        return self.root / "logs"


def clean_folder(root: Path) -> Folders:
    """Make the demo's folder, empty; only a folder that a demo made is emptied.

    Raises:
        ConfigError: Something else is there.
    """
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise _not_ours(root, "is no folder")
    if root.is_dir() and any(root.iterdir()):
        marker = root / _MARKER
        if not marker.is_file() or marker.read_text() != _MARK:
            raise _not_ours(root, "holds something that no demo made")
        for path in root.iterdir():
            if path != marker:
                _remove(path)
    root.mkdir(parents=True, exist_ok=True)
    (root / _MARKER).write_text(_MARK)
    folders = Folders(root)
    folders.inbox.mkdir(parents=True)
    return folders


class Stage:
    """Start and end every part; used as a context by the driver's thread.

    Args:
        folders: Cleaned.
        places: Inputs.
        fleet: The demo's.
        on_told: Called with device, event and facts, on the driver's thread.

    Attributes:
        folders: Where everything is.
        fleet: Runs while the context lasts.
        turbine: The first device.
        fan: The second one.
        turbine_first: Base that the first device begins with.
        turbine_second: Base that it is offered.
    """

    def __init__(self, folders: Folders, places: Places, fleet: Fleet, on_told: OnTold) -> None:
        self.folders = folders
        self.turbine_first = load_bundle(places.turbine_first)
        self.turbine_second = load_bundle(places.turbine_second)
        self._second = Update(stream=TURBINE[1], bundle=places.turbine_second)
        self.fleet = Processes(fleet, folders.root, on_told)

    def __enter__(self) -> Self:
        try:
            self.fleet.start()
        except BaseException:
            self.fleet.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.fleet.close()

    @property
    def turbine(self) -> RealDevice:
        """The gas turbine's device."""
        return self.fleet.devices[TURBINE[0]]

    @property
    def fan(self) -> RealDevice:
        """The fan's device."""
        return self.fleet.devices[FAN[0]]

    @property
    def cloud(self) -> RealCloud:
        """The cloud; a twin could not compute layers."""
        cloud = self.fleet.cloud
        assert isinstance(cloud, RealCloud)  # noqa: S101 - demo.yaml says so
        return cloud

    @property
    def is_cut(self) -> bool:
        """Whether the turbine's link is cut."""
        return "cut" in self.fleet.troubles[TURBINE[0]].kinds

    def traffic(self) -> tuple[int, int]:
        """Return bytes up and down so far, over all lines."""
        counts = [device.line.counts() for device in self.fleet.devices.values()]
        return sum(count.bytes_up for count in counts), sum(count.bytes_down for count in counts)

    # --- what happens to the turbine ------------------------------------------------------

    def toggle_link(self) -> None:
        """Cut its link, or mend it."""
        self._toggle(Cut(lasts="0s"))

    def toggle_power(self) -> None:
        """Kill its process, or start it again."""
        self._toggle(PowerOff(lasts="0s"))

    def offer_second_base(self) -> str:
        """Offer base 2.0.0, signed with the release key; return the job's id."""
        self._toggle(self._second)
        return [row.job.id for row in self.cloud.jobs.all() if row.kind == "base"][-1]

    def offer_tampered_base(self) -> str:
        """Offer a base with one changed weight under the signature of the genuine one."""
        genuine, workshop = self.turbine_second, self.fleet.workshop
        name = genuine.spec.artefacts[0].file
        model = bytearray(genuine.files[name])
        model[len(model) // 2] ^= 1
        tampered = assemble({**genuine.files, name: bytes(model)}, "tampered")
        signed = workshop.sign(genuine, seq=_FORGED_SEQ)
        wanted = workshop.sign(tampered, seq=_FORGED_SEQ)
        # Who has no release key can only put new words under an old signature.
        forged = Signed(wanted.payload, signed.key, signed.signature)
        return self._offer(
            base=forged, requires=msgspec.json.decode(forged.payload, type=Statement).digest
        )

    def offer_wild_layer(self, made_ns: int) -> str:
        """Offer a layer far beyond its clamps, signed with the real layer key.

        Args:
            made_ns: Event time up to which it pretends to know.
        """
        base, key = self.live_base(), self.fleet.workshop.layer_key
        assert key is not None  # noqa: S101 - demo.yaml refreshes layers
        layer = Layer(
            body=ResidualLayer(intercept=_WILD, weights=(0.0,) * len(base.spec.stream.names)),
            requires=base.digest,
            seq=_THIEF_SEQ,
            made_ns=made_ns,
            scope=f"device:{TURBINE[0]}",
        )
        return self._offer(layers=[sign_layer(key, layer)], requires=base.digest)

    def live_base(self) -> Bundle:
        """Return the base that the turbine's device says it runs."""
        life = self.cloud.jobs.life(TURBINE[0])
        digest = life.base.get(TURBINE[1], "") if life else ""
        is_second = digest == self.turbine_second.digest
        return self.turbine_second if is_second else self.turbine_first

    def _toggle(self, config: FaultConfig) -> None:
        self.fleet.toggle(TURBINE[0], by_hand(config))

    def _offer(
        self, *, requires: str, base: Signed | None = None, layers: Sequence[Signed] = ()
    ) -> str:
        device, stream = TURBINE
        return self.cloud.jobs.offer(
            device=device,
            stream=stream,
            model=self.turbine_first.spec.name,
            base=base,
            layers=layers,
            requires=requires,
            state="ready",
        )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _not_ours(root: Path, what: str) -> ConfigError:
    return ConfigError(
        f"it {what}",
        where=str(root),
        expected="a new folder, or the folder of an earlier demo",
        remedy="Choose another folder with --out.",
    )
