"""``edge-runtime doctor``: what this machine has and lacks, proved by trying it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from edge_runtime.cli.table import table
from edge_runtime.config import load_device
from edge_runtime.doctor import Extra, Finding, Health, Report, examine, look_around

__all__ = ["Doctor"]


class Doctor:
    """Look at board, system, storage, clock, buses and link, and prove every model runtime."""

    name = "doctor"
    help = "look at this machine, prove its runtimes by running a tiny model, and name remedies"
    example = "edge-runtime doctor --json"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument(
            "config", type=Path, nargs="?", help="device YAML: its storage and broker too"
        )
        parser.add_argument(
            "--limit-s",
            type=float,
            default=30.0,
            metavar="S",
            help="wait so long for each runtime to answer (default 30)",
        )
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Print the report; 1 if something hurts now, or no model file runs here."""
        findings = look_around(load_device(args.config) if args.config else None)
        report = examine(limit_s=args.limit_s)
        if args.json:
            facts = {**msgspec.to_builtins(report), "findings": msgspec.to_builtins(findings)}
            text = msgspec.json.format(msgspec.json.encode(facts), indent=2).decode()
        else:
            text = f"{_drawn(report)}\n\n{_looked_at(findings)}"
        sys.stdout.write(text + "\n")
        hurts = any(one.state == "problem" for one in findings)
        return 0 if report.is_able and not hurts else 1


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


def _looked_at(findings: tuple[Finding, ...]) -> str:
    rows = [(one.topic, one.state, one.what, one.remedy) for one in findings]
    return table(("looked at", "state", "what", "remedy"), rows)


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
