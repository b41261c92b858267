"""The registry: immutable files named by digest, names for people."""

from __future__ import annotations

import msgspec
import pytest

from edge_cloud.registry import Registry
from edge_cloud.signing import SigningKey, sign_base
from edge_cloud.store import Store
from edge_runtime.bundle import Bundle, pack
from edge_runtime.errors import BundleError, ConfigError, TrustError


@pytest.fixture
def registry(store: Store) -> Registry:
    return Registry(store)


def test_a_bundle_comes_back_as_it_was_added(registry: Registry, bundle: Bundle) -> None:
    """Adding twice is adding once; what is loaded has the same digest and files."""
    entry = registry.add(bundle)
    again = registry.add(bundle)

    assert entry == again
    assert registry.bundle(entry.digest).files == bundle.files
    assert registry.archive(entry.digest).read_bytes() == pack(bundle)
    assert registry.line(entry.digest) == "turbine"


def test_signing_later_keeps_the_bundle(
    registry: Registry, bundle: Bundle, release_key: SigningKey
) -> None:
    """A known base becomes publishable once its statement is there."""
    registry.add(bundle)
    with pytest.raises(TrustError, match="not signed"):
        registry.signed(bundle.digest)
    signed = sign_base(release_key, bundle, [], 4)

    assert registry.add(bundle, signed).seq == 4
    assert registry.signed(bundle.digest) == signed


def test_a_statement_about_another_bundle_is_refused(
    registry: Registry, bundle: Bundle, newer_bundle: Bundle, release_key: SigningKey
) -> None:
    """A mix-up is found here, before any device sees it."""
    with pytest.raises(TrustError, match="digest"):
        registry.add(bundle, sign_base(release_key, newer_bundle, [], 1))

    garbage = msgspec.structs.replace(sign_base(release_key, bundle, [], 1), payload=b"{}")
    with pytest.raises(TrustError, match="payload"):
        registry.add(bundle, garbage)


def test_a_base_is_found_by_name_alias_and_digest(
    registry: Registry, bundle: Bundle, newer_bundle: Bundle
) -> None:
    """People say name@version or name@alias; a digest's beginning will do as well."""
    for each in (bundle, newer_bundle):
        registry.add(each)
    registry.set_alias("turbine", "live", newer_bundle.digest)
    registry.set_alias("turbine", "live", bundle.digest)

    refs = ("turbine@1", "turbine@live", bundle.digest[:12])
    assert {registry.find(ref).digest for ref in refs} == {bundle.digest}
    with pytest.raises(ConfigError, match="turbine@1"):
        registry.find("turbine@9")


def test_an_unknown_digest_says_what_is_known(registry: Registry, bundle: Bundle) -> None:
    """The message names what is here and how to add what is not."""
    registry.add(bundle)

    with pytest.raises(BundleError, match=bundle.digest[:16]):
        registry.bundle("0" * 64)
