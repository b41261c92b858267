"""The book of devices: who was invited, who has a certificate, who is out.

Of a claim token the store has only a hash. A device is *invited* until it shows its token,
*active* until it is *revoked*; a new invitation takes a revoked device in again, and what
was signed for it before stays revoked.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

import msgspec

from edge_cloud.store import Store
from edge_runtime.clock import SystemClock
from edge_runtime.errors import ConfigError, RequestError
from edge_runtime.ports import Clock
from edge_runtime.sync.messages import Life, decode
from edge_runtime.types import check_name

__all__ = ["RESERVED_PREFIX", "Device", "DeviceState", "Devices"]

RESERVED_PREFIX = "cloud-"
"""Names that begin so belong to the cloud's own roles."""

DeviceState = Literal["invited", "active", "revoked"]


class Device(msgspec.Struct, frozen=True):
    """What is known of one device.

    Attributes:
        device: Device id.
        state: Whether it may connect.
        serial: Number of the machine it was invited for.
        not_after_ns: Until when its newest certificate is good; None without one.
        seen_ns: When it last said that it lives; None if never.
        is_online: Whether that was not its farewell, and it is not out.
    """

    device: str
    state: DeviceState
    serial: str
    not_after_ns: int | None
    seen_ns: int | None
    is_online: bool


class Devices:
    """Invitations, certificates and revocations in a store; callable from any thread.

    Args:
        store: Where the book is.
        clock: Tells when invitations end.
    """

    def __init__(self, store: Store, clock: Clock | None = None) -> None:
        self._database = store.database
        self._clock = clock or SystemClock()

    def invite(self, device: str, digest: str, *, serial: str, expires_s: float) -> int:
        """Note a claim token; an earlier one of that device is void. Return when it ends, ns.

        Args:
            device: Device id.
            digest: SHA-256 of the token's secret, hex.
            serial: Number of the machine that may use it.
            expires_s: How long it may be used.

        Raises:
            ConfigError: The name is not one for a device.
        """
        _check_device(device)
        now_ns = self._clock.now_ns()
        expires_ns = now_ns + round(expires_s * 1e9)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM claim WHERE device=? AND key IS NULL", (device,))
            connection.execute(
                "INSERT INTO claim VALUES (?,?,?,?,NULL)", (digest, device, serial, expires_ns)
            )
            connection.execute(
                "INSERT INTO device VALUES (?,?,'invited',?) ON CONFLICT (device) DO UPDATE SET"
                " serial=excluded.serial, changed_ns=excluded.changed_ns,"
                " state=iif(state='active', 'active', 'invited')",
                (device, serial, now_ns),
            )
        return expires_ns

    def admit(self, name: str) -> None:
        """Note a link of the cloud that is on another machine, so that it can be revoked."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT INTO device VALUES (?,'','active',?) ON CONFLICT (device) DO UPDATE SET"
                " state='active', changed_ns=excluded.changed_ns",
                (name, self._clock.now_ns()),
            )

    def claim(self, digest: str, *, device: str, serial: str, key: str) -> None:
        """Use an invitation for a key; the same key may use it again until it ends.

        Args:
            digest: SHA-256 of the secret that was shown, hex.
            device: Device id that was given.
            serial: Number that was given.
            key: SHA-256 of the public key, hex.

        Raises:
            RequestError: There is no such invitation for this device and machine, it is
                over, or another key has used it.
        """
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT device, serial, expires_ns, key FROM claim WHERE digest=?", (digest,)
            ).fetchone()
            # Who guesses learns nothing about which part was wrong.
            if row is None or row[:2] != (device, serial):
                raise _refused("the claim token is not known for this device and serial number")
            _, _, expires_ns, used_by = row
            if used_by not in (None, key):
                raise _refused("the claim token was used before")
            if self._clock.now_ns() >= expires_ns:
                raise _refused("the claim token has expired")
            connection.execute("UPDATE claim SET key=? WHERE digest=?", (key, digest))
            self._set_state(connection, device, "active")

    def note_certificate(self, device: str, number: int, *, not_after_ns: int) -> None:
        """Note what was signed, before it is handed out.

        Raises:
            RequestError: The device is not active.
        """
        with self._database.transaction() as connection:
            if self._state(connection, device) != "active":
                raise _refused("the device is revoked or unknown")
            connection.execute(
                "INSERT INTO certificate VALUES (?,?,?,NULL)",
                (f"{number:x}", device, not_after_ns),
            )

    def is_good(self, device: str, number: int) -> bool:
        """Whether a certificate was signed here for an active device, and is not revoked."""
        rows = self._database.rows(
            "SELECT 1 FROM certificate JOIN device USING (device) WHERE number=? AND"
            " certificate.device=? AND revoked_ns IS NULL AND state='active'",
            (f"{number:x}", device),
        )
        return bool(rows)

    def revoke(self, device: str) -> int:
        """Shut a device out: its certificates, and invitations; return how many certificates.

        Raises:
            ConfigError: It is not known.
        """
        with self._database.transaction() as connection:
            if self._state(connection, device) is None:
                raise ConfigError(
                    f"device {device!r} is not known",
                    where="cloud revoke",
                    expected="one that was enrolled here",
                    remedy="List them: edge-runtime cloud devices CLOUD.yaml.",
                )
            self._set_state(connection, device, "revoked")
            connection.execute("DELETE FROM claim WHERE device=?", (device,))
            return connection.execute(
                "UPDATE certificate SET revoked_ns=? WHERE device=? AND revoked_ns IS NULL",
                (self._clock.now_ns(), device),
            ).rowcount

    def revoked(self) -> frozenset[str]:
        """Return the devices that are out."""
        rows = self._database.rows("SELECT device FROM device WHERE state='revoked'")
        return frozenset(row[0] for row in rows)

    def revoked_certificates(self) -> list[tuple[int, int]]:
        """Return number and time of revocation, ns, of what is revoked and not over."""
        rows = self._database.rows(
            "SELECT number, revoked_ns FROM certificate WHERE revoked_ns IS NOT NULL"
            " AND not_after_ns>? ORDER BY revoked_ns, number",
            (self._clock.now_ns(),),
        )
        return [(int(number, 16), revoked_ns) for number, revoked_ns in rows]

    def all(self) -> list[Device]:
        """Return every device, in order of its name."""
        rows = self._database.rows(
            "SELECT d.device, d.state, d.serial,"
            " (SELECT max(not_after_ns) FROM certificate c"
            "  WHERE c.device=d.device AND revoked_ns IS NULL), life.received_ns, life.payload"
            " FROM device d LEFT JOIN life ON life.device=d.device ORDER BY d.device"
        )
        return [
            Device(device, state, serial, not_after_ns, seen_ns, _is_online(state, life))
            for device, state, serial, not_after_ns, seen_ns, life in rows
        ]

    def _state(self, connection: sqlite3.Connection, device: str) -> DeviceState | None:
        row = connection.execute("SELECT state FROM device WHERE device=?", (device,)).fetchone()
        return None if row is None else row[0]

    def _set_state(self, connection: sqlite3.Connection, device: str, state: DeviceState) -> None:
        connection.execute(
            "UPDATE device SET state=?, changed_ns=? WHERE device=?",
            (state, self._clock.now_ns(), device),
        )


def _is_online(state: DeviceState, life: bytes | None) -> bool:
    # The farewell of a device that is out is not heard.
    return state != "revoked" and life is not None and decode(life, Life).is_online


def _check_device(device: str) -> None:
    check_name(device, "device id")
    if device.startswith(RESERVED_PREFIX):
        raise ConfigError(
            f"device id is {device!r}",
            where="cloud enroll",
            expected=f"a name that does not begin with {RESERVED_PREFIX!r}",
            remedy="Those belong to the cloud's own roles; choose another.",
        )


def _refused(why: str) -> RequestError:
    return RequestError(why, kind="forbidden", where="enrolment")
