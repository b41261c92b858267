"""What sleeps on the disk wakes as of the last commit, whatever came after it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.modes.keyed.store import KeyStore
from edge_runtime.testing import FakeClock

Step = tuple[str, str, bytes]

steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "commit", "crash"]),
        st.sampled_from(["a", "b", "/ü x"]),
        st.binary(max_size=4),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_a_crash_takes_back_what_was_not_committed_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """It is a mapping with a memory: snapshots, position and marks go together."""
    path = tmp_path_factory.mktemp("store") / "keys.db"
    store = KeyStore(path, FakeClock())
    now: dict[str, bytes] = {}
    durable: tuple[dict[str, bytes], int, dict[str, bytes]] = ({}, 0, {})

    for number, (do, key, content) in enumerate(steps):
        if do == "put":
            store[key] = now[key] = content
        elif do == "delete":
            if key in store:
                del store[key]
            now.pop(key, None)
        elif do == "commit":
            store.commit("main", number, {"0": content})
            durable = dict(now), number, {"0": content}
        else:
            store.close()
            store = KeyStore(path, FakeClock())
            now = dict(durable[0])
        assert dict(store) == now
        assert len(store) == len(now)
    store.close()

    woken = KeyStore(path, FakeClock())
    assert (dict(woken), woken.position("main"), woken.marks()) == durable
    woken.close()


def test_what_is_not_there_is_a_key_error(tmp_path: Path) -> None:
    """As with any mapping."""
    store = KeyStore(tmp_path / "keys.db", FakeClock())

    with pytest.raises(KeyError):
        store["a"]
    with pytest.raises(KeyError):
        del store["a"]
    store.close()
