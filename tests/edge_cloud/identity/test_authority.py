"""The authority: what it signs, and what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from edge_cloud.identity.authority import Authority
from edge_runtime.errors import ConfigError
from edge_runtime.testing import FakeClock

DAY_S = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_800_000_000_000_000_000)


@pytest.fixture
def authority(tmp_path: Path, clock: FakeClock) -> Authority:
    return Authority.create(tmp_path / "ca", "test", clock)


def lists(authority: Authority, *revoked: tuple[int, int]) -> x509.CertificateRevocationList:
    return x509.load_pem_x509_crl(authority.revocations(revoked))


def test_a_list_names_who_is_revoked_and_does_not_run_out(
    authority: Authority, clock: FakeClock
) -> None:
    """Decades later a broker with the list still lets the others in."""
    signed = lists(authority, (17, clock.now_ns()), (2**150, clock.now_ns()))

    assert {entry.serial_number for entry in signed} == {17, 2**150}
    assert signed.is_signature_valid(authority.certificate.public_key())  # type: ignore[arg-type]
    assert signed.next_update_utc is not None
    assert signed.next_update_utc > authority.certificate.not_valid_after_utc


def test_each_list_begins_after_the_one_before(authority: Authority, clock: FakeClock) -> None:
    """Also when they follow each other within a second, and across a restart."""
    first = lists(authority)
    second = lists(authority, (1, clock.now_ns()))
    third = lists(Authority(authority.folder, clock), (2, clock.now_ns()))

    begins = [each.last_update_utc for each in (first, second, third)]
    assert begins == sorted(set(begins))


def test_a_servers_certificate_is_replaced_when_it_is_old_or_its_names_change(
    authority: Authority, clock: FakeClock, tmp_path: Path
) -> None:
    """Asked again it is the same; at two thirds, or for other names, it is a new one."""
    shown = authority.server(tmp_path, ["a.example"])
    texts = [shown.certificate.read_text()]
    for days, names in ((0.0, ["a.example"]), (0.0, ["b.example"]), (280.0, ["b.example"])):
        clock.advance(days * DAY_S)
        authority.server(tmp_path, names)
        texts.append(shown.certificate.read_text())

    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


def test_a_role_has_a_certificate_of_its_own(authority: Authority) -> None:
    """Each client id of the cloud is a name that the broker can tell apart."""
    shown = authority.role("cloud-ingest", days=90)

    certificate = x509.load_pem_x509_certificate(shown.certificate.read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=cloud-ingest"
    assert authority.role("cloud-ingest", days=90) == shown


def test_no_certificate_outlives_the_authority(authority: Authority, clock: FakeClock) -> None:
    """In its last days it signs for what is left of them."""
    clock.advance(20 * 365 * DAY_S - 30 * DAY_S)
    shown = authority.role("cloud-ingest", days=90)

    certificate = x509.load_pem_x509_certificate(shown.certificate.read_bytes())
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


def test_without_an_authority_there_is_a_remedy(tmp_path: Path) -> None:
    """The message says which command makes one."""
    with pytest.raises(ConfigError, match="ca init"):
        Authority(tmp_path)
