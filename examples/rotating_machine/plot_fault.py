"""Draw how a bearing of a simulated machine breaks, and how its spectrum tells.

    python examples/rotating_machine/plot_fault.py --out fault.png

Nothing is trained and nothing is stored: a signal is a function of the sample's number, so
any second of the machine's life is read where it is needed. Needs
``pip install "edge-runtime[demo]"``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from edge_simulator.signals import (
    GearConfig,
    GrowthConfig,
    PointConfig,
    Rotating,
    RotatingConfig,
)

DAY_S = 86_400
MOMENTS = 160
SPECTRUM_S = 4
BAND_HZ = (700.0, 1300.0)
SHOWN_HZ = 320.0
SEVERITIES = (0.0, 0.1, 0.3, 1.0)
COLOURS = ("#8b8f98", "#0b6fa4", "#a9825a", "#c8553d")
INK, FAINT, GRID = "#23272f", "#6b7280", "#e6e8ec"


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture and say where it is."""
    args = _parser().parse_args(argv)
    machine = _machine(args.days, args.shaft_hz)
    figure = _draw(machine, args.days, args.seed)
    figure.savefig(args.out, dpi=args.dpi, facecolor="white")
    print(args.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("fault.png"), help="PNG to write")
    parser.add_argument("--days", type=float, default=30.0, help="life of the bearing")
    parser.add_argument("--shaft-hz", type=float, default=25.0, help="revolutions a second")
    parser.add_argument("--seed", type=int, default=1, help="which of all such machines")
    parser.add_argument("--dpi", type=int, default=110, help="dots per inch")
    return parser


def _machine(days: float, shaft_hz: float) -> RotatingConfig:
    """Return a machine whose bearing begins to break at a third of its life."""
    return RotatingConfig(
        schedule=(PointConfig(shaft_hz=shaft_hz),),
        gear=GearConfig(mesh_g=0.05),
        fault=GrowthConfig(starts_s=days * DAY_S / 3, fails_s=days * DAY_S),
    )


def _draw(config: RotatingConfig, days: float, seed: int) -> Figure:
    machine = Rotating(config, seed)
    figure = Figure(figsize=(10, 9), layout="constrained")
    life, waves, spectra = figure.subfigures(3, 1, height_ratios=(1, 1, 1.3))
    _draw_life(life.subplots(), machine, days)
    _draw_waves(waves.subplots(1, 2, sharey=True), machine, days)
    _draw_spectra(spectra.subplots(), machine, config, days)
    return figure


def _draw_life(axes: Any, machine: Rotating, days: float) -> None:
    """Draw truth and what a simple alarm would see, over the whole life."""
    at_s = np.linspace(0, days * DAY_S, MOMENTS)
    seconds = [_second(machine, moment) for moment in at_s]
    rms = [float(second.std()) for second in seconds]
    severity = [float(machine.truth(_sample(machine, moment), 1)[0]) for moment in at_s]
    axes.plot(at_s / DAY_S, rms, color=COLOURS[1], label="root mean square of one second, g")
    axes.plot(at_s / DAY_S, severity, color=COLOURS[3], label="truth: severity, 0 to 1")
    axes.legend(frameon=False, loc="upper left", labelcolor=INK)
    axes.set_xlim(0, days)
    _dress(axes, "A bearing's life", "days", "")


def _draw_waves(both: Any, machine: Rotating, days: float) -> None:
    """Draw a quarter of a second, healthy and broken."""
    for axes, moment_s, name in zip(both, (0.0, days * DAY_S), ("healthy", "broken"), strict=True):
        wave = _second(machine, moment_s)[: round(machine.rate_hz / 4)]
        colour = COLOURS[0] if moment_s == 0 else COLOURS[3]
        axes.plot(np.arange(len(wave)) / machine.rate_hz, wave, color=colour, linewidth=0.7)
        axes.set_xlim(0, 0.25)
        _dress(axes, f"Acceleration, {name}", "s", "g")


def _draw_spectra(axes: Any, machine: Rotating, config: RotatingConfig, days: float) -> None:
    """Draw the envelope's spectrum while the fault grows, and where its lines must be."""
    # The highest first, so that it hides none of the others.
    for severity, colour in reversed(tuple(zip(SEVERITIES, COLOURS, strict=True))):
        hz, heights = _envelope_spectrum(machine, _moment_s(machine, severity, days))
        axes.semilogy(hz, heights, color=colour, linewidth=0.9, label=f"severity {severity:g}")
    shaft_hz = config.schedule[0].shaft_hz
    struck_hz = config.bearing.impact_order * shaft_hz
    for k in range(1, int(SHOWN_HZ / struck_hz) + 1):
        axes.axvline(k * struck_hz, color=INK, linewidth=0.8, linestyle=":")
        for side_hz in (-shaft_hz, shaft_hz):
            axes.axvline(k * struck_hz + side_hz, color=FAINT, linewidth=0.5, linestyle=":")
        label = "BPFO" if k == 1 else f"{k} BPFO"
        axes.annotate(
            label,
            (k * struck_hz, 1),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            color=INK,
        )
    axes.set_xlim(0, SHOWN_HZ)
    axes.set_ylim(1e-4, 20)
    axes.legend(edgecolor="white", framealpha=1, loc="upper right", ncols=4, labelcolor=INK)
    title = f"Spectrum of the envelope, {BAND_HZ[0]:g} to {BAND_HZ[1]:g} Hz"
    _dress(axes, title, "Hz; dotted: the fault's lines, and the shaft's speed beside them", "g")


def _dress(axes: Any, title: str, below: str, beside: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=18)
    axes.set_xlabel(below, color=FAINT)
    axes.set_ylabel(beside, color=FAINT)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _sample(machine: Rotating, moment_s: float) -> int:
    return round(moment_s * machine.rate_hz)


def _second(machine: Rotating, moment_s: float) -> np.ndarray:
    """Return a second of the first channel from a moment on, g."""
    return machine.read(_sample(machine, moment_s), round(machine.rate_hz))[:, 0]


def _moment_s(machine: Rotating, severity: float, days: float) -> float:
    """Return when the fault has grown so far."""
    at_s = np.linspace(0, days * DAY_S, 2000)
    grown = [float(machine.truth(_sample(machine, moment), 1)[0]) for moment in at_s]
    return float(at_s[np.searchsorted(grown, severity)])


def _envelope_spectrum(machine: Rotating, moment_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies, Hz, and heights, g, of the envelope of the resonance's band.

    Source: Randall and Antoni 2011; the envelope is the magnitude of the analytic signal.
    """
    count = round(SPECTRUM_S * machine.rate_hz)
    wave = machine.read(_sample(machine, moment_s), count)[:, 0]
    spectrum = np.fft.fft(wave)
    hz = np.fft.fftfreq(count, 1 / machine.rate_hz)
    spectrum[(hz < BAND_HZ[0]) | (hz > BAND_HZ[1])] = 0
    envelope = np.abs(np.fft.ifft(2 * spectrum))
    heights = 2 / count * np.abs(np.fft.rfft(envelope - envelope.mean()))
    return np.arange(len(heights)) / SPECTRUM_S, heights


if __name__ == "__main__":
    sys.exit(main())
