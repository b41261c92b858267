"""The update agent: what it does with good and bad offers, and after a cut at any instant."""

from __future__ import annotations

import hashlib
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_cloud.signing import SigningKey
from edge_runtime.bundle import Bundle, digest_of, pack
from edge_runtime.errors import EdgeError
from edge_runtime.spec import (
    CalibrationLayer,
    ChannelSpec,
    FusionLayer,
    Layer,
    LayerBody,
    PriorLayer,
    ResidualLayer,
    StreamSpec,
    effective_id,
)
from edge_runtime.sync.messages import BlobChunk, BlobRequest, Job, JobReport, Signed
from edge_runtime.sync.state import StateStore
from edge_runtime.testing import FakeClock
from edge_runtime.update.actions import (
    Action,
    ActivateBase,
    ActivateLayers,
    Admit,
    Report,
    Request,
    Serving,
)
from edge_runtime.update.admission import Admission, admit
from edge_runtime.update.agent import UpdateAgent
from edge_runtime.update.proof import LayerProver
from edge_runtime.update.slots import Slots, signed_path, write_signed
from edge_runtime.update.trust import Statement, Trust

DEVICE = "pump-7"
STREAM = "main"
NOW_NS = 1_700_000_000_000_000_000
ADMITTED = Admission(True, seconds=0.5, peak_rss_mb=60.0, worst_difference=1e-7)
TIMEOUT_S = 100.0


class PowerCutError(BaseException):
    """The process ends here, at once."""


class CutStore(StateStore):
    """A state.db whose process dies at one of its writes, before or after it lands."""

    cut_at: int | None = None
    is_after = False
    writes = 0

    def set(self, key: str, value: object) -> None:
        self.writes += 1
        is_cut = self.writes == self.cut_at
        if is_cut and not self.is_after:
            raise PowerCutError
        super().set(key, value)
        if is_cut:
            raise PowerCutError


class World:
    """One agent, the device that does its actions, and a cloud with archives.

    Everything waits in queues until a test moves it: ``wire`` holds chunks on
    their way, ``work`` admissions and activations to be done.
    """

    def __init__(self, folder: Path, factory: Path, trust: Trust | None) -> None:
        self.folder = folder
        self.factory = factory
        self.trust = trust
        self.clock = FakeClock(NOW_NS)
        self.archives: dict[str, bytes] = {}
        self.chunk_bytes = 128
        self.verdict = ADMITTED
        self.reports: list[JobReport] = []
        self.requests: list[BlobRequest] = []
        self.activated: list[str] = []
        self.cut_at: int | None = None
        self.is_after = False
        self.writes = 0
        self.start()

    def start(self) -> None:
        """Start the process: open, boot, come up, go on."""
        self.wire: deque[BlobChunk] = deque()
        self.work: deque[Admit | ActivateBase | ActivateLayers] = deque()
        self.store = CutStore(self.folder / "state.db", self.clock)
        self.store.cut_at, self.store.is_after = self.cut_at, self.is_after
        self.slots = Slots(self.folder / "slots", STREAM, factory=self.factory, state=self.store)
        self.agent = UpdateAgent(
            self.slots,
            device=DEVICE,
            trust=self.trust,
            clock=self.clock,
            event_ns=lambda: NOW_NS,
            prove=LayerProver(),
        )
        self.serving: Serving = self.agent.boot()
        self.do(self.agent.on_booted())

    def kill(self) -> None:
        """End the process without a word and start it again."""
        self.writes += self.store.writes
        self.store.close()
        self.cut_at = None
        self.start()

    def do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Request(message):
                    self.requests.append(message)
                    self.wire.extend(self.chunks(message))
                case Report(message):
                    self.reports.append(message)
                case other:
                    self.work.append(other)

    def chunks(self, request: BlobRequest) -> Iterator[BlobChunk]:
        archive = self.archives.get(request.sha256, b"")
        total = max(1, -(-len(archive) // self.chunk_bytes))
        for index in range(request.first, request.first + request.n):
            first = index * self.chunk_bytes
            yield BlobChunk(request.sha256, index, total, archive[first : first + self.chunk_bytes])

    def step(self) -> bool:
        """Move one thing; False when nothing is left to move."""
        if self.wire:
            self.do(self.agent.on_chunk(self.wire.popleft()))
        elif self.work:
            self.finish(self.work.popleft())
        else:
            return False
        return True

    def finish(self, action: Admit | ActivateBase | ActivateLayers) -> None:
        match action:
            case Admit(digest=digest):
                self.do(self.agent.on_admitted(digest, self.verdict))
            case ActivateBase(bundle=bundle, layers=layers):
                self.activate(Serving(bundle, layers), action.effective_id)
            case ActivateLayers(layers=layers):
                self.activate(Serving(self.serving.bundle, layers), action.effective_id)

    def activate(self, serving: Serving, identity: str) -> None:
        assert identity == effective_id(serving.bundle.digest, serving.layers)
        self.serving = serving
        self.activated.append(identity)
        self.do(self.agent.on_activated(identity, {"activation_s": 0.001}))

    def settle(self) -> None:
        """Let everything arrive and be done; lost chunks are asked for again."""
        for _ in range(30):
            while self.step():
                pass
            if self.slots.record.candidate is None:
                return
            self.clock.advance(TIMEOUT_S)
            self.do(self.agent.on_tick(self.clock.monotonic_ns()))

    def offer(self, job: Job) -> None:
        self.do(self.agent.on_job(job))

    def states(self, job: str) -> list[str]:
        return [report.state for report in self.reports if report.id == job]

    def outcome(self, job: str) -> tuple[str, str]:
        last = [report for report in self.reports if report.id == job][-1]
        return last.state, last.reason

    @property
    def identity(self) -> str:
        return effective_id(self.serving.bundle.digest, self.serving.layers)


class Shop:
    """Bundles, keys and jobs of one model line."""

    def __init__(
        self,
        folder: Path,
        make_bundle: Callable[..., Bundle],
        sign: Callable[..., Signed],
        layer_key: SigningKey,
    ) -> None:
        self.folder = folder
        self.make_bundle, self.sign_base, self.layer_key = make_bundle, sign, layer_key
        self.factory = self.bundle("1", bias=0.0)
        self.new = self.bundle("2", bias=5.0)
        write_signed(signed_path(folder / "1"), sign(self.factory, seq=1))

    def bundle(self, version: str, **changes: object) -> Bundle:
        return self.make_bundle(self.folder / version, version=version, **changes)

    def base_job(
        self, bundle: Bundle | None = None, *, job: str = "base-2", seq: int = 2, **fields: object
    ) -> Job:
        signed = self.sign_base(bundle or self.new, seq=seq)
        return self._job(job, base=signed, **fields)

    def layers_job(self, *layers: Layer, job: str = "layers-1", **fields: object) -> Job:
        signed = tuple(self.layer_key.sign(layer.encode()) for layer in layers)
        return self._job(job, layers=signed, **fields)

    def layer(self, body: LayerBody, *, base: Bundle | None = None, **fields: object) -> Layer:
        given_fields: dict[str, object] = {"requires": (base or self.factory).digest, "seq": 1}
        return Layer(body, **(given_fields | {"made_ns": NOW_NS} | fields))  # type: ignore[arg-type]

    def _job(self, job: str, **fields: object) -> Job:
        known: dict[str, object] = {
            "id": job,
            "device": DEVICE,
            "stream": STREAM,
            "model": "turbine",
            "made_ns": NOW_NS,
        }
        return Job(**(known | fields))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def shop(tmp_path_factory, make_bundle, sign, layer_key) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"), make_bundle, sign, layer_key)


@pytest.fixture
def make_world(shop: Shop, release_key) -> Callable[..., World]:
    def make(folder: Path, *, factory: str = "1", is_trusting: bool = True) -> World:
        trust = Trust([release_key.public]) if is_trusting else None
        world = World(folder, shop.folder / factory, trust)
        world.archives = _archives(shop.factory, shop.new)
        return world

    return make


@pytest.fixture
def world(make_world, tmp_path: Path) -> World:
    return make_world(tmp_path)


def _archives(*bundles: Bundle) -> dict[str, bytes]:
    packed = [pack(bundle) for bundle in bundles]
    return {hashlib.sha256(archive).hexdigest(): archive for archive in packed}


RESIDUAL = ResidualLayer(intercept=1.0, weights=(0.5, -0.5))
PRIOR = PriorLayer(value=(2.0,), base=(1.0,))
CALIBRATION = CalibrationLayer(scale=1.1, offset=0.5)


# --- a base, from offer to commit -----------------------------------------------------


def test_a_base_is_fetched_proven_and_committed(world: World, shop: Shop) -> None:
    """An offered base goes through every state once, and serves from then on."""
    world.offer(shop.base_job())
    world.settle()

    assert world.states("base-2") == ["fetching", "verified", "staged", "trial", "committed"]
    assert world.serving.bundle.digest == shop.new.digest
    assert world.reports[-1].effective == effective_id(shop.new.digest)
    assert world.reports[-1].measured == {
        "admission_s": 0.5,
        "peak_rss_mb": 60.0,
        "worst_difference": 1e-7,
        "activation_s": 0.001,
    }


def test_a_base_goes_live_together_with_its_layers(world: World, shop: Shop) -> None:
    """Layers computed for a new base are activated with it, never after it."""
    layers = shop.layers_job(shop.layer(RESIDUAL, base=shop.new)).layers

    world.offer(shop.base_job(layers=layers))
    world.settle()

    assert world.activated == [world.identity]
    assert [layer.body for layer in world.serving.layers] == [RESIDUAL]


def test_a_real_child_admits_a_real_archive(world: World, shop: Shop) -> None:
    """What the agent hands to admission is an archive that the child can prove."""
    world.offer(shop.base_job())
    while not world.work:
        world.step()
    action = world.work[0]

    assert isinstance(action, Admit)
    world.verdict = admit(action.path)
    world.settle()

    assert world.outcome("base-2") == ("committed", "")


def test_eight_chunks_are_on_their_way_at_most(world: World, shop: Shop) -> None:
    """The window bounds what a device asks for, and every chunk is asked for once."""
    world.offer(shop.base_job())
    assert len(world.wire) == 8

    world.settle()

    asked = [
        i for request in world.requests for i in range(request.first, request.first + request.n)
    ]
    assert sorted(asked) == list(range(len(asked)))


def test_a_restart_serves_what_was_committed(world: World, shop: Shop) -> None:
    """Base and layers come back after a kill, verified again from their bytes."""
    layers = shop.layers_job(shop.layer(RESIDUAL, base=shop.new)).layers
    world.offer(shop.base_job(layers=layers))
    world.settle()
    before = world.identity

    world.kill()

    assert world.identity == before
    assert not world.work


def test_old_archives_are_removed_but_one(world: World, shop: Shop) -> None:
    """Active and previous archives stay, parts and older ones go."""
    third = shop.bundle("3", bias=3.0)
    fourth = shop.bundle("4", bias=4.0)
    world.archives |= _archives(third, fourth)

    for seq, bundle in enumerate([shop.new, third, fourth], start=2):
        world.offer(shop.base_job(bundle, job=f"base-{seq}", seq=seq))
        world.settle()

    kept = sorted(path.name for path in (world.folder / "slots" / STREAM).iterdir())
    assert kept == sorted([f"{third.digest}.zip", f"{fourth.digest}.zip"])


# --- what is refused ---------------------------------------------------------------------


def test_a_tampered_archive_is_refused_by_its_digest(world: World, shop: Shop) -> None:
    """Chunks that keep coming with another hash end the job; the old keeps serving."""
    sha, archive = next(iter(_archives(shop.new).items()))
    world.archives[sha] = archive[:200] + bytes([archive[200] ^ 1]) + archive[201:]

    world.offer(shop.base_job())
    world.settle()

    state, reason = world.outcome("base-2")
    assert state == "refused"
    assert reason.startswith("digest: chunk 1 ")
    assert world.serving.bundle.digest == shop.factory.digest
    assert not list((world.folder / "slots" / STREAM).glob("*"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"archive_sha256": "a" * 64}, "digest: archive has "),
        ({"digest": "d" * 64}, "digest: bundle has "),
        ({"version": "9"}, "digest: the bundle is turbine@2"),
        ({"name": "pump"}, "line: 'pump' is not what this stream runs"),
    ],
)
def test_statements_that_do_not_fit_the_archive_are_refused(
    world: World, shop: Shop, sign, changes, reason: str
) -> None:
    """Even a signed statement must fit the bytes it names."""
    signed = sign(shop.new, seq=2, **changes)
    world.archives["a" * 64] = pack(shop.new)

    world.offer(msgspec.structs.replace(shop.base_job(), base=signed))
    world.settle()

    assert world.outcome("base-2")[0] == "refused"
    assert world.outcome("base-2")[1].startswith(reason)
    assert world.serving.bundle.digest == shop.factory.digest


def test_an_unsigned_base_is_refused(world: World, shop: Shop, stranger) -> None:
    """A base signed by a stranger is not even fetched."""
    job = shop.base_job()
    assert job.base is not None

    world.offer(msgspec.structs.replace(job, base=stranger.sign(job.base.payload)))

    assert world.outcome("base-2")[1].startswith("key: ")
    assert not world.requests


def test_a_base_for_other_channels_is_refused(world: World, shop: Shop) -> None:
    """A base that needs another stream would never get a window."""
    stream = StreamSpec((ChannelSpec("a"), ChannelSpec("c")), rate_hz=1.0)
    other = shop.bundle("other", stream=stream)
    world.archives |= _archives(other)

    world.offer(shop.base_job(other))
    world.settle()

    assert world.outcome("base-2")[1].startswith("requires: channels ['a', 'c']")


def test_a_base_for_a_newer_runtime_is_refused(world: World, shop: Shop) -> None:
    """What needs a newer runtime says which, and the old keeps serving."""
    manifest = shop.new.files["bundle.yaml"]
    newer = manifest.replace(b"requires_runtime: '0.1'", b"requires_runtime: '99.0'")
    assert newer != manifest
    files = shop.new.files | {"bundle.yaml": newer}
    bundle = Bundle(shop.new.spec, digest_of(files), files)
    world.archives |= _archives(bundle)

    world.offer(shop.base_job(bundle))
    world.settle()

    assert world.outcome("base-2")[1].startswith("bundle: turbine@2 needs edge-runtime 99.0")


@pytest.mark.parametrize("content", [b"x" * 300, b"PK\x03\x04" + bytes(300)])
def test_a_signed_archive_that_is_no_bundle_is_refused(
    world: World, shop: Shop, sign, content: bytes
) -> None:
    """Even release keys make mistakes: signed garbage is refused, not served."""
    sha = hashlib.sha256(content).hexdigest()
    chunks = tuple(
        hashlib.sha256(content[first : first + 128]).hexdigest()
        for first in range(0, len(content), 128)
    )
    signed = sign(shop.new, seq=2, archive_sha256=sha, archive_bytes=len(content), chunks=chunks)
    world.archives[sha] = content

    world.offer(msgspec.structs.replace(shop.base_job(), base=signed))
    world.settle()

    assert world.outcome("base-2")[1].startswith("bundle: ")
    assert world.serving.bundle.digest == shop.factory.digest


def test_a_failed_admission_is_refused_and_never_tried_again(world: World, shop: Shop) -> None:
    """A base whose golden vectors differ is put in quarantine."""
    world.verdict = Admission(False, "golden: an answer differs by 1 > 0.001")

    world.offer(shop.base_job())
    world.settle()
    world.verdict = ADMITTED
    world.offer(shop.base_job(job="again", seq=3))
    world.settle()

    assert world.outcome("base-2") == (
        "refused",
        "admission: golden: an answer differs by 1 > 0.001",
    )
    assert world.outcome("again")[1].startswith("quarantine: admission: golden: ")


def test_a_device_that_lacked_memory_may_be_asked_again(world: World, shop: Shop) -> None:
    """A refusal that is not the bundle's fault is no quarantine."""
    world.verdict = Admission(False, "memory: more than 1024 MiB")
    world.offer(shop.base_job())
    world.settle()

    world.verdict = ADMITTED
    world.offer(shop.base_job(job="again"))
    world.settle()

    assert world.outcome("base-2")[0] == "refused"
    assert world.outcome("again")[0] == "committed"


def test_an_older_base_is_refused_by_the_floor(world: World, shop: Shop) -> None:
    """After seq 2 nothing at or below it comes in, whoever replays it."""
    world.offer(shop.base_job())
    world.settle()
    third = shop.bundle("3", bias=3.0)

    world.offer(shop.base_job(third, job="same-seq", seq=2))
    world.offer(shop.base_job(shop.factory, job="back", seq=1))

    assert world.outcome("same-seq")[1].startswith("floor: base seq 2 <= 2")
    assert world.outcome("back")[1].startswith("floor: base seq 1 <= 2")


def test_a_base_that_runs_already_is_committed_at_once(world: World, shop: Shop) -> None:
    """Offering the running base again fetches nothing."""
    world.offer(shop.base_job())
    world.settle()
    asked = len(world.requests)

    world.offer(shop.base_job(job="same"))

    assert world.outcome("same") == ("committed", "")
    assert len(world.requests) == asked


def test_a_cloud_that_stays_silent_ends_the_fetch(world: World, shop: Shop) -> None:
    """Ten unanswered requests end the job; an offline device waits as long as it must."""
    world.archives.clear()
    world.offer(shop.base_job())
    world.wire.clear()

    world.do(world.agent.on_link(is_up=False))
    for _ in range(50):
        world.clock.advance(TIMEOUT_S)
        world.do(world.agent.on_tick(world.clock.monotonic_ns()))
    assert world.states("base-2") == ["fetching"]

    world.do(world.agent.on_link(is_up=True))
    for _ in range(12):
        world.wire.clear()
        world.clock.advance(TIMEOUT_S)
        world.do(world.agent.on_tick(world.clock.monotonic_ns()))

    assert world.outcome("base-2")[1].startswith("fetch: 10 requests without an answer")


def test_a_full_disk_refuses_and_keeps_serving(world: World, shop: Shop) -> None:
    """A part file that cannot be written is a refusal that says so."""
    world.offer(shop.base_job())
    (world.folder / "slots").write_text("in the way")

    world.settle()

    assert world.outcome("base-2")[1].startswith("disk: ")
    assert world.serving.bundle.digest == shop.factory.digest


def test_without_release_keys_every_update_is_refused(make_world, tmp_path, shop: Shop) -> None:
    """A device that trusts nobody says so."""
    world = make_world(tmp_path, is_trusting=False)

    world.offer(shop.base_job())
    world.offer(shop.layers_job(shop.layer(PRIOR)))

    assert world.outcome("base-2")[1].startswith("key: this device trusts no release key")
    assert world.outcome("layers-1")[1].startswith("key: this device trusts no release key")


# --- layers ---------------------------------------------------------------------------------


def test_layers_go_live_as_one_set_and_replace_the_last(world: World, shop: Shop) -> None:
    """A job's layers are the whole set; the ones before are gone."""
    world.offer(shop.layers_job(shop.layer(RESIDUAL), shop.layer(PRIOR)))
    world.settle()
    assert [layer.kind for layer in world.serving.layers] == ["residual", "prior"]

    world.offer(shop.layers_job(shop.layer(PRIOR, seq=2), job="layers-2"))
    world.settle()

    assert [layer.kind for layer in world.serving.layers] == ["prior"]
    assert world.outcome("layers-2") == ("committed", "")
    assert world.reports[-1].measured["largest_move"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("body", "fields", "reason"),
    [
        (ResidualLayer(500.0, (0.0, 0.0)), {}, "clamp: residual_weight 500 > 50"),
        (FusionLayer(0.0, 3.0, 0.0), {}, "clamp: fusion_weight 3 > 2"),
        (PriorLayer((1.0, 1.0), (1.0, 1.0)), {}, "shape: 2 values"),
        (PRIOR, {"requires": "e" * 64}, "requires: base eeee"),
        (PRIOR, {"made_ns": NOW_NS - 10**9 * 86400 * 8}, "clamp: age_s 691200 > 604800"),
        (PRIOR, {"scope": "device:pump-8"}, "scope: device:pump-8"),
    ],
)
def test_one_bad_layer_refuses_the_whole_set(
    world: World, shop: Shop, body: LayerBody, fields, reason: str
) -> None:
    """The reason names rule and values, and the old set keeps serving."""
    world.offer(shop.layers_job(shop.layer(CALIBRATION)))
    world.settle()
    before = world.identity

    job = shop.layers_job(shop.layer(RESIDUAL, seq=2), shop.layer(body, **fields), job="bad")
    world.offer(job)
    world.settle()

    assert world.outcome("bad")[0] == "refused"
    assert world.outcome("bad")[1].startswith(reason)
    assert world.identity == before
    world.kill()
    assert world.identity == before


def test_a_layer_signed_by_another_key_is_refused(world: World, shop: Shop, release_key) -> None:
    """Only keys that the base's statement names may sign layers; not even a release key."""
    signed = release_key.sign(shop.layer(PRIOR).encode())

    world.offer(msgspec.structs.replace(shop.layers_job(), layers=(signed,)))

    assert world.outcome("layers-1")[1].startswith("key: ")


def test_layers_never_go_back(world: World, shop: Shop) -> None:
    """A replayed older layer is refused; the same one, sent again, is not."""
    for seq in (1, 2):
        world.offer(shop.layers_job(shop.layer(PRIOR, seq=seq), job=f"layers-{seq}"))
        world.settle()

    world.offer(shop.layers_job(shop.layer(PRIOR, seq=1), job="replayed"))
    world.offer(shop.layers_job(shop.layer(PRIOR, seq=2), job="repeated"))
    changed = PriorLayer(value=(3.0,), base=(1.0,))
    world.offer(shop.layers_job(shop.layer(changed, seq=2), job="renumbered"))

    assert world.outcome("replayed")[1].startswith("floor: prior seq 1 <= 2")
    assert world.outcome("repeated") == ("committed", "")
    assert world.outcome("renumbered")[1].startswith("floor: prior seq 2 <= 2")


def test_two_layers_of_one_kind_are_refused(world: World, shop: Shop) -> None:
    """A set holds each kind once."""
    world.offer(shop.layers_job(shop.layer(PRIOR, seq=1), shop.layer(PRIOR, seq=2)))

    assert world.outcome("layers-1")[1].startswith("kind: ['prior', 'prior']")


def test_an_unsigned_factory_base_takes_no_layers(make_world, tmp_path, shop: Shop) -> None:
    """A plain local bundle has no layer keys; the refusal says which file is missing."""
    shop.bundle("plain", bias=1.0)
    world = make_world(tmp_path, factory="plain")

    world.offer(shop.layers_job(shop.layer(PRIOR)))

    assert world.outcome("layers-1")[1].startswith("unsigned: ")


@pytest.mark.parametrize("content", [b"", b"{}", b"garbage"])
def test_a_bad_statement_beside_the_factory_bundle_does_not_stop_the_device(
    make_world, tmp_path, shop: Shop, content: bytes
) -> None:
    """A damaged statement file costs layers, not the device."""
    shop.bundle("damaged", bias=1.0)
    signed_path(shop.folder / "damaged").write_bytes(content)

    world = make_world(tmp_path, factory="damaged")

    assert world.serving.bundle.spec.version == "damaged"
    world.offer(shop.layers_job(shop.layer(PRIOR)))
    assert world.outcome("layers-1")[1].startswith("unsigned: ")


def test_an_empty_job_is_refused(world: World, shop: Shop) -> None:
    """A job with neither base nor layers asks for nothing."""
    world.offer(shop.layers_job())

    assert world.outcome("layers-1")[1].startswith("payload: ")


def test_layers_for_a_base_that_does_not_run_yet_are_refused(world: World, shop: Shop) -> None:
    """The job's own ``requires`` is looked at before any signature."""
    layer = shop.layer(PRIOR, base=shop.new)

    world.offer(shop.layers_job(layer, requires=shop.new.digest))

    assert world.outcome("layers-1")[1].startswith(f"requires: base {shop.new.digest[:16]}")


def test_a_failed_activation_of_layers_keeps_the_old_set(world: World, shop: Shop) -> None:
    """When the pipeline says no, nothing is committed."""
    world.offer(shop.layers_job(shop.layer(PRIOR)))
    action = world.work.popleft()
    assert isinstance(action, ActivateLayers)

    world.do(world.agent.on_failed(action.effective_id, "no"))
    world.kill()

    assert world.outcome("layers-1") == ("refused", "activation: no")
    assert world.serving.layers == ()


# --- order, repeats, strangers -----------------------------------------------------------------


def test_jobs_for_others_are_left_alone(world: World, shop: Shop) -> None:
    """A job for another device or stream changes nothing and is not answered."""
    job = shop.base_job()

    world.offer(msgspec.structs.replace(job, device="pump-8"))
    world.offer(msgspec.structs.replace(job, stream="other"))

    assert not world.reports
    assert world.slots.record.candidate is None


def test_a_repeated_job_is_answered_and_done_once(world: World, shop: Shop) -> None:
    """Whenever the same job comes again, its present state is reported and nothing else."""
    job = shop.base_job()

    world.offer(job)
    world.offer(job)
    world.settle()
    world.offer(job)
    world.kill()
    world.offer(job)

    assert world.states("base-2")[:2] == ["fetching", "fetching"]
    assert world.states("base-2")[-3:] == ["committed"] * 3
    assert len(world.activated) == 1


def test_a_newer_base_replaces_one_that_is_being_fetched(world: World, shop: Shop) -> None:
    """The cloud may change its mind before anything was installed."""
    third = shop.bundle("3", bias=3.0)
    world.archives |= _archives(third)

    world.offer(shop.base_job())
    world.offer(shop.base_job(third, job="base-3", seq=3))
    world.settle()

    assert world.outcome("base-2") == ("refused", "superseded: by job base-3")
    assert world.outcome("base-3")[0] == "committed"
    assert world.serving.bundle.digest == third.digest


def test_offers_wait_for_an_activation_in_order(world: World, shop: Shop) -> None:
    """Layers that arrive while others go live are not lost, and only so many wait."""
    for seq in range(1, 12):
        world.offer(shop.layers_job(shop.layer(PRIOR, seq=seq), job=f"layers-{seq}"))

    world.settle()

    outcomes = [world.outcome(f"layers-{seq}")[0] for seq in range(1, 12)]
    assert outcomes == ["committed"] * 9 + ["refused"] * 2
    assert world.outcome("layers-11")[1].startswith("busy: ")
    assert world.serving.layers[0].seq == 9


def test_a_staged_base_waits_for_layers_that_are_going_live(world: World, shop: Shop) -> None:
    """Two activations never overlap."""
    world.offer(shop.base_job())
    while not world.work:
        world.step()
    world.offer(shop.layers_job(shop.layer(PRIOR)))
    admission = world.work.popleft()

    world.finish(admission)
    assert [type(action) for action in world.work] == [ActivateLayers]
    world.settle()

    assert world.outcome("layers-1")[0] == "committed"
    assert world.outcome("base-2")[0] == "committed"
    assert world.serving.layers == ()


def test_stale_answers_are_ignored(world: World, shop: Shop) -> None:
    """Answers to what was not asked change nothing."""
    assert world.agent.on_activated("0" * 16) == []
    assert world.agent.on_failed("0" * 16, "x") == []
    assert world.agent.on_admitted("0" * 64, ADMITTED) == []
    assert world.agent.on_chunk(BlobChunk("0" * 64, 0, 1, b"x")) == []
    assert world.agent.on_tick(10**15) == []


# --- crashes ------------------------------------------------------------------------------------


def test_a_base_that_fails_twice_is_rolled_back_and_quarantined(world: World, shop: Shop) -> None:
    """A base that the process cannot start is tried twice, then never again."""
    world.offer(shop.base_job())
    while not isinstance(world.work[0] if world.work else None, ActivateBase):
        world.step()
    for _ in range(2):
        action = world.work.popleft()
        assert isinstance(action, ActivateBase)
        world.do(world.agent.on_failed(action.effective_id, "it does not load"))

    assert world.outcome("base-2") == ("rolled_back", "activation: it does not load")
    world.kill()
    assert world.serving.bundle.digest == shop.factory.digest
    world.offer(shop.base_job(job="again", seq=3))
    assert world.outcome("again")[1].startswith("quarantine: ")


def test_a_base_that_kills_the_process_twice_is_rolled_back(world: World, shop: Shop) -> None:
    """A native crash at the start counts as an attempt, because it was counted before."""
    world.offer(shop.base_job())
    while not isinstance(world.work[0] if world.work else None, ActivateBase):
        world.step()

    world.kill()
    assert isinstance(world.work[0], ActivateBase)
    world.kill()

    assert world.outcome("base-2")[0] == "rolled_back"
    assert world.outcome("base-2")[1].startswith("crash: ")
    assert world.serving.bundle.digest == shop.factory.digest


def test_layers_that_kill_the_process_twice_are_dropped(world: World, shop: Shop) -> None:
    """The same holds for a layer set."""
    world.offer(shop.layers_job(shop.layer(PRIOR)))

    world.kill()
    assert isinstance(world.work[0], ActivateLayers)
    world.kill()

    assert world.outcome("layers-1")[1].startswith("crash: ")
    assert not world.work


def test_a_committed_base_that_stops_coming_up_gives_way(world: World, shop: Shop) -> None:
    """After two starts that never came up the base before it serves, with its layers."""
    world.offer(shop.layers_job(shop.layer(RESIDUAL)))
    world.settle()
    before = world.identity
    world.offer(shop.base_job())
    world.settle()

    for _ in range(2):
        world.store.close()
        store = StateStore(world.folder / "state.db", world.clock)
        slots = Slots(world.folder / "slots", STREAM, factory=world.factory, state=store)
        agent = UpdateAgent(
            slots,
            device=DEVICE,
            trust=world.trust,
            clock=world.clock,
            event_ns=lambda: None,
            prove=LayerProver(),
        )
        assert agent.boot().bundle.digest == shop.new.digest
        store.close()
    world.start()

    assert world.identity == before
    world.offer(shop.base_job(job="again", seq=3))
    assert world.outcome("again")[1].startswith("quarantine: boot: ")


@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_a_damaged_archive_gives_way_to_the_base_before(
    world: World, shop: Shop, damage: str
) -> None:
    """An archive that no longer has its hash never reaches a parser."""
    world.offer(shop.base_job())
    world.settle()
    path = world.slots.slot(shop.new.digest)
    content = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(content[:-100])
        case "altered":
            path.write_bytes(content[:500] + b"?" + content[501:])

    world.kill()

    assert world.serving.bundle.digest == shop.factory.digest


def test_layers_altered_on_disk_are_left_out(world: World, shop: Shop) -> None:
    """Layers are verified again at every start; without them the base alone answers."""
    world.offer(shop.layers_job(shop.layer(PRIOR)))
    world.settle()
    signed = world.slots.record.layers[0]
    forged = msgspec.structs.replace(signed, payload=signed.payload.replace(b"2.0", b"9.0"))
    world.slots.store(layers=(forged,))

    world.kill()

    assert world.serving.layers == ()
    assert world.serving.bundle.digest == shop.factory.digest


def test_another_factory_bundle_starts_anew_above_the_floors(world: World, shop: Shop) -> None:
    """A person may put another factory bundle in place; old updates still cannot come back."""
    world.offer(shop.base_job())
    world.settle()
    shop.bundle("hand", bias=9.0)
    world.factory = shop.folder / "hand"

    world.kill()

    assert world.serving.bundle.spec.version == "hand"
    world.offer(shop.base_job(shop.bundle("3", bias=3.0), job="late", seq=1))
    assert world.outcome("late")[1].startswith("floor: base seq 1 <= 2")


def test_a_kill_while_a_base_and_layers_are_on_their_way_resumes_both(
    world: World, shop: Shop
) -> None:
    """A base being fetched does not wait for anything after a restart, nor do layers."""
    world.offer(shop.base_job())
    world.step()
    world.offer(shop.layers_job(shop.layer(PRIOR)))

    world.kill()
    assert world.wire
    assert [type(action) for action in world.work] == [ActivateLayers]
    world.settle()

    assert world.outcome("layers-1")[0] == "committed"
    assert world.outcome("base-2")[0] == "committed"
    assert "largest_move" not in world.reports[-1].measured


def _whole_story(world: World, shop: Shop) -> None:
    """Offer layers, then a base with layers, as the cloud does until it has a report of each."""
    first = shop.layers_job(shop.layer(PRIOR))
    second = shop.base_job(layers=shop.layers_job(shop.layer(RESIDUAL, base=shop.new)).layers)
    for job in (first, second):
        world.offer(job)
        world.settle()


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
def test_a_power_cut_at_any_write_loses_nothing(
    make_world, tmp_path: Path, shop: Shop, is_after: bool
) -> None:
    """Whichever durable write the power is cut at, the next start ends where it would have."""
    whole = make_world(tmp_path / "whole")
    _whole_story(whole, shop)
    writes = whole.store.writes

    for cut in range(1, writes + 1):
        world = make_world(tmp_path / f"{is_after}-{cut}")
        world.store.cut_at, world.store.is_after = cut, is_after
        world.store.writes = 1
        try:
            _whole_story(world, shop)
        except PowerCutError:
            world.kill()
        _whole_story(world, shop)

        assert world.identity == whole.identity
        assert world.outcome("base-2")[0] == "committed"
        assert world.outcome("layers-1")[0] == "committed"
        world.store.close()

    assert writes >= 9


def test_a_kill_after_any_single_step_loses_nothing(make_world, tmp_path: Path, shop: Shop) -> None:
    """A kill between any two events resumes and commits, fetching little twice."""
    step = 0
    is_done = False
    while not is_done:
        world = make_world(tmp_path / str(step))
        world.offer(shop.base_job())
        is_done = not all(world.step() for _ in range(step))
        world.kill()
        world.settle()

        assert world.outcome("base-2")[0] == "committed"
        assert world.serving.bundle.digest == shop.new.digest
        fetched = sum(request.n for request in world.requests)
        assert fetched <= len(_statement(shop).chunks) + 8
        world.store.close()
        step += 1

    assert step > 10


def _statement(shop: Shop) -> Statement:
    job = shop.base_job()
    assert job.base is not None
    return msgspec.json.decode(job.base.payload, type=Statement)


FAULTS = st.sampled_from(
    [
        "step",
        "step",
        "step",
        "step",
        "drop",
        "repeat",
        "swap",
        "damage",
        "truncate",
        "foreign",
        "tick",
        "kill",
        "offer",
        "down",
        "up",
    ]
)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(faults=st.lists(FAULTS, max_size=60))
def test_any_faults_end_in_a_sound_state(make_world, shop: Shop, faults: list[str]) -> None:
    """Lost, repeated, reordered, damaged and foreign chunks, kills and cuts: never half a base."""
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder))
        world.offer(shop.base_job())
        for fault in faults:
            _inject(world, shop, fault)
            active = world.slots.record.active
            assert world.serving.bundle.digest in {active, shop.new.digest}
            assert active in {shop.factory.digest, shop.new.digest}
        world.do(world.agent.on_link(is_up=True))
        world.settle()

        state, reason = world.outcome("base-2")
        assert state in {"committed", "refused", "rolled_back"}
        has_committed = state == "committed"
        assert has_committed == (world.slots.record.active == shop.new.digest)
        if state == "refused":
            assert reason.startswith(("digest: chunk", "fetch: "))
        before = world.slots.record.active
        world.kill()
        assert world.serving.bundle.digest == before
        world.store.close()


def _inject(world: World, shop: Shop, fault: str) -> None:
    wire = world.wire
    match fault:
        case "step":
            world.step()
        case "drop" if wire:
            wire.popleft()
        case "repeat" if wire:
            wire.append(wire[0])
        case "swap":
            wire.rotate(1)
        case "damage" if wire:
            chunk = wire.popleft()
            wire.append(msgspec.structs.replace(chunk, data=b"?" + chunk.data[1:]))
        case "truncate" if wire:
            chunk = wire.popleft()
            wire.append(msgspec.structs.replace(chunk, data=chunk.data[:-1]))
        case "foreign":
            wire.append(BlobChunk("f" * 64, 0, 4, b"x" * 128))
            wire.append(BlobChunk(_statement(shop).archive_sha256, 10_000, 4, b"x"))
        case "tick":
            world.clock.advance(TIMEOUT_S)
            world.do(world.agent.on_tick(world.clock.monotonic_ns()))
        case "kill":
            world.kill()
        case "offer":
            world.offer(shop.base_job())
        case "down" | "up":
            world.do(world.agent.on_link(is_up=fault == "up"))


def test_a_layer_proof_that_fails_is_a_refusal(make_world, tmp_path, shop: Shop) -> None:
    """Whatever the golden replay raises ends the job and nothing else."""
    world = make_world(tmp_path)

    def fail(bundle: Bundle, layers: tuple[Layer, ...]) -> dict[str, float]:
        raise EdgeError("golden: an answer is not finite")

    world.agent._prove = fail
    world.offer(shop.layers_job(shop.layer(PRIOR)))

    assert world.outcome("layers-1") == ("refused", "golden: an answer is not finite")
