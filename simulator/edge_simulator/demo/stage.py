"""Everything real that the demo runs: keys, configurations, broker, link, cloud, devices.

All of it lives in one folder, which is made anew at every run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import yaml

from edge_cloud.jobs import Jobs
from edge_cloud.registry import Registry
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.errors import ConfigError, SourceError
from edge_simulator.broker import Broker, BrokerChoice, choose_broker
from edge_simulator.demo.data import Places
from edge_simulator.demo.replay import REFRESH
from edge_simulator.link import LinkProxy
from edge_simulator.processes import ChildProcess, DeviceProcess

__all__ = ["FAN", "TURBINE", "Folders", "Stage", "clean_folder"]

TURBINE = ("turbine-1", "turbine")
"""Device id and stream of the gas turbine."""
FAN = ("fan-1", "fan")
"""Device id and stream of the fan."""

_MARKER = ".edge-runtime-demo"
_MARK = "Made by edge-runtime demo; the next run deletes this folder's contents.\n"
_FIRST_TIME = datetime(2013, 1, 1, tzinfo=UTC)
_FAN_RATE_HZ = 50.0
_COMMIT_S = 0.002
_CLOUD_STOP_S = 15.0

OnEvent = Callable[[str, str, Mapping[str, Any]], None]


class Folders(msgspec.Struct, frozen=True):
    """Where the demo keeps what it makes."""

    root: Path

    @property
    def keys(self) -> Path:
        """Release key and layer key, mode 0600."""
        return self.root / "keys"

    @property
    def bundles(self) -> Path:
        """Copies of the bundles, with the statements signed in this run."""
        return self.root / "bundles"

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

    def config(self, name: str) -> Path:
        """YAML of the cloud or of a device."""
        return self.root / f"{name}.yaml"


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
    for path in (folders.keys, folders.bundles, folders.store, folders.inbox, folders.logs):
        path.mkdir(parents=True)
    return folders


class Stage:
    """Start and end every part; used as a context by the driver's thread.

    Args:
        folders: Cleaned.
        places: Inputs.
        broker: Which broker.
        first_row: First data row of the turbine's replay.
        last_row: Data row to stop before.
        on_event: Called with device, event and facts, on reader threads.
    """

    def __init__(
        self,
        folders: Folders,
        places: Places,
        *,
        broker: BrokerChoice,
        first_row: int,
        last_row: int,
        on_event: OnEvent,
    ) -> None:
        self.folders = folders
        self.first_row = first_row
        self._places = places
        self._last_row = last_row
        self._on_event = on_event
        self._stack = ExitStack()
        self.release_key = SigningKey.generate()
        self.layer_key = SigningKey.generate()
        self.turbine_first = load_bundle(places.turbine_first)
        self.turbine_second = load_bundle(places.turbine_second)
        self.fan_first = load_bundle(places.fan_first)
        self.broker = Broker(choose_broker(broker), folders.logs)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._write_files()
            stack.enter_context(self.broker)
            self._write_cloud_config()
            target = (self.broker.host, self.broker.port)
            self.link = stack.enter_context(LinkProxy(target=target))
            # The second device has a line of its own: a cut concerns the first.
            self.fan_link = stack.enter_context(LinkProxy(target=target))
            self._write_device_configs()
            self.store = Store(self.folders.store)
            stack.callback(self.store.close)
            self.registry, self.jobs = Registry(self.store), Jobs(self.store)
            self.cloud = self._started_cloud(stack)
            self.turbine = self._started_device(stack, TURBINE[0])
            self.fan = self._started_device(stack, FAN[0])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def end_devices(self) -> None:
        """End both devices cleanly; what they have sent is in the store."""
        self.turbine.stop()
        self.fan.stop()

    def end_cloud(self) -> None:
        """End the cloud cleanly."""
        self.cloud.stop(_CLOUD_STOP_S)

    def check_alive(self) -> None:
        """See that the cloud has not died.

        Raises:
            SourceError: It has; its last words are shown.
        """
        if not self.cloud.is_alive:
            raise SourceError(
                f"the cloud process has ended:\n{self.cloud.last_words()}",
                where=str(self.cloud.log_path),
                expected="a cloud that runs until it is told to end",
                remedy="Its log has the whole story.",
            )

    def publish_second_base(self) -> str:
        """Sign base 2.0.0 with the release key and offer it; return the job's id.

        The same calls as ``edge-runtime cloud publish``, on the same store.
        """
        signed = sign_base(self.release_key, self.turbine_second, [self.layer_key.public], seq=2)
        entry = self.registry.add(self.turbine_second, signed)
        return self.jobs.publish(self.registry, entry.digest, [TURBINE[0]])[0]

    def live_base(self) -> Bundle:
        """Return the base that the turbine's device says it runs."""
        life = self.jobs.life(TURBINE[0])
        digest = life.base.get(TURBINE[1], "") if life else ""
        is_second = digest == self.turbine_second.digest
        return self.turbine_second if is_second else self.turbine_first

    # --- files ----------------------------------------------------------------------

    def _write_files(self) -> None:
        self.release_key.save(self.folders.keys / "release.key")
        self.layer_key.save(self.folders.keys / "layer.key")
        for path, bundle in (
            (self._places.turbine_first, self.turbine_first),
            (self._places.fan_first, self.fan_first),
        ):
            copy = self.folders.bundles / path.name
            shutil.copytree(path, copy)
            signed = sign_base(self.release_key, bundle, [self.layer_key.public], seq=1)
            statement = copy.with_name(f"{copy.name}.signed.json")
            statement.write_bytes(msgspec.json.encode(signed))

    def _write_cloud_config(self) -> None:
        broker = {"port": self.broker.port, "protocol": self.broker.protocol}
        refresh = {"line": REFRESH.line, "row_half_life": REFRESH.row_half_life}
        self._write(
            "cloud",
            {
                "schema": 1,
                "store": "store",
                "broker": broker,
                "keys": {"layer": "keys/layer.key"},
                "bundles": [f"bundles/{path.name}" for path in _factory(self._places)],
                "refresh": [refresh],
            },
        )

    def _write_device_configs(self) -> None:
        # Row 0 of the file lies before 2013: times count from there.
        start = _FIRST_TIME - timedelta(hours=self.first_row)
        turbine = {
            "kind": "csv",
            "path": str(self._places.turbine_rows),
            "first_row": self.first_row,
            "last_row": self._last_row,
            "time": {"start": start.strftime("%Y-%m-%dT%H:%M:%SZ"), "step_s": 3600.0},
        }
        fan = {
            "kind": "csv",
            "path": str(self._places.fan_rows),
            "time": {
                "start": _FIRST_TIME.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "step_s": 1 / _FAN_RATE_HZ,
            },
        }
        self._write_device(TURBINE, turbine, self._places.turbine_first, self.link.port)
        self._write_device(FAN, fan, self._places.fan_first, self.fan_link.port)

    def _write_device(
        self, names: tuple[str, str], source: Mapping[str, object], bundle: Path, port: int
    ) -> None:
        device, stream = names
        self._write(
            device,
            {
                "schema": 1,
                "device": device,
                "state": f"devices/{device}",
                "streams": {
                    stream: {
                        "source": source,
                        "model": {"bundle": f"bundles/{bundle.name}"}
                        | ({"backend": "onnx"} if device == FAN[0] else {}),
                        "upload": "windows",
                    }
                },
                "sync": {"port": port, "protocol": self.broker.protocol},
                "outbox": {"commit_s": _COMMIT_S},
                "trust": {"release_keys": ["keys/release.key.pub"]},
            },
        )

    def _write(self, name: str, document: dict[str, object]) -> None:
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        self.folders.config(name).write_text(text)

    # --- processes ------------------------------------------------------------------

    def _started_cloud(self, stack: ExitStack) -> ChildProcess:
        command = ["-m", "edge_runtime.cli", "cloud", "up", str(self.folders.config("cloud"))]
        cloud = ChildProcess(command, self.folders.logs / "cloud.log")
        cloud.start()
        stack.callback(cloud.stop, _CLOUD_STOP_S)
        return cloud

    def _started_device(self, stack: ExitStack, name: str) -> DeviceProcess:
        device = DeviceProcess(
            self.folders.config(name),
            self.folders.logs / f"{name}.log",
            lambda event, facts: self._on_event(name, event, facts),
        )
        device.start()
        stack.callback(device.stop)
        return device


def _factory(places: Places) -> tuple[Path, Path]:
    """Return the bundles that the devices begin with."""
    return places.turbine_first, places.fan_first


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
