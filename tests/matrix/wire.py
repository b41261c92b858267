"""A wire between two network namespaces that loses, delays, doubles, swaps and damages IP packets.

The kernel's own ``tc netem`` does the same where it is built in; this one needs TUN alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from pathlib import Path

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_BYTES = 2048
_IDLE_S = 0.2

LOSS, DOUBLED, DAMAGED = 0.03, 0.03, 0.01
DELAY_S, SPREAD_S = 0.005, 0.010


class Wire:
    """Two TUN devices, and a thread that carries packets from each to the other.

    Args:
        names: Of the devices.
        seed: Decides what happens to which packet.
    """

    def __init__(self, names: tuple[str, str], seed: int) -> None:
        self.ends = [_opened(name) for name in names]
        self.lost = self.doubled = self.damaged = self.carried = 0
        self._random = random.Random(seed)
        self._due: list[tuple[float, int, int, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the wire away, and its devices with it."""
        self._stop.set()
        self._thread.join(5)
        for end in self.ends:
            os.close(end)

    def _carry(self) -> None:
        while not self._stop.is_set():
            wait_s = max(0.0, self._due[0][0] - time.monotonic()) if self._due else _IDLE_S
            ready, _, _ = select.select(self.ends, [], [], min(wait_s, _IDLE_S))
            for end in ready:
                self._take(os.read(end, _PACKET_BYTES), self.ends[1 - self.ends.index(end)])
            while self._due and self._due[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(self._due)
                # An end that is down takes nothing.
                with contextlib.suppress(OSError):
                    os.write(to, packet)

    def _take(self, packet: bytes, to: int) -> None:
        """Decide what becomes of a packet: those that are delayed less come first."""
        chance = self._random
        self.carried += 1
        if chance.random() < LOSS:
            self.lost += 1
            return
        if chance.random() < DAMAGED:
            self.damaged += 1
            damaged = bytearray(packet)
            # Behind the IP header, so that it still arrives.
            damaged[chance.randrange(20, len(packet))] ^= 1 << chance.randrange(8)
            packet = bytes(damaged)
        copies = 1 + (chance.random() < DOUBLED)
        self.doubled += copies - 1
        for _ in range(copies):
            due_s = time.monotonic() + DELAY_S + SPREAD_S * chance.random()
            heapq.heappush(self._due, (due_s, self.carried, to, packet))


def _opened(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def has_netem() -> bool:
    """Whether this kernel has ``tc netem``; tried in a namespace of its own."""
    command = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", command], capture_output=True, check=False
    )
    return done.returncode == 0


def has_tun() -> bool:
    """Whether TUN devices can be made."""
    return os.access(Path("/dev/net/tun"), os.R_OK | os.W_OK)
