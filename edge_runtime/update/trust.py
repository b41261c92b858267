"""Who may change what: the only place that verifies signatures and clamps.

Two kinds of keys. A *release key* signs the `Statement` of a base: hash of the
archive, hashes of its chunks, and the keys that may sign layers for it. A
*layer key*, named by that statement, signs layers, and the base's clamps bound
what they can do: it never brings code or weights.

Every refusal is a `TrustError` whose text begins with one word that programs
may rely on: ``key``, ``signature``, ``payload``, ``size``, ``requires``,
``kind``, ``number``, ``shape``, ``clamp`` or ``age``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from edge_runtime.errors import ConfigError, MissingExtra, TrustError
from edge_runtime.pipeline.features import shape_of
from edge_runtime.spec import (
    CalibrationLayer,
    Clamps,
    FusionLayer,
    Layer,
    LayerBody,
    Limit,
    ModelSpec,
    NormaliserLayer,
    PriorLayer,
    ResidualLayer,
)
from edge_runtime.sync.messages import Signed
from edge_runtime.types import check_name

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = [
    "CHUNK_BYTES",
    "MAX_ARCHIVE_BYTES",
    "MAX_SIGNED_BYTES",
    "Statement",
    "Trust",
    "check_layer",
    "key_id",
    "public_key_of",
]

CHUNK_BYTES = 64 * 1024
"""Size of every chunk of an archive but the last."""
MAX_ARCHIVE_BYTES = 128 * 1024 * 1024
"""Largest base archive a device takes."""
MAX_SIGNED_BYTES = 96 * 1024
"""Largest signed payload; both kinds travel in one message."""

_LARGEST = 1e12
_FUTURE_S = 86400.0

_Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_T = TypeVar("_T")


class Statement(msgspec.Struct, frozen=True):
    """What a release key says about one base bundle.

    Attributes:
        name: Model line.
        version: For people.
        digest: Identity of the bundle, hex.
        archive_sha256: Hash of the archive's bytes, hex.
        archive_bytes: Size of the archive.
        chunk_bytes: Size of every chunk but the last.
        chunks: SHA-256 of each chunk, hex.
        layer_keys: Public keys that may sign layers for this base, hex.
        seq: Counts up per model line; a device never goes back.
        type: Always ``base``, so that no other signed thing passes for one.
    """

    name: str
    version: Annotated[str, Meta(max_length=64)]
    digest: _Hash
    archive_sha256: _Hash
    archive_bytes: Annotated[int, Meta(ge=1, le=MAX_ARCHIVE_BYTES)]
    chunk_bytes: Annotated[int, Meta(ge=1, le=CHUNK_BYTES)]
    chunks: tuple[_Hash, ...]
    layer_keys: Annotated[tuple[_Hash, ...], Meta(max_length=16)]
    seq: Annotated[int, Meta(ge=1, le=2**53)]
    type: Literal["base"] = "base"

    def __post_init__(self) -> None:
        check_name(self.name, "model name")
        needed = -(-self.archive_bytes // self.chunk_bytes)
        if len(self.chunks) != needed:
            raise TrustError(
                f"payload: {len(self.chunks)} chunks for {self.archive_bytes} bytes",
                where=f"statement of {self.name}@{self.version}",
                expected=f"{needed} chunks of {self.chunk_bytes} bytes",
            )

    def encode(self) -> bytes:
        """Return the canonical JSON encoding: the bytes that are signed."""
        return msgspec.json.encode(self, order="deterministic")

    def span(self, index: int) -> tuple[int, int]:
        """Return first byte and length of chunk ``index``."""
        first = index * self.chunk_bytes
        return first, min(self.chunk_bytes, self.archive_bytes - first)


class Trust:
    """Decides by signature alone; holds no state and no clock.

    Args:
        release_keys: Raw Ed25519 public keys, 32 bytes each.

    Raises:
        MissingExtra: ``cryptography`` is not installed.
        TrustError: A key has another length.
    """

    def __init__(self, release_keys: Sequence[bytes]) -> None:
        self._release = {key_id(key): _load(key) for key in release_keys}

    def verify_base(self, signed: Signed) -> Statement:
        """Return the statement if a release key signed it.

        Raises:
            TrustError: Wrong key, signature or payload.
        """
        _verify(signed, self._release, "statement")
        return _read(signed.payload, Statement, "statement")

    def verify_layer(self, signed: Signed, statement: Statement) -> Layer:
        """Return the layer if a key named by ``statement`` signed it.

        Its numbers are not judged here; see `check_layer`.

        Raises:
            TrustError: Wrong key, signature or payload.
        """
        keys = [bytes.fromhex(key) for key in statement.layer_keys]
        _verify(signed, {key_id(key): _load(key) for key in keys}, "layer")
        return _read(signed.payload, Layer, "layer")


def key_id(public: bytes) -> str:
    """Return the short name of a public key: 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def public_key_of(path: Path) -> bytes:
    """Read a public key file: PEM, or 64 hex digits.

    Returns:
        The raw 32 bytes.

    Raises:
        ConfigError: The file is missing or holds no Ed25519 public key.
        MissingExtra: ``cryptography`` is not installed.
    """
    try:
        text = path.read_bytes()[:4096].strip()
    except OSError as error:
        raise _not_a_key(path, error.strerror or str(error)) from error
    try:
        return bytes.fromhex(text.decode("ascii")) if len(text) == 64 else _from_pem(text)
    except (ValueError, TypeError) as error:
        raise _not_a_key(path, "is no Ed25519 public key") from error


def check_layer(layer: Layer, spec: ModelSpec, base_digest: str, now_ns: int | None) -> None:
    """Let a layer pass only if it fits the base and keeps every clamp.

    Args:
        layer: Verified layer.
        spec: Spec of the base it would refine.
        base_digest: Digest of that base.
        now_ns: Event time of the stream now, which ages count against; None
            leaves age to the pipeline, which judges it window by window.

    Raises:
        TrustError: It does not fit; the text names the rule and the values.
    """
    where = f"layer {layer.kind}#{layer.seq}"
    try:
        for check in (_check_base, _check_numbers, _check_shape):
            check(layer, spec, base_digest)
        for clamp, value, low, high in _bounds(layer.body, spec):
            _check_bound(clamp, value, low, high)
        if now_ns is not None:
            _check_age(layer, spec.clamps, now_ns)
    except TrustError as error:
        raise TrustError(
            error.what,
            where=where,
            expected=error.expected,
            remedy=error.remedy or f"Recompute the layer within the clamps of {spec.name}.",
        ) from error


# --- signatures -----------------------------------------------------------------


def _verify(signed: Signed, keys: Mapping[str, Ed25519PublicKey], what: str) -> None:
    from cryptography.exceptions import InvalidSignature

    if len(signed.payload) > MAX_SIGNED_BYTES:
        raise TrustError(
            f"size: {len(signed.payload)} bytes",
            where=what,
            expected=f"at most {MAX_SIGNED_BYTES}",
            remedy="Sign something smaller; larger things travel as chunks.",
        )
    key = keys.get(signed.key)
    if key is None:
        raise TrustError(
            f"key: {signed.key!r} may not sign this",
            where=what,
            expected=f"one of {sorted(keys)}",
            remedy="Sign with a key that the device or the base's statement names.",
        )
    try:
        key.verify(signed.signature, signed.payload)
    except InvalidSignature as error:
        raise TrustError(
            f"signature: it does not match the payload and key {signed.key}",
            where=what,
            expected="an Ed25519 signature over exactly these bytes",
            remedy="It was altered on the way, or signed over other bytes; sign it again.",
        ) from error


def _read(payload: bytes, kind: type[_T], what: str) -> _T:
    """Decode a signed payload; white space and repeated fields would hide things in it."""
    try:
        value = msgspec.json.decode(payload, type=kind)
        is_canonical = payload == msgspec.json.encode(msgspec.json.decode(payload))
    except (ValueError, RecursionError) as error:
        raise _bad_payload(what, f"it does not decode: {error}") from error
    if not is_canonical:
        raise _bad_payload(what, "it is not in canonical form")
    return value


def _bad_payload(what: str, reason: str) -> TrustError:
    return TrustError(
        f"payload: {reason}",
        where=what,
        expected=f"the canonical JSON of a {what}",
        remedy=f"Sign the bytes that the {what}'s encode() returns.",
    )


def _load(public: bytes) -> Ed25519PublicKey:
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingExtra.of("verifying updates", "cryptography", "secure") from error
    try:
        return Ed25519PublicKey.from_public_bytes(public)
    except ValueError as error:
        raise TrustError(
            f"key: {len(public)} bytes", where="public key", expected="32 bytes of Ed25519"
        ) from error


def _from_pem(text: bytes) -> bytes:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingExtra.of("reading a public key", "cryptography", "secure") from error
    key = serialization.load_pem_public_key(text)
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError(type(key).__name__)
    return key.public_bytes_raw()


def _not_a_key(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"public key file: {what}",
        where=str(path),
        expected="an Ed25519 public key, as PEM or as 64 hex digits",
        remedy="Point trust.release_keys at the public half of a release key.",
    )


# --- clamps -----------------------------------------------------------------------


def _check_base(layer: Layer, spec: ModelSpec, base_digest: str) -> None:
    if layer.requires != base_digest:
        raise TrustError(
            f"requires: base {layer.requires[:16]}",
            expected=f"base {base_digest[:16]}, which is running",
            remedy="Compute the layer for the running base.",
        )
    if layer.kind not in spec.clamps.kinds:
        raise TrustError(
            f"kind: {layer.kind} is not allowed", expected=f"one of {list(spec.clamps.kinds)}"
        )


def _check_numbers(layer: Layer, _spec: ModelSpec, _base: str) -> None:
    # Sums and products of numbers up to 1e12 stay finite in float64.
    for value in _numbers(msgspec.to_builtins(layer.body)):
        if not abs(value) <= _LARGEST:
            raise TrustError(f"number: {value!r}", expected=f"finite and at most {_LARGEST:g}")
    half_life_s = layer.half_life_s
    if half_life_s is not None and not 0 < half_life_s <= _LARGEST:
        raise TrustError(
            f"number: half_life_s {half_life_s!r}", expected="a positive number of seconds"
        )


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float):
        yield value


def _check_shape(layer: Layer, spec: ModelSpec, _base: str) -> None:
    match layer.body:
        case NormaliserLayer(mean=mean, std=std):
            base = spec.normalise
            _check_length("means", len(mean), len(base.mean) if base else 0)
            _check_length("stds", len(std), len(base.std) if base else 0)
        case ResidualLayer(weights=weights):
            _check_length("weights", len(weights), _feature_count(spec))
        case PriorLayer(value=value, base=before):
            _check_length("values", len(value), len(spec.labels))
            _check_length("bases", len(before), len(spec.labels))
        case CalibrationLayer() | FusionLayer():
            pass
        case thresholds:
            _check_labels([limit.label for limit in thresholds.limits], spec)
            _check_kept(thresholds.limits, spec)


def _check_length(what: str, is_: int, wanted: int) -> None:
    if is_ != wanted:
        raise TrustError(f"shape: {is_} {what}", expected=f"{wanted}, as the base has")


def _check_labels(labels: Sequence[str], spec: ModelSpec) -> None:
    known = [limit.label for limit in spec.limits]
    if len(set(labels)) != len(labels) or not set(labels) <= set(known):
        raise TrustError(
            f"shape: thresholds for {list(labels)}", expected=f"labels among {known}, each once"
        )


def _check_kept(limits: Sequence[Limit], spec: ModelSpec) -> None:
    """Let a layer move thresholds that the base has, and nothing else of a limit."""
    base = {limit.label: limit for limit in spec.limits}
    for limit in limits:
        is_kept = msgspec.structs.replace(limit, reject=None) == Limit(
            limit.label, limit.on, limit.off
        )
        if not is_kept or (limit.reject is not None and base[limit.label].reject is None):
            raise TrustError(
                f"shape: thresholds for {limit.label!r} set more than the base's",
                expected="on and off, and reject where the base has one",
            )


def _feature_count(spec: ModelSpec) -> int:
    window = (spec.window.length, len(spec.stream.channels))
    return math.prod(shape_of(spec.features, window))


_Bound = tuple[str, float, float, float]


def _bounds(body: LayerBody, spec: ModelSpec) -> Iterator[_Bound]:
    """Yield clamp, value, lowest and highest for everything the body sets."""
    clamps = spec.clamps
    match body:
        case NormaliserLayer():
            yield from _normaliser_bounds(body, spec)
        case CalibrationLayer(scale=scale, offset=offset):
            ratio = clamps.calibration_scale
            yield "calibration_scale", scale, 1 / ratio, ratio
            yield _symmetric("calibration_offset", offset, clamps.calibration_offset)
        case ResidualLayer(intercept=intercept, weights=weights):
            for number in (intercept, *weights):
                yield _symmetric("residual_weight", number, clamps.residual_weight)
        case FusionLayer(w0=w0, w1=w1, w2=w2):
            for number in (w0, w1, w2):
                yield _symmetric("fusion_weight", number, clamps.fusion_weight)
        case PriorLayer():
            # The pipeline cuts what the prior adds to clamps.prior, whatever it says.
            return
        case thresholds:
            base = {limit.label: limit for limit in spec.limits}
            for limit in thresholds.limits:
                before = base[limit.label]
                yield _symmetric("threshold", limit.on - before.on, clamps.threshold)
                yield _symmetric("threshold", limit.off - before.off, clamps.threshold)
                if limit.reject is not None and before.reject is not None:
                    for edge in ("low", "high"):
                        change = getattr(limit.reject, edge) - getattr(before.reject, edge)
                        yield _symmetric("threshold", change, clamps.threshold)


def _normaliser_bounds(body: NormaliserLayer, spec: ModelSpec) -> Iterator[_Bound]:
    assert spec.normalise is not None  # noqa: S101 - the shape check has refused the rest
    clamps, base = spec.clamps, spec.normalise
    ratio = clamps.normaliser_ratio
    for mean, std, mean_before, std_before in zip(
        body.mean, body.std, base.mean, base.std, strict=True
    ):
        shift = (mean - mean_before) / std_before
        yield _symmetric("normaliser_shift", shift, clamps.normaliser_shift)
        yield "normaliser_ratio", std / std_before, 1 / ratio, ratio


def _symmetric(clamp: str, value: float, bound: float) -> _Bound:
    return clamp, value, -bound, bound


def _check_bound(clamp: str, value: float, low: float, high: float) -> None:
    if low <= value <= high:
        return
    sign, bound = ("<", low) if value < low else (">", high)
    raise TrustError(f"clamp: {clamp} {value:g} {sign} {bound:g}", expected="values within clamps")


def _check_age(layer: Layer, clamps: Clamps, now_ns: int) -> None:
    age_s = (now_ns - layer.made_ns) / 1e9
    if age_s > clamps.age_s:
        raise TrustError(f"clamp: age_s {age_s:g} > {clamps.age_s:g}", expected="a fresher layer")
    if age_s < -_FUTURE_S:
        raise TrustError(
            f"age: made {-age_s:g} s ahead of this stream",
            expected=f"at most {_FUTURE_S:g} s ahead",
            remedy="Set the device's clock, or compute the layer from rows it has sent.",
        )
    if layer.expires_ns is not None and layer.expires_ns <= now_ns:
        raise TrustError(
            f"age: expired {(now_ns - layer.expires_ns) / 1e9:g} s ago",
            expected="a layer that has not expired",
        )
