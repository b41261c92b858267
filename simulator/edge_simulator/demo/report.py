"""``report.html``: one file that needs nothing from outside; and the tables for the terminal."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from edge_simulator.demo.evaluate import VARIANTS, Interval
from edge_simulator.demo.outcome import Outcome, Update
from edge_simulator.demo.plots import NAMES, Picture

__all__ = ["error_table", "moments_text", "write_report"]


def write_report(path: Path, outcome: Outcome, pictures: Sequence[Picture]) -> None:
    """Write the report; pictures are taken from the folder of ``path`` into the file.

    Raises:
        OSError: A picture is missing or the file cannot be written.
    """
    parts = [
        _head(outcome),
        _moments(outcome),
        *(_picture(path.parent, picture) for picture in pictures[:1]),
        _errors(outcome),
        *(_picture(path.parent, picture) for picture in pictures[1:]),
        _updates(outcome),
        _counts(outcome),
        _CHECK,
    ]
    body = "\n".join(part for part in parts if part)
    path.write_text(_PAGE.format(style=_STYLE, body=body), encoding="utf-8")


def error_table(outcome: Outcome) -> Table:
    """Return the errors by variant and year for the terminal."""
    years = sorted(outcome.mae["hybrid"])
    title = "Mean absolute error of NOx, mg/m³ [95 % interval]"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    for year in years:
        table.add_column(year, justify="right")
    for variant in VARIANTS:
        style = "bold cyan" if variant == "hybrid" else ""
        cells = [_short_range(outcome.mae_interval[variant][year]) for year in years]
        table.add_row(NAMES[variant], *cells, style=style)
    ratios = [f"{outcome.hybrid_over_ridge[year].value:.2f}" for year in years]
    table.add_row("hybrid / ridge", *ratios, style="dim")
    return table


def moments_text(outcome: Outcome) -> Text:
    """Return the five labelled moments for the terminal."""
    text = Text()
    for number, moment in enumerate(outcome.moments, start=1):
        sign, style = ("✓", "bold green") if moment.holds else ("✗", "bold red")
        text.append(f"{sign} {number}  {moment.title}\n", style)
        text.append(f"     {moment.evidence}\n")
    return text


# --- the parts of the page -----------------------------------------------------------


def _head(outcome: Outcome) -> str:
    hybrid, alone = outcome.mae["hybrid"], outcome.mae["edge_only"]
    last = max(hybrid)
    return f"""<header>
<p class="kicker">edge-runtime demo</p>
<h1>A device that decides by itself, loses nothing, and gets better</h1>
<p class="lead">{outcome.days} simulated days of a gas turbine, {_number(outcome.source_rows)} rows,
replayed in {outcome.seconds:.0f} seconds through a real device process, {_broker(outcome)}
and a real cloud process on this machine. In {last} the network alone was off by
{alone[last]:.1f} mg/m³, the same device with its layers by {hybrid[last]:.1f}.</p>
</header>"""


def _moments(outcome: Outcome) -> str:
    cards = [
        f'<li class="{"holds" if moment.holds else "fails"}"><span>{number}</span>'
        f"<div><h3>{html.escape(moment.title)}</h3><p>{html.escape(moment.evidence)}</p></div></li>"
        for number, moment in enumerate(outcome.moments, start=1)
    ]
    return f'<section><h2>Five moments</h2><ol class="moments">{"".join(cards)}</ol></section>'


def _errors(outcome: Outcome) -> str:
    years = sorted(outcome.mae["hybrid"])
    rows = [
        [NAMES[variant], *(_range(outcome.mae_interval[variant][year]) for year in years)]
        for variant in VARIANTS
    ]
    rows.append(["hybrid / ridge", *(_range(outcome.hybrid_over_ridge[year]) for year in years)])
    table = _table(["mg/m³", *years], rows, marked=VARIANTS.index("hybrid"))
    return f"""<section><h2>Mean absolute error by year</h2>{table}
<p class="note">Brackets are 95 % block-bootstrap intervals (weeks stay together).
<b>Network alone</b> is the live base without any layer, scored again in the cloud.
<b>Cloud only</b> is the last batch answer that was known, no live score.
<b>Ridge</b> is the daily correction fitted to the sensors without the network and without the cut.
<b>Hybrid</b> is what the device itself answered, at once, cut and kill included.
A year is what the data file calls one: about 300 days of running.</p></section>"""


def _picture(folder: Path, picture: Picture) -> str:
    name, title, caption = picture
    content = base64.b64encode((folder / name).read_bytes()).decode()
    return (
        f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _updates(outcome: Outcome) -> str:
    layers = outcome.updates_committed - sum(u.outcome == "committed" for u in outcome.updates)
    rows = [_update_row(update) for update in outcome.updates]
    table = _table(["update", "sent by", "day", "outcome", "after", "reason"], rows) if rows else ""
    activation = outcome.activation_ms
    return f"""<section><h2>Updates</h2>
<p>{_number(outcome.updates_committed)} committed, {outcome.updates_refused} refused. Of these
{_number(layers)} were daily layer sets, live {activation.get("median", 0):.1f} ms after they
arrived (median; largest {activation.get("largest", 0):.0f} ms).</p>{table}</section>"""


def _update_row(update: Update) -> list[str]:
    after = f"{update.seconds:.2f}\N{NO-BREAK SPACE}s"
    return [update.what, update.sender, str(update.day), update.outcome, after, update.reason]


def _counts(outcome: Outcome) -> str:
    rows = [
        ["source rows replayed", _number(outcome.source_rows)],
        ["committed to the device's outbox", _number(outcome.rows_made)],
        ["found in the store", _number(outcome.rows_stored)],
        ["lost", _number(outcome.rows_lost)],
        ["duplicated", _number(outcome.rows_duplicated)],
        ["missing around the base swap", _number(outcome.windows_lost_at_swap)],
        ["most rows waiting on the device", _number(outcome.backlog_rows_largest)],
        ["scored again in the cloud with the base alone", _number(outcome.rescored_rows)],
        [
            "of these without a normaliser layer on the device; byte-equal to its score",
            f"{_number(outcome.rescored_comparable)}; {_number(outcome.rescored_equal)}",
        ],
        [
            "second device (fan): expected, stored, lost, duplicated",
            f"{_number(outcome.fan.expected)}, {_number(outcome.fan.stored)}, "
            f"{_number(outcome.fan.lost)}, {_number(outcome.fan.duplicated)}",
        ],
        ["bytes up", _number(outcome.bytes_up)],
        ["bytes down", _number(outcome.bytes_down)],
        ["broker", outcome.broker],
        ["seconds", f"{outcome.seconds:.1f}"],
    ]
    return f"<section><h2>Counts</h2>{_table(['', ''], rows)}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], marked: int | None = None) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [
        f"<tr{' class=marked' if number == marked else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for number, row in enumerate(rows)
    ]
    header = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="wide"><table>{header}<tbody>{"".join(lines)}</tbody></table></div>'


def _range(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _short_range(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.1f}–{interval.high:.1f}]"


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _broker(outcome: Outcome) -> str:
    return "the Mosquitto broker" if outcome.broker == "mosquitto" else "the broker iotcore"


_CHECK = """<section><h2>Check it yourself</h2>
<p>Nothing here is precomputed. <code>estimates.parquet</code> has one line per source row
(<code>row</code> is the 0-based data row of the CSV), <code>store/</code> is the cloud's store,
<code>result.json</code> holds every figure.
In this folder, with the Python that ran the demo:</p>
<pre>import duckdb
duckdb.sql("SELECT count(*), count(DISTINCT row) FROM 'estimates.parquet'").show()
duckdb.sql("SELECT count(*), count(DISTINCT index) FROM"
           " read_parquet('store/segments/stream=turbine/*/*.parquet')").show()</pre></section>"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>edge-runtime demo</title><style>{style}</style></head>
<body><main>
{body}
</main></body></html>
"""

_STYLE = """
:root{--ink:#23272f;--faint:#6b7280;--line:#e6e8ec;--blue:#0b6fa4;--red:#b3261e}
*{box-sizing:border-box}
body{margin:0;background:#f7f8fa;color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:60rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
.kicker{color:var(--blue);font-weight:600;margin:0}
h1{font-size:2rem;line-height:1.2;margin:.3rem 0 .8rem;letter-spacing:-.01em}
h2{font-size:1.2rem;margin:0 0 .8rem}
h3{font-size:1rem;margin:0}
.lead{font-size:1.1rem;max-width:46rem;margin:0}
section,figure{background:#fff;border:1px solid var(--line);border-radius:10px;
padding:1.25rem 1.4rem;margin:1.4rem 0}
figure img{width:100%;height:auto;display:block}
figcaption,.note{color:var(--faint);font-size:.92rem;margin:.7rem 0 0}
.moments{list-style:none;margin:0;padding:0}
.moments li{display:flex;gap:1rem;padding:.65rem 0;border-top:1px solid var(--line)}
.moments li:first-child{border-top:0}
.moments span{flex:none;width:2rem;height:2rem;border-radius:50%;color:#fff;
font-weight:600;display:grid;place-items:center;background:var(--blue)}
.moments .fails span{background:var(--red)}
.moments .fails h3::after{content:" — does not hold in this run";color:var(--red);font-weight:400}
.moments p{margin:.1rem 0 0;color:#3d4450}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.95rem;font-variant-numeric:tabular-nums}
th{text-align:left;color:var(--faint);font-weight:600}
th,td{padding:.45rem .9rem .45rem 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.marked td{font-weight:700;color:var(--blue)}
pre{background:#f1f3f6;border-radius:8px;padding:.9rem 1rem;overflow-x:auto;font-size:.88rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.92em}
"""
