"""What a fleet's cloud offers: bases signed with the fleet's key, or with a stranger's."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import msgspec

from edge_cloud.signing import SigningKey, sign_base
from edge_runtime.bundle import Bundle, assemble, load_bundle, pack, read_golden, write_golden
from edge_runtime.config import DeviceConfig, StreamConfig, TrustConfig
from edge_runtime.sync.messages import Job, Signed
from edge_simulator.fleet.cloud import Offer
from edge_simulator.fleet.config import Update
from edge_simulator.fleet.load import Fault, Fleet, Member

__all__ = ["Workshop"]

# Far outside every tolerance.
_WRONG_BY = 1000.0


class Workshop:
    """Makes keys and offers for one run.

    Args:
        fleet: Its devices trust the release key that is made here, if it has updates;
            if its cloud refreshes layers, their bases are signed, and name the layer key.
        folder: For keys, and for signed copies of bases.

    Attributes:
        release_key: Signs bases.
        layer_key: Signs layers; None if there are none.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._is_asked = bool(fleet.refresh) or any(
            isinstance(fault.config, Update) for fault in fleet.faults
        )
        self._keys = folder / "keys"
        self._bundles = folder / "bundles"
        self.release_key, self._stranger = SigningKey.generate(), SigningKey.generate()
        self.layer_key = SigningKey.generate() if fleet.refresh else None
        if self._is_asked:
            self._keys.mkdir(parents=True, exist_ok=True)
            self.release_key.save(self._keys / "release.key")
        if self.layer_key is not None:
            self.layer_key.save(self._keys / "layer.key")

    @property
    def layer_path(self) -> Path | None:
        """File of the layer key."""
        return None if self.layer_key is None else self._keys / "layer.key"

    def equipped(self, member: Member) -> Member:
        """Return a device that trusts the fleet's key, unless its file says whom it trusts."""
        if not self._is_asked or member.config.trust is not None:
            return member
        sensors = {number: self._trusting(config) for number, config in member.sensors.items()}
        return msgspec.structs.replace(
            member, config=self._trusting(member.config), sensors=sensors
        )

    def _trusting(self, config: DeviceConfig) -> DeviceConfig:
        trust = TrustConfig((self._keys / "release.key.pub",))
        streams = config.streams
        if self.layer_key is not None:
            streams = {name: self._signed(stream) for name, stream in streams.items()}
        return msgspec.structs.replace(config, trust=trust, streams=streams)

    def _signed(self, stream: StreamConfig) -> StreamConfig:
        """Return a stream that runs a signed copy of its base, beside the statement about it."""
        copy = self._bundles / stream.model.bundle.name
        if not copy.exists():
            bundle = load_bundle(stream.model.bundle)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(stream.model.bundle, copy)
            statement = copy.with_name(f"{copy.name}.signed.json")
            statement.write_bytes(msgspec.json.encode(self.sign(bundle, seq=1)))
        model = msgspec.structs.replace(stream.model, bundle=copy)
        return msgspec.structs.replace(stream, model=model)

    def sign(self, bundle: Bundle, *, seq: int) -> Signed:
        """Return the fleet's statement about a base; it names the layer key, if there is one."""
        return self._statement(self.release_key, bundle, seq)

    def _statement(self, key: SigningKey, bundle: Bundle, seq: int) -> Signed:
        layer_keys = [] if self.layer_key is None else [self.layer_key.public]
        return sign_base(key, bundle, layer_keys, seq=seq)

    def offer(self, fault: Fault, config: Update, device: str, made_ns: int) -> Offer:
        """Return the job that an update fault offers to a device."""
        bundle = load_bundle(config.bundle)
        if config.golden == "wrong":
            bundle = _with_wrong_golden(bundle)
        # Devices never go back behind a number they have committed; an offer by hand has -1.
        key = self.release_key if config.signed_by == "fleet" else self._stranger
        signed = self._statement(key, bundle, fault.number + 3)
        archive = pack(bundle)
        job = Job(
            id=f"update-{fault.number}-{device}"[:63],
            device=device,
            stream=config.stream,
            model=bundle.spec.name,
            made_ns=made_ns,
            base=signed,
            requires=bundle.digest,
        )
        return Offer(job, bundle, archive, hashlib.sha256(archive).hexdigest())


def _with_wrong_golden(bundle: Bundle) -> Bundle:
    name = bundle.spec.golden
    golden = read_golden(bundle.files[name])
    wrong = msgspec.structs.replace(golden, outputs=golden.outputs + _WRONG_BY)
    return assemble({**bundle.files, name: write_golden(wrong)}, bundle.ref)
