"""``edge-runtime check``: everything but the hardware, or one bare model file."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import msgspec

from edge_runtime.backends import open_session
from edge_runtime.bundle import Bundle
from edge_runtime.cli.limits import limit_text
from edge_runtime.cli.model import check_model, model_options
from edge_runtime.config import StreamConfig, load_device
from edge_runtime.config.check import DeviceGraph, Inspection, StreamGraph, check_device
from edge_runtime.errors import ConfigError
from edge_runtime.pipeline import scorer_of, shape_of
from edge_runtime.ports import Choice
from edge_runtime.profiles import explain_choice
from edge_runtime.spec import WindowSpec

__all__ = ["Check"]


class Check:
    """Build a device but for its hardware, and print what it resolves to."""

    name = "check"
    help = "check a device configuration without touching hardware, or admit a bare model file"
    example = "edge-runtime check device_configs/pump.yaml"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the verb's arguments."""
        parser.add_argument("config", type=Path, nargs="?", help="device YAML")
        parser.add_argument(
            "--no-models", action="store_true", help="do not open the models to compare shapes"
        )
        model_options(parser.add_argument_group("a bare model file"))
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, args: argparse.Namespace) -> int:
        """Check, and print the graph; or admit a model, and print what was found."""
        if (args.config is None) == (args.model is None):
            raise ConfigError(
                "check got both a configuration and a model, or neither",
                expected="DEVICE.yaml, or --model FILE",
                remedy="Check them one after the other.",
            )
        if args.model is not None:
            return check_model(args)
        config = load_device(args.config)
        inspect = None if args.no_models else partial(_inspect, config.profiles)
        graph = check_device(config, inspect=inspect)
        text = msgspec.json.encode(graph).decode() if args.json else _drawn(graph)
        sys.stdout.write(text + "\n")
        return 0


def _inspect(profiles: Path, bundle: Bundle, stream: StreamConfig) -> Inspection:
    found = explain_choice(bundle, stream.model.choice, profiles)
    session = open_session(bundle, found.choice)
    try:
        scorer_of(bundle.spec, session)
        window = bundle.spec.window.length, len(bundle.spec.stream.channels)
        return Inspection(
            shape_of(bundle.spec.features, window),
            session.inputs,
            session.outputs,
            found.choice,
            found.why,
        )
    finally:
        session.close()


def _drawn(graph: DeviceGraph) -> str:
    lines = [f"device {graph.device}"]
    for stream in graph.streams:
        lines += [f"  stream {stream.name}", *(f"    {step}" for step in _steps(stream))]
    lines.append(f"  sinks: {', '.join(graph.sinks) or 'none'}")
    lines.append(f"  sync: {graph.sync or 'none, everything stays on the device'}")
    lines.append(f"  updates: {'signed' if graph.is_updatable else 'none accepted'}")
    return "\n".join(lines)


def _steps(stream: StreamGraph) -> list[str]:
    steps = [
        f"source   {stream.source}: {_what(stream)}",
        *_grid_steps(stream),
        f"window   {_window(stream.window)}",
        f"features {', '.join(stream.features)}",
    ]
    if stream.inspection:
        tensors = [*stream.inspection.inputs, *stream.inspection.outputs]
        shapes = " → ".join(f"{one.dtype}{list(one.shape)}" for one in tensors)
        steps.append(f"tensors  {list(stream.inspection.features)} → {shapes}")
        steps.append(f"runs     {_how(stream.inspection.choice)}: {stream.inspection.why}")
    steps += [f"cascade  {stage}" for stage in stream.cascade]
    answer = f"{', '.join(stream.labels)} {stream.unit}".rstrip()
    tuned = stream.inspection.choice.artefact if stream.inspection else None
    steps.append(f"model    {stream.model} ({tuned or stream.artefact}): {stream.kind} of {answer}")
    limits = "; ".join(f"{one.label} {limit_text(one)}" for one in stream.limits)
    steps.append(f"decide   {limits or 'no limits: estimates only'}")
    steps.append(f"upload   {stream.upload}")
    return steps


def _grid_steps(stream: StreamGraph) -> list[str]:
    grid, time = stream.grid, stream.time
    if grid is None:
        return []
    bound = "" if grid.gaps == "skip" else f" up to {grid.longest_gap_s:g} s"
    waits = f"waits {time.delay_s:g} s, revises {time.allowed_lateness_s:g} s"
    return [f"grid     {grid.resample}, {grid.gaps} gaps{bound}; {waits}"]


def _window(window: WindowSpec) -> str:
    text = f"{window.length} samples every {window.hop}"
    if window.kind == "session":
        return f"session, up to {window.length} samples, until a silence of {window.silence_s:g} s"
    return text if window.kind == "count" else f"{window.kind}, {text}"


def _what(stream: StreamGraph) -> str:
    image = stream.image
    if image is None:
        channels = ", ".join(f"{one.name} [{one.unit}]" for one in stream.channels)
        return f"{channels} at {stream.rate_hz:g} Hz"
    size = f"{image.width} x {image.height} {image.colour}, {image.fit}"
    return f"images of {size}, at {stream.rate_hz / image.height:g} Hz"


def _how(choice: Choice) -> str:
    engine = choice.backend or "the default engine"
    threads = choice.threads or 1
    where = f" on {choice.accelerator}" if choice.accelerator else ""
    return f"{engine}{where}, {threads} thread{'' if threads == 1 else 's'}"
