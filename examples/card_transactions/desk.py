"""Answer a day's payments one by one, each card with its own prior around one loaded model.

    python -m examples.card_transactions.desk --night 120 --layers night.layers

``batch.py`` wrote the layers. Without ``--layers`` the model answers alone. With ``--url`` a
server answers, which has the layers:

    edge-runtime serve examples/card_transactions/bundles/card-fraud-1.0.0 --layers night.layers
    python -m examples.card_transactions.desk --night 120 --url http://127.0.0.1:8000
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from edge_runtime import Bundle, Frame, Pipeline, load_bundle
from edge_runtime.backends import open_session
from edge_runtime.update.book import LayerBook, load_book
from examples.card_transactions.judge import FALSE_ALARM_EUR, average_precision
from examples.card_transactions.nightly import night_of
from examples.card_transactions.payments import BUNDLE, device_of, seen_live, time_ns
from examples.card_transactions.world import Payments, WorldSize, draw

__all__ = ["Answer", "Desk", "RemoteDesk"]

Answer = tuple[float, float, bool]
"""The model's own score, the fused value, and whether the payment is under suspicion."""


class Desk:
    """Thousands of cards around one loaded model: each has a stream and a prior, not a model.

    A pipeline is made at a card's first payment. The cards that paid last are kept; who comes
    back after that begins anew, which costs nothing: a window is a single payment.

    Args:
        bundle: The base.
        book: Whose layers cards have.
        most: Cards kept.
    """

    def __init__(self, bundle: Bundle, book: LayerBook, most: int = 10_000) -> None:
        self._bundle = bundle
        self._book = book
        self._most = most
        self._session = open_session(bundle)
        self._cards: OrderedDict[str, tuple[Pipeline, int]] = OrderedDict()

    def answer(self, card: str, instant_ns: int, row: np.ndarray) -> Answer:
        """Answer one payment.

        Args:
            card: Id under which the card has layers.
            instant_ns: When it pays, ns since the Unix epoch; later than its payment before.
            row: Channels of the payment, shape (15,).
        """
        pipeline, index = self._cards.pop(card, None) or (self._open(card), 0)
        frame = Frame(card, index, np.array([instant_ns]), row[None, :])
        estimates = pipeline.push(frame).estimates
        self._cards[card] = (pipeline, index + 1)
        if len(self._cards) > self._most:
            self._cards.popitem(last=False)
        is_fraud = "fraud" in pipeline.started
        return estimates.score.item(), estimates.value.item(), is_fraud

    def _open(self, card: str) -> Pipeline:
        return Pipeline(
            self._bundle.spec,
            self._session,
            base=self._bundle.digest,
            layers=self._book.of(card),
            stream=card,
        )


class RemoteDesk:
    """Asks a server: each payment is a whole sequence, whose id is the card.

    Args:
        url: Where ``edge-runtime serve`` listens.
    """

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)

    def answer(self, card: str, instant_ns: int, row: np.ndarray) -> Answer:
        """Answer one payment; see `Desk.answer`.

        Raises:
            OSError: The server is not there, or refuses; the text says why.
        """
        body = json.dumps(
            {
                "parameters": {
                    "sequence_id": card,
                    "sequence_start": True,
                    "sequence_end": True,
                    "decisions": True,
                },
                "inputs": [
                    _tensor("samples", "FP32", [1, len(row)], row.tolist()),
                    _tensor("time_ns", "INT64", [1], [instant_ns]),
                ],
            }
        )
        self._connection.request("POST", "/v2/models/card-fraud/infer", body)
        reply = self._connection.getresponse()
        content = json.load(reply)
        if reply.status != http.client.OK:
            raise OSError(f"the server answered {reply.status}: {content.get('error')}")
        found = {tensor["name"]: tensor["data"] for tensor in content["outputs"]}
        return found["score"][0], found["value"][0], "start" in found["decision_edge"]


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def main(argv: Sequence[str] | None = None) -> int:
    """Answer the payments of one day and tell how it went."""
    args = _parser().parse_args(argv)
    desk = _local(args.layers) if args.url is None else RemoteDesk(args.url)
    world = draw(args.seed, WorldSize(customers=args.customers))
    is_live = night_of(world.payments.time_s) == args.night
    rows, payments = seen_live(world.payments)[is_live], world.payments.take(is_live)
    value, alarm, micros = _answered(desk.answer, payments, rows)
    _tell(payments, value, alarm, micros)
    return 0


def _local(layers: Path | None) -> Desk:
    bundle = load_bundle(BUNDLE)
    if layers is None:
        return Desk(bundle, LayerBook((), bundle.spec, bundle.digest))
    return Desk(bundle, load_book(layers, bundle))


def _answered(
    answer: Callable[[str, int, np.ndarray], Answer], payments: Payments, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return value, alarm and microseconds of each payment, shape (n,)."""
    instants = time_ns(payments.time_s).tolist()
    found = []
    for customer, instant_ns, row in zip(payments.customer.tolist(), instants, rows, strict=True):
        start = time.perf_counter()
        _, value, alarm = answer(device_of(customer), instant_ns, row)
        found.append((value, alarm, 1e6 * (time.perf_counter() - start)))
    values, alarms, micros = (np.array(column) for column in zip(*found, strict=True))
    return values, alarms.astype(bool), micros


def _tell(payments: Payments, value: np.ndarray, alarm: np.ndarray, micros: np.ndarray) -> None:
    fraud, amount = payments.is_fraud, payments.amount
    precision = f"{average_precision(value, fraud):.3f}" if fraud.any() else "unknown without fraud"
    wrong = alarm & ~fraud
    saved = amount[alarm & fraud].sum() - FALSE_ALARM_EUR * wrong.sum()
    print(
        f"{len(payments)} payments of {len(np.unique(payments.customer))} cards, "
        f"{fraud.sum()} of them fraud\n"
        f"found {(alarm & fraud).sum()}, false alarms {wrong.sum()}, "
        f"average precision {precision}\n"
        f"saved {saved:,.0f} of {amount[fraud].sum():,.0f} €, "
        f"median {np.median(micros):.0f} us a payment"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", help="of a server that answers, such as http://127.0.0.1:8000")
    parser.add_argument("--layers", type=Path, help="file of layers that batch.py wrote")
    parser.add_argument("--night", type=int, default=120, help="midnight before the day")
    parser.add_argument("--seed", type=int, default=1, help="which of all worlds")
    parser.add_argument("--customers", type=int, default=2000, help="how many it has")
    return parser


if __name__ == "__main__":
    sys.exit(main())
