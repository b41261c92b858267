"""Claim tokens: read back as printed, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.errors import ConfigError
from edge_runtime.sync.identity.token import ClaimToken


@given(secret=st.binary(min_size=16, max_size=16), authority=st.binary(min_size=32, max_size=32))
def test_a_token_is_read_as_it_was_printed(secret: bytes, authority: bytes) -> None:
    """Text and back gives the same token, blanks around it aside."""
    token = ClaimToken(secret, authority)

    assert ClaimToken.parse(f" {token.text}\n") == token


@given(st.text(max_size=120) | st.builds("er1.{}.{}".format, st.text(), st.text()))
def test_other_texts_are_refused_and_not_repeated(text: str) -> None:
    """What is no token is a configuration error that does not show the text."""
    with pytest.raises(ConfigError) as caught:
        ClaimToken.parse(text)

    assert len(text) < 12 or text not in str(caught.value)


def test_a_token_shows_nothing_that_could_be_used() -> None:
    """A log line with a token in it gives nothing away."""
    token = ClaimToken.draw(bytes(32))

    assert token.secret.hex() not in repr(token)
    assert token.text not in repr(token)
