"""Through the server a payment is answered as at the desk, bit for bit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.modes.realtime import RealtimeServer, ServeConfig, ServedConfig
from edge_runtime.spec import FusionLayer, Layer, LayerBody, PriorLayer
from edge_runtime.update.book import load_book, save_book
from examples.card_transactions.desk import Desk, RemoteDesk
from examples.card_transactions.desk import main as desk_main
from examples.card_transactions.payments import BUNDLE, device_of, seen_live, time_ns
from examples.card_transactions.world import DAY_S, WorldSize, draw

BASE = load_bundle(BUNDLE)


def layer(body: LayerBody, scope: str = "fleet", seq: int = 1) -> Layer:
    return Layer(body, BASE.digest, seq, int(time_ns(0.0)), scope, half_life_s=DAY_S)


def prior(customer: int, value: float, seq: int = 1) -> Layer:
    return layer(PriorLayer((value,), (0.0,)), f"device:{device_of(customer)}", seq)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book in which every other customer is under suspicion."""
    path = tmp_path / "night.layers"
    save_book(path, [layer(FusionLayer(0.1, 0.9, 1.0)), *(prior(c, 2.5) for c in range(0, 60, 2))])
    return path


@pytest.fixture
def url(book: Path) -> Iterator[str]:
    served = ServedConfig(bundle=BUNDLE, layers=book)
    server = RealtimeServer(ServeConfig(models=(served,), port=0))
    thread = threading.Thread(target=asyncio.run, args=(server.run(),))
    thread.start()
    yield server.url
    server.stop()
    thread.join()


def load_again(url: str) -> int:
    """Have the server read model and book again; return the status of its answer."""
    connection = HTTPConnection(urlsplit(url).netloc)
    connection.request("POST", "/v2/repository/models/card-fraud/load", b"{}")
    with connection.getresponse() as reply:
        reply.read()
    connection.close()
    return reply.status


def test_the_server_answers_as_the_desk_does(url: str, book: Path) -> None:
    """Score, value and alarm of a day's payments are the same, and priors count."""
    payments = draw(7, WorldSize(customers=60, days=6)).payments
    rows, instants = seen_live(payments).astype(np.float32).astype(np.float64), payments.time_s
    asked = [
        (device_of(c), ns, row)
        for c, ns, row in zip(
            payments.customer.tolist(), time_ns(instants).tolist(), rows, strict=True
        )
    ]
    here, there = Desk(BASE, load_book(book, BASE)), RemoteDesk(url)

    answers = [there.answer(*payment) for payment in asked]

    assert len(asked) > 100
    assert answers == [here.answer(*payment) for payment in asked]
    assert all(
        value > score
        for (card, _, _), (score, value, _) in zip(asked, answers, strict=True)
        if int(card[1:]) % 2 == 0 and score > 1e-3
    )


def test_a_new_book_counts_from_the_next_payment_on(url: str, book: Path) -> None:
    """Loading the model again reads the night's layers; an unfit book leaves the old ones."""
    payment = (device_of(1), int(time_ns(60.0)), np.zeros(15))
    before = RemoteDesk(url).answer(*payment)

    save_book(book, [prior(1, 3.0, seq=2)])
    taken = load_again(url)
    after = RemoteDesk(url).answer(*payment)
    book.write_text("{}\n")
    refused = load_again(url)

    assert (taken, refused) == (200, 500)
    assert after[0] == before[0]
    assert after[1] > before[1]
    assert RemoteDesk(url).answer(*payment) == after


def test_the_command_asks_a_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The desk's day can be answered over HTTP."""
    assert desk_main(["--url", url, "--night", "20", "--customers", "60", "--seed", "5"]) == 0

    assert "average precision" in capsys.readouterr().out
