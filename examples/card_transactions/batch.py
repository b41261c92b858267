"""Run one night's batch and write what the next day's answers are refined by.

    python -m examples.card_transactions.batch --night 120 --out night.layers

The file has the fusion's weights and the threshold for all customers, and one prior for each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edge_runtime.update.book import save_book
from examples.card_transactions.nightly import FIRST_FIT, fit, history_of, layers_of
from examples.card_transactions.payments import open_base, score
from examples.card_transactions.world import DAY_S, WorldSize, draw


def main(argv: Sequence[str] | None = None) -> int:
    """Write the book of one night and say what is in it."""
    args = _parser().parse_args(argv)
    if args.night < FIRST_FIT:
        print(f"--night is {args.night}; expected {FIRST_FIT} or later.", file=sys.stderr)
        return 2
    size = WorldSize(customers=args.customers)
    payments = draw(args.seed, size).payments.as_of(args.night * DAY_S)
    base = open_base()
    history = history_of(payments, score(base, payments), size.customers, args.night)
    try:
        plan = fit(history, args.night, base.spec.clamps)
    except ValueError as error:
        print(f"night {args.night}: {error}", file=sys.stderr)
        return 1
    layers = layers_of(history, plan, args.night, base.base)
    save_book(args.out, layers)
    fusion = plan.fusion
    print(
        f"{args.out}: {len(layers)} layers, {args.out.stat().st_size:,} bytes\n"
        f"  z = {fusion.w0:+.2f} {fusion.w1:+.2f} z_live {fusion.w2:+.2f} prior, half-life "
        f"{plan.half_life_s / 86400:g} days, expires after {plan.lasts_s / 3600:g} hours"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--night", type=int, default=120, help="midnight whose batch is run")
    parser.add_argument("--seed", type=int, default=1, help="which of all worlds")
    parser.add_argument("--customers", type=int, default=2000, help="how many it has")
    parser.add_argument("--out", type=Path, required=True, help="file of layers to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
