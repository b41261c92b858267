"""The whole loop in one process: a device, a cloud, and a broker that can be cut."""

from __future__ import annotations

import msgspec

from edge_cloud.signing import SigningKey, sign_base, sign_layer
from edge_runtime.bundle import load_bundle
from edge_runtime.spec import Layer, ResidualLayer

from .conftest import DAY, DEVICE, FIRST_ROW, TURBINE, Loop, hour_ns  # isort: skip


def test_layers_come_back_and_a_cut_link_loses_nothing(loop: Loop) -> None:
    """Labelled rows come back as live layers, and rows made while cut off arrive once each."""
    loop.start_device()
    loop.release_days(6)
    loop.wait_for("a layer", lambda: bool(loop.named("layers.activated")))

    loop.broker.cut(DEVICE)
    loop.release_days(20)
    last = FIRST_ROW + 20 * DAY
    loop.wait_for(
        "deciding offline",
        lambda: any(facts["position"] == last for facts in loop.named("rows.committed")),
    )
    stored_while_cut = len(loop.stored_rows())
    loop.broker.mend(DEVICE)
    loop.wait_for("an empty outbox", lambda: loop.device.status().backlog_rows == 0)

    assert stored_while_cut < 20 * DAY
    assert sorted(loop.stored_rows()) == list(range(FIRST_ROW, last))


def test_a_new_base_goes_live_without_losing_a_window(loop: Loop) -> None:
    """A published base is fetched, admitted and swapped in, and every row has one estimate."""
    loop.start_device()
    loop.release_days(5)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 5 * DAY)

    digest = loop.publish("turbine-nox-2.0.0", seq=2)
    loop.release_days(6)
    loop.wait_for("the new base", lambda: bool(loop.named("base.activated")))
    loop.release_days(7)
    loop.wait_for("all rows stored", lambda: len(loop.stored_rows()) >= 7 * DAY)

    assert loop.named("base.activated")[0]["base"] == digest
    assert loop.stored_rows() == list(range(FIRST_ROW, FIRST_ROW + 7 * DAY))
    loop.stop_device()
    loop.start_device()
    loop.wait_for("the restart", lambda: loop.device.status().streams["turbine"].base == digest)


def test_a_layer_beyond_its_clamps_is_refused_and_the_old_keeps_serving(loop: Loop) -> None:
    """A stolen layer key cannot move an answer further than the base allows."""
    loop.start_device()
    loop.release_days(6)
    loop.wait_for("a layer", lambda: bool(loop.named("layers.activated")))
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 6 * DAY)
    before = loop.device.status().streams["turbine"].effective_id
    digest = load_bundle(loop.base).digest
    body = ResidualLayer(intercept=5000.0, weights=(0.0,) * 9)
    layer = Layer(body, requires=digest, seq=10**6, made_ns=hour_ns(FIRST_ROW + 6 * DAY))

    loop.cloud.jobs.offer(
        device=DEVICE,
        stream="turbine",
        model="turbine-nox",
        layers=(sign_layer(loop.layer_key, layer),),
        requires=digest,
    )
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert "clamp: residual" in str(loop.named("update.refused")[0]["reason"])
    assert loop.device.status().streams["turbine"].effective_id == before


def test_a_tampered_base_is_refused_and_the_old_keeps_serving(loop: Loop) -> None:
    """An archive that is not what was signed never gets past its first wrong chunk."""
    loop.start_device()
    loop.release_days(3)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 3 * DAY)
    bundle = load_bundle(TURBINE / "bundles/turbine-nox-2.0.0")
    signed = sign_base(loop.release_key, bundle, [loop.layer_key.public], 2)
    loop.cloud.registry.add(bundle, signed)
    archive = loop.cloud.registry.archive(bundle.digest)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.chmod(0o644)
    archive.write_bytes(content)
    before = loop.device.status().streams["turbine"].base

    loop.cloud.jobs.offer(
        device=DEVICE,
        stream="turbine",
        model="turbine-nox",
        base=signed,
        requires=bundle.digest,
        state="ready",
    )
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert loop.device.status().streams["turbine"].base == before


def test_a_statement_by_a_stranger_is_refused(loop: Loop) -> None:
    """A base signed with a key that the device does not trust is refused before any download."""
    loop.start_device()
    loop.release_days(2)
    loop.wait_for("rows stored", lambda: len(loop.stored_rows()) == 2 * DAY)
    bundle = load_bundle(TURBINE / "bundles/turbine-nox-2.0.0")
    forged = sign_base(SigningKey.generate(), bundle, [loop.layer_key.public], 2)

    loop.cloud.jobs.offer(
        device=DEVICE, stream="turbine", model="turbine-nox", base=forged, requires=bundle.digest
    )
    loop.wait_for("the refusal", lambda: bool(loop.named("update.refused")))

    assert msgspec.structs.asdict(loop.device.status())["is_connected"] is True
