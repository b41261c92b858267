"""Archives and the record: what is stored, and what is believed when it is read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_runtime.bundle import pack
from edge_runtime.errors import BundleError, StoreError, TrustError
from edge_runtime.sync.messages import JobReport
from edge_runtime.sync.state import StateStore
from edge_runtime.testing import FakeClock
from edge_runtime.update.slots import Record, Slots, read_signed, signed_path, write_signed
from edge_runtime.update.trust import Statement, Trust


@pytest.fixture
def factory(make_bundle, tmp_path: Path) -> Path:
    make_bundle(tmp_path / "factory", version="1")
    return tmp_path / "factory"


@pytest.fixture
def slots(factory: Path, tmp_path: Path) -> Slots:
    state = StateStore(tmp_path / "state.db", FakeClock())
    return Slots(tmp_path / "slots", "main", factory=factory, state=state)


@pytest.fixture
def statement(make_bundle, sign, tmp_path: Path, slots: Slots) -> Statement:
    """A second bundle, complete in its part file."""
    bundle = make_bundle(tmp_path / "new", version="2", bias=5.0)
    statement = msgspec.json.decode(sign(bundle, seq=2).payload, type=Statement)
    part = slots.part(statement)
    part.parent.mkdir(parents=True)
    part.write_bytes(pack(bundle))
    return statement


def test_a_device_begins_with_its_factory_bundle(slots: Slots) -> None:
    """Without any record the factory bundle is active, and nothing is written yet."""
    assert slots.record == Record(slots.factory.digest, slots.factory.digest)
    assert not slots.folder.exists()


def test_a_record_is_there_after_a_restart(slots: Slots, factory: Path, tmp_path: Path) -> None:
    """What was stored is read again by the next process."""
    report = JobReport("job-1", "pump-7", "main", "committed", measured={"x": 1.5})
    stored = slots.store(boots=1, quarantine={"q": "bad"})
    slots.finish(report)

    state = StateStore(tmp_path / "state.db", FakeClock())
    again = Slots(tmp_path / "slots", "main", factory=factory, state=state)

    assert again.record == msgspec.structs.replace(stored, done=(report,))
    assert again.record.finished("job-1") == report
    assert again.record.finished("job-2") is None


def test_streams_share_a_store_without_meeting(slots: Slots, factory: Path, tmp_path: Path) -> None:
    """Each stream has a record and a folder of its own."""
    slots.store(boots=1)

    other = Slots(tmp_path / "slots", "other", factory=factory, state=slots._state)

    assert other.record.boots == 0
    assert other.folder != slots.folder


def test_only_the_last_reports_are_kept(slots: Slots) -> None:
    """The record does not grow with the number of jobs."""
    for number in range(100):
        slots.finish(JobReport(f"job-{number}", "pump-7", "main", "committed"))

    assert len(slots.record.done) == 32
    assert slots.record.finished("job-99") is not None


def test_an_archive_is_installed_and_opens(slots: Slots, statement, sign, release_key) -> None:
    """Installing twice is as good as once."""
    first = slots.install(statement)
    second = slots.install(statement)

    assert first.digest == second.digest == statement.digest
    assert slots.is_installed(statement)
    assert not slots.part(statement).exists()


@pytest.mark.parametrize("content", [b"", b"x" * 100], ids=["empty", "garbage"])
def test_nothing_is_unpacked_before_its_hash_is_right(slots: Slots, statement, content) -> None:
    """A damaged part is refused by its digest, not by a parser, and never becomes a slot."""
    slots.part(statement).write_bytes(content)

    with pytest.raises(TrustError, match="digest: archive has"):
        slots.install(statement)
    assert not slots.slot(statement.digest).exists()


def test_a_missing_archive_is_said(slots: Slots, statement) -> None:
    """Without part and slot there is nothing to install."""
    slots.part(statement).unlink()

    with pytest.raises(StoreError, match="disk: "):
        slots.install(statement)
    assert not slots.is_installed(statement)


def test_a_slot_opens_only_with_its_statement(slots: Slots, statement, release_key) -> None:
    """A slot whose statement is lost, or that nobody is trusted for, does not open."""
    slots.install(statement)

    with pytest.raises(TrustError, match="nothing vouches"):
        slots.open(statement.digest, Trust([release_key.public]))


def test_a_slot_opens_verified(
    slots: Slots, statement, sign, make_bundle, release_key, stranger, tmp_path: Path
) -> None:
    """With the statement of a trusted key the bundle comes back; of another key it does not."""
    signed = sign(make_bundle(tmp_path / "new", version="2", bias=5.0), seq=2)
    slots.install(statement)
    slots.store(statements={statement.digest: signed})

    bundle, known = slots.open(statement.digest, Trust([release_key.public]))

    assert bundle.spec.version == "2"
    assert known == statement
    with pytest.raises(TrustError, match="key: "):
        slots.open(statement.digest, Trust([stranger.public]))
    with pytest.raises(TrustError, match="nothing vouches"):
        slots.open(statement.digest, None)


def test_the_factory_bundle_always_opens(slots: Slots, factory: Path, sign, release_key) -> None:
    """With a statement beside it layers are possible; with none or a wrong one, only the base."""
    trust = Trust([release_key.public])
    assert slots.open(slots.factory.digest, trust) == (slots.factory, None)

    write_signed(signed_path(factory), sign(slots.factory, seq=1))
    assert slots.open(slots.factory.digest, None) == (slots.factory, None)
    _, statement = slots.open(slots.factory.digest, trust)
    assert statement is not None
    assert statement.digest == slots.factory.digest

    write_signed(signed_path(factory), sign(slots.factory, seq=1, digest="e" * 64))
    assert slots.open(slots.factory.digest, trust) == (slots.factory, None)


def test_statement_files_lie_beside_folders_and_zips() -> None:
    """The statement's name follows the bundle's."""
    assert signed_path(Path("a/turbine")) == Path("a/turbine.signed.json")
    assert signed_path(Path("a/turbine.zip")) == Path("a/turbine.zip.signed.json")


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"payload": 3}', b"[" * 100_000])
def test_statement_files_that_are_none_are_said(tmp_path: Path, content: bytes | None) -> None:
    """A missing, empty or odd file names itself and the remedy."""
    path = tmp_path / "x.signed.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(BundleError, match="statement file") as caught:
        read_signed(path)
    assert caught.value.where == str(path)


def test_pruning_keeps_what_can_still_be_started(slots: Slots, statement) -> None:
    """Active and previous slots stay; nothing is touched while something is on its way."""
    slots.install(statement)
    old = slots.slot("e" * 64)
    old.write_bytes(b"old")
    (slots.folder / "x.part").write_bytes(b"half")
    slots.store(active=statement.digest)

    slots.prune()

    assert [path.name for path in slots.folder.iterdir()] == [f"{statement.digest}.zip"]


def test_a_damaged_factory_bundle_does_not_cost_the_committed_base(
    slots: Slots, factory: Path, tmp_path: Path
) -> None:
    """What was committed over the air stays active when the factory's model file is truncated."""
    committed = slots.store(active="c" * 64, previous=slots.factory.digest)
    model = factory / "model.npz"
    model.write_bytes(model.read_bytes()[:50])

    again = Slots(tmp_path / "slots", "main", factory=factory, state=slots._state)

    assert again.record == committed
