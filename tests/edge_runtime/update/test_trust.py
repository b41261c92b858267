"""Signatures, statements and clamps: what passes and what is refused, with which words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError, TrustError
from edge_runtime.spec import (
    CalibrationLayer,
    FusionLayer,
    Layer,
    LayerBody,
    Limit,
    ModelSpec,
    NormaliserLayer,
    PriorLayer,
    Reject,
    ResidualLayer,
    ThresholdsLayer,
)
from edge_runtime.sync.messages import Signed
from edge_runtime.update.trust import Statement, Trust, check_layer, key_id, public_key_of

BASE = "b" * 64
NOW_NS = 1_700_000_000_000_000_000
HOUR_NS = 3600 * 10**9
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="session")
def statement(layer_key) -> Statement:
    return Statement(
        name="turbine",
        version="2",
        digest=BASE,
        archive_sha256="a" * 64,
        archive_bytes=100_000,
        chunk_bytes=65536,
        chunks=("c" * 64, "d" * 64),
        layer_keys=(layer_key.public.hex(),),
        seq=2,
    )


@pytest.fixture(scope="session")
def trust(release_key) -> Trust:
    return Trust([release_key.public])


@pytest.fixture(scope="session")
def spec(make_spec: Callable[..., ModelSpec]) -> ModelSpec:
    return make_spec()


def layer_of(body: LayerBody, **changes: object) -> Layer:
    fields: dict[str, object] = {"requires": BASE, "seq": 1, "made_ns": NOW_NS - HOUR_NS}
    return Layer(body, **(fields | changes))  # type: ignore[arg-type]


GOOD = [
    NormaliserLayer(mean=(2.0, 0.0), std=(1.0, 8.0)),
    CalibrationLayer(scale=1.5, offset=-3.0),
    ResidualLayer(intercept=50.0, weights=(-50.0, 0.0)),
    FusionLayer(w0=-2.0, w1=2.0, w2=0.5),
    PriorLayer(value=(4000.0,), base=(-4000.0,)),
    ThresholdsLayer(limits=(Limit("nox", on=74.0, off=61.0),)),
]

BAD = [
    (NormaliserLayer((2.1, -2.0), (2.0, 4.0)), "clamp: normaliser_shift 0.55 > 0.5"),
    (NormaliserLayer((1.0, -2.0), (2.0, 0.4)), "clamp: normaliser_ratio 0.1 < 0.5"),
    (NormaliserLayer((1.0, -2.0), (5.0, 4.0)), "clamp: normaliser_ratio 2.5 > 2"),
    (NormaliserLayer((1.0, -2.0), (0.0, 4.0)), "clamp: normaliser_ratio 0 < 0.5"),
    (NormaliserLayer((1.0,), (2.0,)), "shape: 1 means"),
    (NormaliserLayer((1.0, -2.0), (2.0,)), "shape: 1 stds"),
    (CalibrationLayer(1.6, 0.0), "clamp: calibration_scale 1.6 > 1.5"),
    (CalibrationLayer(-1.0, 0.0), "clamp: calibration_scale -1 < 0.666667"),
    (CalibrationLayer(1.0, -3.5), "clamp: calibration_offset -3.5 < -3"),
    (ResidualLayer(0.0, (500.0, 0.0)), "clamp: residual_weight 500 > 50"),
    (ResidualLayer(-51.0, (0.0, 0.0)), "clamp: residual_weight -51 < -50"),
    (ResidualLayer(0.0, (1.0,) * 3), "shape: 3 weights"),
    (FusionLayer(0.0, 2.5, 0.0), "clamp: fusion_weight 2.5 > 2"),
    (PriorLayer((1.0, 2.0), (0.0,)), "shape: 2 values"),
    (PriorLayer((1.0,), ()), "shape: 0 bases"),
    (PriorLayer((1e300,), (-1e300,)), r"number: 1e\+300"),
    (ThresholdsLayer((Limit("nox", on=75.0, off=65.0),)), "clamp: threshold 5 > 4"),
    (ThresholdsLayer((Limit("co", on=1.0, off=0.0),)), r"shape: thresholds for \['co'\]"),
    (ThresholdsLayer((Limit("nox", 70.0, 65.0),) * 2), "shape: thresholds"),
    (ThresholdsLayer((Limit("nox", 70.0, 65.0, k_of_n=(9, 9)),)), "shape: .* more than the base"),
    (ThresholdsLayer((Limit("nox", 70.0, 65.0, refractory_s=9.0),)), "shape: .* more than the"),
    (ThresholdsLayer((Limit("nox", 70.0, 65.0, reject=Reject(0, 99)),)), "shape: .* more than"),
    (CalibrationLayer(NAN, 0.0), "number: nan"),
    (ResidualLayer(0.0, (INF, 0.0)), "number: inf"),
    (FusionLayer(0.0, 1.0, -INF), "number: -inf"),
]


@pytest.mark.parametrize(
    ("reject", "refusal"),
    [
        (Reject(61.0, 74.0), ""),
        (Reject(60.0, 74.0), "clamp: threshold -5 < -4"),
        (Reject(65.0, 75.0), "clamp: threshold 5 > 4"),
    ],
)
def test_a_reject_band_moves_within_the_clamp(
    make_spec: Callable[..., ModelSpec], reject: Reject, refusal: str
) -> None:
    """A stolen key cannot declare everything uncertain."""
    spec = make_spec(limits=(Limit("nox", 70.0, 65.0, reject=Reject(65.0, 70.0)),))
    layer = layer_of(ThresholdsLayer((Limit("nox", 70.0, 65.0, reject=reject),)))

    expected = pytest.raises(TrustError, match=refusal) if refusal else nullcontext()

    with expected:
        check_layer(layer, spec, BASE, NOW_NS)


def test_a_release_key_vouches_for_a_base(trust, release_key, statement) -> None:
    """A statement signed by a release key comes back as it was written."""
    signed = release_key.sign(statement.encode())

    assert trust.verify_base(signed) == statement


def test_a_named_layer_key_vouches_for_a_layer(trust, layer_key, statement) -> None:
    """A layer signed by a key of the base's statement comes back as it was written."""
    layer = layer_of(CalibrationLayer(1.0, 0.5))

    assert trust.verify_layer(layer_key.sign(layer.encode()), statement) == layer


def test_unknown_fields_of_a_newer_cloud_are_left_out(trust, release_key, statement) -> None:
    """A statement with a field this version does not know still counts."""
    newer = msgspec.json.decode(statement.encode()) | {"notes": "x"}
    payload = msgspec.json.encode(newer, order="deterministic")

    assert trust.verify_base(release_key.sign(payload)) == statement


@pytest.mark.parametrize("who", ["layer_key", "stranger"])
def test_no_other_key_vouches_for_a_base(trust, statement, who, request) -> None:
    """Layer keys and strangers cannot bring a base."""
    signed = request.getfixturevalue(who).sign(statement.encode())

    with pytest.raises(TrustError, match=r"^statement: key: "):
        trust.verify_base(signed)


@pytest.mark.parametrize("who", ["release_key", "stranger"])
def test_no_other_key_vouches_for_a_layer(trust, statement, who, request) -> None:
    """Only the keys that the base names may sign its layers."""
    signed = request.getfixturevalue(who).sign(layer_of(CalibrationLayer(1.0, 0.0)).encode())

    with pytest.raises(TrustError, match=r"^layer: key: "):
        trust.verify_layer(signed, statement)


def test_a_stolen_key_name_does_not_help(trust, release_key, stranger, statement) -> None:
    """A stranger's signature under a release key's name is refused."""
    signed = stranger.sign(statement.encode())
    forged = msgspec.structs.replace(signed, key=key_id(release_key.public))

    with pytest.raises(TrustError, match=r"^statement: signature: ") as caught:
        trust.verify_base(forged)
    assert caught.value.expected
    assert caught.value.remedy


@settings(max_examples=60)
@given(position=st.integers(0, 10_000), bit=st.integers(0, 7), in_signature=st.booleans())
def test_any_flipped_bit_is_refused(
    trust, release_key, statement, position: int, bit: int, in_signature: bool
) -> None:
    """A signed thing is whole or refused, wherever it was touched."""
    signed = release_key.sign(statement.encode())
    field = "signature" if in_signature else "payload"
    damaged = bytearray(getattr(signed, field))
    damaged[position % len(damaged)] ^= 1 << bit

    with pytest.raises(TrustError):
        trust.verify_base(msgspec.structs.replace(signed, **{field: bytes(damaged)}))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"[" * 50_000,
        b'{"type":"layer"}',
        b'{"a":1e999}',
    ],
)
def test_signed_garbage_is_refused(trust, release_key, payload: bytes) -> None:
    """Even a right signature does not make garbage a statement."""
    with pytest.raises(TrustError, match="payload: "):
        trust.verify_base(release_key.sign(payload))


def test_loose_encodings_are_refused(trust, release_key, statement) -> None:
    """White space, repeated fields and other spellings of a number are refused."""
    payload = statement.encode()
    loose = [
        payload + b" ",
        payload.replace(b'"seq":2', b'"seq": 2'),
        payload.replace(b'"seq":2', b'"seq":1,"seq":2'),
        payload.replace(b'"seq":2', b'"seq":2e0'),
    ]

    for variant in loose:
        with pytest.raises(TrustError, match="canonical"):
            trust.verify_base(release_key.sign(variant))


def test_oversized_payloads_are_not_even_verified(trust, release_key) -> None:
    """A payload over the limit is refused by its size."""
    signed = Signed(b"x" * (96 * 1024 + 1), key_id(release_key.public), b"")

    with pytest.raises(TrustError, match="size: 98305 bytes"):
        trust.verify_base(signed)


def test_a_layer_is_no_statement_and_the_other_way_round(
    trust, release_key, layer_key, statement
) -> None:
    """One kind of signed thing never passes for the other."""
    layer = layer_of(CalibrationLayer(1.0, 0.0))

    with pytest.raises(TrustError, match="payload"):
        trust.verify_base(release_key.sign(layer.encode()))
    with pytest.raises(TrustError, match="payload"):
        trust.verify_layer(layer_key.sign(statement.encode()), statement)


@pytest.mark.parametrize(
    "change",
    [
        {"archive_bytes": 0},
        {"archive_bytes": 2**40},
        {"chunk_bytes": 0},
        {"chunk_bytes": 2**20},
        {"chunks": ["c" * 64]},
        {"chunks": ["c" * 64, "short"]},
        {"digest": "../../etc"},
        {"name": "../up"},
        {"seq": 0},
        {"seq": 2**60},
        {"layer_keys": ["zz"]},
        {"type": "layer"},
    ],
)
def test_statements_are_bounded(trust, release_key, statement, change) -> None:
    """A signed statement with impossible sizes, names or hashes is refused."""
    odd = msgspec.json.decode(statement.encode()) | change
    signed = release_key.sign(msgspec.json.encode(odd, order="deterministic"))

    with pytest.raises(TrustError, match="payload: "):
        trust.verify_base(signed)


@pytest.mark.parametrize("body", GOOD, ids=lambda body: type(body).__name__)
def test_layers_at_the_edge_of_every_clamp_pass(spec, body: LayerBody) -> None:
    """A layer may use a clamp to its very bound."""
    check_layer(layer_of(body), spec, BASE, NOW_NS)


@pytest.mark.parametrize(("body", "text"), BAD, ids=lambda value: str(value)[:40])
def test_layers_beyond_a_clamp_are_refused_by_name_and_value(
    spec, body: LayerBody, text: str
) -> None:
    """The refusal names the clamp, the value and the bound, and says what to do."""
    with pytest.raises(TrustError, match=text) as caught:
        check_layer(layer_of(body), spec, BASE, NOW_NS)
    assert caught.value.where == f"layer {layer_of(body).kind}#1"
    assert caught.value.expected
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"requires": "c" * 64}, "requires: base cccc"),
        ({"made_ns": NOW_NS - 8 * 24 * HOUR_NS}, "clamp: age_s 691200 > 604800"),
        ({"made_ns": NOW_NS + 25 * HOUR_NS}, "age: made 90000 s ahead"),
        ({"expires_ns": NOW_NS}, "age: expired 0 s ago"),
        ({"half_life_s": NAN}, "number: half_life_s nan"),
        ({"half_life_s": 0.0}, "number: half_life_s 0"),
    ],
)
def test_layers_for_another_base_or_time_are_refused(spec, changes, text: str) -> None:
    """Base, age, expiry and half-life are judged too."""
    with pytest.raises(TrustError, match=text):
        check_layer(layer_of(CalibrationLayer(1.0, 0.0), **changes), spec, BASE, NOW_NS)


def test_without_a_time_age_is_left_to_the_pipeline(spec) -> None:
    """At a restart no event time is known yet; an old layer then passes this check."""
    old = layer_of(CalibrationLayer(1.0, 0.0), made_ns=0)

    check_layer(old, spec, BASE, None)


def test_kinds_a_base_does_not_list_are_refused(make_spec) -> None:
    """A base without clamps takes no layer at all."""
    spec = make_spec(clamps=msgspec.structs.replace(make_spec().clamps, kinds=("prior",)))

    with pytest.raises(TrustError, match="kind: calibration is not allowed"):
        check_layer(layer_of(CalibrationLayer(1.0, 0.0)), spec, BASE, NOW_NS)


def test_a_normaliser_needs_one_in_the_base(make_spec) -> None:
    """A base that does not normalise cannot be given a normaliser."""
    with pytest.raises(TrustError, match="shape: 2 means"):
        check_layer(layer_of(GOOD[0]), make_spec(normalise=None), BASE, NOW_NS)


def test_public_keys_are_read_from_pem_and_hex(tmp_path: Path, release_key) -> None:
    """Both forms of a public key file give the same 32 bytes."""
    key = Ed25519PublicKey.from_public_bytes(release_key.public)
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "pem").write_bytes(pem)
    (tmp_path / "hex").write_text(release_key.public.hex() + "\n")

    assert public_key_of(tmp_path / "pem") == release_key.public
    assert public_key_of(tmp_path / "hex") == release_key.public


def test_other_key_files_are_refused_with_the_path(tmp_path: Path) -> None:
    """A missing file, garbage, and another kind of key each name the file and the remedy."""
    other = generate_private_key(SECP256R1()).public_key()
    pem = other.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for name, content in [("ec", pem), ("empty", b""), ("odd", b"z" * 64), ("utf", b"\xff" * 64)]:
        (tmp_path / name).write_bytes(content)

    for name in ("ec", "empty", "odd", "utf", "missing"):
        with pytest.raises(ConfigError, match=r"public key") as caught:
            public_key_of(tmp_path / name)
        assert caught.value.where.endswith(name)


def test_a_short_release_key_is_refused() -> None:
    """A raw key of another length never becomes a key."""
    with pytest.raises(TrustError, match="key: 3 bytes"):
        Trust([b"abc"])


def test_cryptography_is_imported_only_when_verifying() -> None:
    """Importing the module costs nothing; without the package the remedy is an install line."""
    script = (
        "import sys\n"
        "import edge_runtime.update.trust as t\n"
        "assert 'cryptography' not in sys.modules\n"
        "sys.modules['cryptography'] = None\n"
        "try: t.Trust([bytes(32)])\n"
        "except ImportError as e: print(e)\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert 'pip install "edge-runtime[secure]"' in result.stdout
