"""Puts the demo together: folder, stage, driver, view, judgement, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
from rich.console import Console

from edge_simulator.broker import BrokerChoice
from edge_simulator.demo.assess import Assessment, Run, assess, write_estimates
from edge_simulator.demo.data import Turbine, load_turbine, read_columns
from edge_simulator.demo.driver import HUMAN_ROW_S, Driver, Plan, Stopped
from edge_simulator.demo.evaluate import DAY_ROWS
from edge_simulator.demo.outcome import Outcome, Replay
from edge_simulator.demo.plots import draw_all
from edge_simulator.demo.replay import Inputs, Replays
from edge_simulator.demo.report import error_table, moments_text, write_report
from edge_simulator.demo.script import full_story
from edge_simulator.demo.stage import FAN, TURBINE, Folders, Stage, clean_folder, demo_fleet
from edge_simulator.demo.view import LineView, Scene, View, live_view
from edge_simulator.fleet.load import Fleet
from edge_simulator.keys import Keys, keys_of_terminal
from edge_simulator.places import Places, find_places
from edge_simulator.screen import Face

__all__ = ["Options", "show"]

_INCONCLUSIVE = 4
# Index of the moment that needs a whole run.
_BETTER = 1
_HELP = "c cut or mend the link · k kill the device · q quit"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for on the command line.

    Attributes:
        out: Folder for everything the demo makes.
        json: Also write the result there.
        days: Stop after so many simulated days; None replays all.
        human_s: Seconds at human speed at the beginning.
        broker: Which broker.
        is_headless: Print lines and follow a script instead of keys.
        has_report: Replay offline and draw the report.
    """

    out: Path
    json: Path | None = None
    days: int | None = None
    human_s: float = 20.0
    broker: BrokerChoice = "auto"
    is_headless: bool = False
    has_report: bool = True


class _Setup(msgspec.Struct, frozen=True, eq=False):
    """What a run is made of, before anything is started."""

    options: Options
    places: Places
    turbine: Turbine
    plan: Plan
    folders: Folders
    fleet: Fleet

    @property
    def last_row(self) -> int:
        """Data row of the turbine to stop before."""
        return self.turbine.first_row + self.plan.rows


class _Screen(msgspec.Struct, frozen=True, eq=False):
    """What the viewer sees and presses."""

    scene: Scene
    view: View
    keys: Keys

    def tell(self, text: str) -> None:
        """Show one more line."""
        self.scene.tell(text)
        self.view.refresh()


def show(options: Options) -> int:
    """Run the demo and return the exit code.

    Raises:
        EdgeError: Something could not be started, or did not answer in time.
        KeyboardInterrupt: Ctrl-C; every process has been ended.
    """
    began_s = time.monotonic()
    console = Console(highlight=False)
    setup = _setup(options)
    try:
        with ExitStack() as stack:
            screen = _screen(stack, setup, console)
            assessment, backlog = _run(setup, screen)
            outcome = assessment.outcome
            _write(setup, screen, assessment, backlog)
            outcome.seconds = round(time.monotonic() - began_s, 2)
            _write_json(setup, outcome)
    except Stopped:
        console.print("Ended by key; no process of the demo is left, and there is no report.")
        return _INCONCLUSIVE
    _print(console, setup, outcome)
    return 0 if _holds(setup, outcome) else 1


def _setup(options: Options) -> _Setup:
    places = find_places()
    turbine = load_turbine(places.turbine_rows)
    plan = _plan(options, turbine, places)
    fleet = msgspec.structs.replace(demo_fleet(), broker=options.broker)
    return _Setup(options, places, turbine, plan, clean_folder(options.out.absolute()), fleet)


def _plan(options: Options, turbine: Turbine, places: Places) -> Plan:
    all_rows = len(turbine) - turbine.first_row
    rows = min(all_rows, (options.days or all_rows) * DAY_ROWS)
    days = -(-rows // DAY_ROWS)
    second_year = _rows_of_first_year(turbine)
    return Plan(
        rows=rows,
        fan_rows=len(read_columns(places.fan_rows, ("x",))["x"]),
        human_rows=min(rows, round(options.human_s / HUMAN_ROW_S)),
        story=tuple(full_story(days, second_year, is_scripted=options.is_headless)),
    )


def _screen(stack: ExitStack, setup: _Setup, console: Console) -> _Screen:
    """Take the terminal, if there is one, until the stack gives it back."""
    scene = Scene(
        setup.plan.days,
        [
            Face(
                name=TURBINE[0],
                what="NOx of a gas turbine, int8 TFLite",
                unit="mg/m³ NOx",
                signal_unit="MWh",
            ),
            Face(name=FAN[0], what="unbalance of a fan, int8 ONNX", unit="probability"),
        ],
    )
    is_headless = setup.options.is_headless
    keys = Keys() if is_headless else stack.enter_context(keys_of_terminal())
    scene.keys = _HELP if keys.is_live else ""
    is_live = console.is_terminal and not is_headless
    view: View = live_view(scene, console) if is_live else LineView(scene, console)
    return _Screen(scene, stack.enter_context(view), keys)


def _run(setup: _Setup, screen: _Screen) -> tuple[Assessment, Sequence[tuple[int, int]]]:
    """Play the story, end every process, and judge what the store holds."""
    driver = Driver(setup.turbine, setup.plan, screen.scene, screen.keys)
    with ExitStack() as stack:
        replays = _begun_replays(stack, setup)
        stage = Stage(setup.folders, setup.places, setup.fleet, driver.on_told)
        screen.tell(_broker_line(stage))
        with stage:
            driver.play(stage, screen.view)
            stage.fleet.end()
            bytes_up, bytes_down = stage.traffic()
        screen.scene.phase = "judging"
        screen.tell("every process has ended; joining source rows with the store")
        run = Run(
            store=setup.folders.store,
            turbine=setup.turbine,
            rows=setup.plan.rows,
            fan_rows=setup.plan.fan_rows,
            bases=(stage.turbine_first, stage.turbine_second),
            refresh=setup.fleet.refresh[0],
            ledger=driver.ledger,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            broker=stage.fleet.broker.kind,
        )
        return assess(run, _results(replays)), driver.ledger.backlog


def _begun_replays(stack: ExitStack, setup: _Setup) -> Replays | None:
    """Begin the offline replays; they use the processor while the live run waits."""
    if not setup.options.has_report:
        return None
    turbine = setup.turbine
    inputs = Inputs(
        rows_path=setup.places.turbine_rows,
        bundles=(setup.places.turbine_first, setup.places.turbine_second),
        last_row=setup.last_row,
        swap_row=turbine.first_row + _rows_of_first_year(turbine),
        refresh=setup.fleet.refresh[0],
    )
    return stack.enter_context(Replays(inputs))


def _results(replays: Replays | None) -> tuple[Sequence[Replay], Sequence[Replay]]:
    return ([], []) if replays is None else replays.results()


def _broker_line(stage: Stage) -> str:
    if stage.fleet.broker.kind == "mosquitto":
        return "broker: Mosquitto, which is installed here, on 127.0.0.1"
    return "broker: iotcore from PyPI on 127.0.0.1 (Mosquitto is not installed or not wanted)"


def _write(
    setup: _Setup,
    screen: _Screen,
    assessment: Assessment,
    backlog: Sequence[tuple[int, int]],
) -> None:
    folder = setup.folders.root
    write_estimates(folder / "estimates.parquet", assessment.answers)
    if not setup.options.has_report:
        return
    screen.tell("drawing the report")
    pictures = draw_all(folder, assessment.answers, assessment.outcome, backlog)
    assessment.outcome.seconds = round(screen.scene.seconds, 1)
    write_report(folder / "report.html", assessment.outcome, pictures)


def _write_json(setup: _Setup, outcome: Outcome) -> None:
    content = msgspec.json.format(msgspec.json.encode(outcome), indent=2) + b"\n"
    for path in filter(None, (setup.folders.root / "result.json", setup.options.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _print(console: Console, setup: _Setup, outcome: Outcome) -> None:
    console.print()
    console.print(moments_text(outcome))
    console.print(error_table(outcome))
    console.print(
        f"\n{outcome.updates_committed} updates committed, {outcome.updates_refused} refused; "
        f"{outcome.bytes_up / 1e6:.1f} MB up, {outcome.bytes_down / 1e6:.1f} MB down; "
        f"{outcome.seconds:.0f} s."
    )
    if setup.options.has_report:
        console.print(f"Report: {setup.folders.root / 'report.html'}")
    console.print(
        f"Store and answers, to check it: {setup.folders.store}, estimates.parquet beside it."
    )


def _holds(setup: _Setup, outcome: Outcome) -> bool:
    """Whether every claim held; a run cut short has too few labels to get better."""
    is_whole = setup.last_row == len(setup.turbine)
    judged = [m for number, m in enumerate(outcome.moments) if is_whole or number != _BETTER]
    return all(moment.holds for moment in judged)


def _rows_of_first_year(turbine: Turbine) -> int:
    return int((turbine.year == turbine.year[turbine.first_row]).sum())
