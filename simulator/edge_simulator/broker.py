"""A real MQTT broker for simulations and the demo: Mosquitto if installed, else from PyPI.

It listens on 127.0.0.1 and nowhere else, without accounts: nobody but this
machine can reach it. Never meant for a device in the field.
"""

from __future__ import annotations

import getpass
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self

from edge_runtime.config.hosts import is_loopback
from edge_runtime.errors import ConfigError, MissingExtra, SourceError

__all__ = ["Broker", "BrokerChoice", "BrokerKind", "choose_broker", "free_port"]

BrokerKind = Literal["mosquitto", "iotcore"]
BrokerChoice = Literal["auto", "mosquitto", "iotcore"]

# Frames are at most 96 KiB; topics and properties come on top.
_PAYLOAD_BYTES = 256 * 1024
_READY_S = 10.0
_STOP_S = 5.0
_ATTEMPTS = 3
# Debian keeps daemons in /usr/sbin, which is not on every user's path.
_SYSTEM_PATHS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


def choose_broker(choice: BrokerChoice = "auto") -> BrokerKind:
    """Return which broker will run here.

    Args:
        choice: ``auto`` prefers Mosquitto and falls back to iotcore.

    Raises:
        MissingExtra: The wanted one, or with ``auto`` neither, is installed.
    """
    if choice != "iotcore" and _mosquitto() is not None:
        return "mosquitto"
    if choice == "mosquitto":
        raise MissingExtra(
            "broker mosquitto is not installed",
            remedy="apt install mosquitto, or use --broker iotcore.",
        )
    _iotcore()
    return "iotcore"


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """One broker in a child process, on loopback, gone when this process is gone.

    Args:
        kind: Which one, see `choose_broker`.
        folder: Where its configuration and log go.
        host: Address to listen on; anything but loopback is refused.
        is_persistent: Whether Mosquitto keeps its state on disk; the other one never does.
        configure: Writes a configuration of Mosquitto for a port, and returns where it is;
            None for one without accounts.

    Raises:
        ConfigError: ``host`` can be reached from other machines.
    """

    def __init__(
        self,
        kind: BrokerKind,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        is_persistent: bool = False,
        configure: Callable[[int], Path] | None = None,
    ) -> None:
        check_loopback(host)
        self._is_persistent = is_persistent
        self._configure = configure or self._without_accounts
        self.kind = kind
        self.host = host
        self.port = 0
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def protocol(self) -> Literal["5", "3.1.1"]:
        """The newest MQTT version its plain listener speaks."""
        return "5" if self.kind == "mosquitto" else "3.1.1"

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start it on a free port; returns when it accepts connections.

        Raises:
            SourceError: It does not come up; its last words are shown.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for _attempt in range(_ATTEMPTS):
            # Between choosing a port and listening on it another program may take it.
            self.port = free_port()
            if self._launch():
                return self
            self.stop()
        raise self._refusal()

    def _refusal(self) -> SourceError:
        return SourceError(
            f"broker {self.kind} does not start: {self._last_words()}",
            where=f"{self.host}:{self.port}",
            expected=f"a listening broker within {_READY_S:g} s",
            remedy="Look at broker.log, or choose the other one with --broker.",
        )

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Start it again on the port it had.

        Raises:
            SourceError: It does not come up; its last words are shown.
        """
        self.stop()
        if not self._launch():
            self.stop()
            raise self._refusal()

    def stop(self) -> None:
        """End the child process; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def log_path(self) -> Path:
        """What the broker printed."""
        return self._folder / "broker.log"

    def _launch(self) -> bool:
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl-C reaches us alone, and we end it last.
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                self._command(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if _accepts(self.host, self.port):
                return True
            time.sleep(0.02)
        return False

    def _command(self) -> Sequence[str]:
        if self.kind == "iotcore":
            return [sys.executable, "-m", "edge_simulator.broker", self.host, str(self.port)]
        return [_mosquitto() or "mosquitto", "-c", str(self._configure(self.port))]

    def _without_accounts(self, port: int) -> Path:
        config = self._folder / "mosquitto.conf"
        kept = self._folder if self._is_persistent else None
        config.write_text(mosquitto_config(self.host, port, kept))
        return config

    def _last_words(self) -> str:
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def mosquitto_config(host: str, port: int, kept: Path | None = None) -> str:
    """Return a configuration for loopback, without accounts.

    Without ``set_tcp_nodelay`` small messages wait 40 ms for the kernel.

    Args:
        host: Address to listen on.
        port: To listen on.
        kept: Folder for its state; None keeps nothing on disk.
    """
    check_loopback(host)
    return "\n".join(
        [
            f"listener {port} {host}",
            "allow_anonymous true",
            *_persistence(kept),
            "set_tcp_nodelay true",
            f"max_packet_size {_PAYLOAD_BYTES}",
            "max_inflight_messages 100",
            "max_queued_messages 10000",
            "log_dest stderr",
            "log_type error",
            "log_type warning",
            "",
        ]
    )


def _persistence(kept: Path | None) -> Sequence[str]:
    if kept is None:
        return ["persistence false"]
    return [
        "persistence true",
        f"persistence_location {kept.absolute()}/",
        "autosave_interval 1",
        # Else root's Mosquitto becomes somebody who may not write there.
        f"user {getpass.getuser()}",
    ]


def check_loopback(host: str) -> None:
    """Refuse an address that other machines can reach.

    Raises:
        ConfigError: ``host`` is no loopback address.
    """
    if not is_loopback(host):
        raise ConfigError(
            f"this broker would listen on {host!r}",
            where="broker",
            expected="a loopback address such as 127.0.0.1",
            remedy="It has no accounts and no TLS; for other machines run a broker of your own.",
        )


def _mosquitto() -> str | None:
    found = shutil.which("mosquitto")
    return found or shutil.which("mosquitto", path=":".join(_SYSTEM_PATHS))


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=0.2):
            return True
    except OSError:
        return False


def _iotcore() -> type:
    try:
        from iotcore import Broker as Embedded
    except ImportError as error:
        raise MissingExtra.of("a broker for the demo", "iotcore", "demo") from error
    return Embedded  # type: ignore[no-any-return]


def _serve(host: str, port: int) -> None:
    """Run iotcore in this process until its parent closes our standard input."""
    check_loopback(host)
    # rumqttd reports every packet as an error span.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    embedded = _iotcore()(port=port, listen=host, max_payload_size=_PAYLOAD_BYTES)
    threading.Thread(target=embedded.run_forever, daemon=True).start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
