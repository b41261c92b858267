"""``edge-runtime doctor``: what this machine has, proved by running it."""

from __future__ import annotations

import argparse
import sys

import msgspec

from edge_runtime.cli.table import table
from edge_runtime.doctor import Extra, Health, Report, examine

__all__ = ["Doctor"]


class Doctor:
    """Prove every model runtime and accelerator of this machine on a tiny model."""

    name = "doctor"
    help = "list what this machine has: runtimes, accelerators and extras, each proved by running"
    example = "edge-runtime doctor --json"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument(
            "--limit-s",
            type=float,
            default=30.0,
            metavar="S",
            help="wait so long for each runtime to answer (default 30)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Print the report; 1 if neither ``.tflite`` nor ``.onnx`` files run here."""
        report = examine(limit_s=args.limit_s)
        if args.json:
            text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode()
        else:
            text = _drawn(report)
        sys.stdout.write(text + "\n")
        return 0 if report.is_able else 1


def _drawn(report: Report) -> str:
    memory = f"{report.memory_mb / 1024:.1f} GiB"
    parts = [
        f"machine  {report.processor}, {report.cores} cores, {memory}",
        f"vectors  {report.architecture}, {', '.join(report.vectors) or 'none known'}",
        f"system   {report.platform}, {report.libc}".rstrip(", "),
        f"python   {report.python}, edge-runtime {report.edge_runtime}",
        "",
        _healths("backend", report.backends),
        "",
    ]
    if report.accelerators:
        parts.append(_healths("accelerator", report.accelerators))
    else:
        parts.append("No accelerator: no execution provider is built in, no delegate was found.")
    parts += ["", table(("extra", "state"), [_extra(one) for one in report.extras])]
    if not report.is_able:
        parts += ["", 'Nothing here runs a model: pip install "edge-runtime[tflite]".']
    return "\n".join(parts)


def _healths(what: str, healths: tuple[Health, ...]) -> str:
    rows = [
        (
            f"{one.accelerator} ({one.backend})" if one.accelerator else one.backend,
            one.state,
            one.version or "-",
            f"{one.ms:.0f}" if one.state == "works" else "-",
            _brief(one),
        )
        for one in healths
    ]
    return table((what, "state", "version", "ms", "why"), rows, right="ms")


def _brief(health: Health) -> str:
    if health.state == "absent":
        return health.remedy
    # The remedy of an accelerator is to ask the doctor.
    return health.why if health.accelerator else f"{health.why} {health.remedy}".strip()


def _extra(extra: Extra) -> tuple[str, str]:
    missing = [name for name, found in extra.packages.items() if not found]
    return extra.name, f"lacks {', '.join(missing)}" if missing else "installed"
