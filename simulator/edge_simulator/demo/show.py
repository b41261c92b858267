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
from edge_simulator.demo.data import Places, Turbine, find_places, load_turbine, read_columns
from edge_simulator.demo.driver import HUMAN_ROW_S, Driver, Plan, Stopped
from edge_simulator.demo.evaluate import DAY_ROWS
from edge_simulator.demo.keys import Keys, keys_of_terminal
from edge_simulator.demo.outcome import Outcome, Replay
from edge_simulator.demo.plots import draw_all
from edge_simulator.demo.replay import Inputs, Replays
from edge_simulator.demo.report import error_table, moments_text, write_report
from edge_simulator.demo.script import full_story
from edge_simulator.demo.stage import Folders, Stage, clean_folder
from edge_simulator.demo.view import DeviceScene, LineView, LiveView, Scene, View

__all__ = ["Options", "show"]

_INCONCLUSIVE = 4
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


def show(options: Options) -> int:
    """Run the demo and return the exit code.

    Raises:
        EdgeError: Something could not be started, or did not answer in time.
        KeyboardInterrupt: Ctrl-C; every process has been ended.
    """
    began_s = time.monotonic()
    console = Console(highlight=False)
    places = find_places()
    turbine = load_turbine(places.turbine_rows)
    plan = _plan(options, turbine, places)
    folders = clean_folder(options.out.absolute())
    scene = _scene(plan)
    try:
        with ExitStack() as stack:
            keys = Keys() if options.is_headless else stack.enter_context(keys_of_terminal())
            scene.keys = _HELP if keys.is_live else ""
            view = stack.enter_context(_view(options, scene, console))
            assessment, backlog = _run(options, plan, turbine, places, folders, scene, view, keys)
            outcome = assessment.outcome
            _write(options, folders, assessment, backlog, scene, view)
            outcome.seconds = round(time.monotonic() - began_s, 2)
            _write_json(options, folders, outcome)
    except Stopped:
        console.print("Ended by key; no process of the demo is left, and there is no report.")
        return _INCONCLUSIVE
    _print(console, options, folders, outcome)
    return 0 if _holds(outcome, plan, turbine) else 1


def _plan(options: Options, turbine: Turbine, places: Places) -> Plan:
    all_rows = len(turbine) - turbine.first_row
    rows = min(all_rows, (options.days or all_rows) * DAY_ROWS)
    days = -(-rows // DAY_ROWS)
    first_year = turbine.year[turbine.first_row]
    second_year = int((turbine.year == first_year).sum())
    return Plan(
        rows=rows,
        fan_rows=len(read_columns(places.fan_rows, ("x",))["x"]),
        human_rows=min(rows, round(options.human_s / HUMAN_ROW_S)),
        story=tuple(full_story(days, second_year, is_scripted=options.is_headless)),
    )


def _scene(plan: Plan) -> Scene:
    return Scene(
        plan.days,
        [
            DeviceScene("turbine-1", "NOx of a gas turbine, int8 TFLite", "mg/m³ NOx", "MWh"),
            DeviceScene("fan-1", "unbalance of a fan, int8 ONNX", "probability"),
        ],
    )


def _view(options: Options, scene: Scene, console: Console) -> View:
    is_live = console.is_terminal and not options.is_headless
    return LiveView(scene, console) if is_live else LineView(scene, console)


def _run(
    options: Options,
    plan: Plan,
    turbine: Turbine,
    places: Places,
    folders: Folders,
    scene: Scene,
    view: View,
    keys: Keys,
) -> tuple[Assessment, Sequence[tuple[int, int]]]:
    """Play the story, end every process, and judge what the store holds."""
    driver = Driver(turbine, plan, scene, keys)
    first, last = turbine.first_row, turbine.first_row + plan.rows
    with ExitStack() as stack:
        replays = _begun_replays(stack, options, plan, turbine, places)
        stage = Stage(
            folders,
            places,
            broker=options.broker,
            first_row=first,
            last_row=last,
            on_event=driver.on_event,
        )
        scene.tell(_broker_line(stage))
        view.refresh()
        with stage:
            driver.play(stage, view)
            stage.end_devices()
            stage.end_cloud()
            counts = [stage.link.counts(), stage.fan_link.counts()]
        scene.phase = "judging"
        scene.tell("every process has ended; joining source rows with the store")
        view.refresh()
        run = Run(
            store=folders.store,
            turbine=turbine,
            rows=plan.rows,
            fan_rows=plan.fan_rows,
            bases=(stage.turbine_first, stage.turbine_second),
            ledger=driver.ledger,
            bytes_up=sum(count.bytes_up for count in counts),
            bytes_down=sum(count.bytes_down for count in counts),
            broker=stage.broker.kind,
        )
        results = _results(replays)
        return assess(run, results), driver.ledger.backlog


def _begun_replays(
    stack: ExitStack, options: Options, plan: Plan, turbine: Turbine, places: Places
) -> Replays | None:
    """Begin the offline replays; they use the processor while the live run waits."""
    if not options.has_report:
        return None
    first_year = turbine.year[turbine.first_row]
    inputs = Inputs(
        rows_path=places.turbine_rows,
        bundles=(places.turbine_first, places.turbine_second),
        last_row=turbine.first_row + plan.rows,
        swap_row=turbine.first_row + int((turbine.year == first_year).sum()),
    )
    return stack.enter_context(Replays(inputs))


def _results(replays: Replays | None) -> tuple[Sequence[Replay], Sequence[Replay]]:
    return ([], []) if replays is None else replays.results()


def _broker_line(stage: Stage) -> str:
    if stage.broker.kind == "mosquitto":
        return "broker: Mosquitto, which is installed here, on 127.0.0.1"
    return "broker: iotcore from PyPI on 127.0.0.1 (Mosquitto is not installed or not wanted)"


def _write(
    options: Options,
    folders: Folders,
    assessment: Assessment,
    backlog: Sequence[tuple[int, int]],
    scene: Scene,
    view: View,
) -> None:
    write_estimates(folders.root / "estimates.parquet", assessment.answers)
    if not options.has_report:
        return
    scene.tell("drawing the report")
    view.refresh()
    pictures = draw_all(folders.root, assessment.answers, assessment.outcome, backlog)
    assessment.outcome.seconds = round(scene.seconds, 1)
    write_report(folders.root / "report.html", assessment.outcome, pictures)


def _write_json(options: Options, folders: Folders, outcome: Outcome) -> None:
    content = msgspec.json.format(msgspec.json.encode(outcome), indent=2) + b"\n"
    for path in filter(None, (folders.root / "result.json", options.json)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _print(console: Console, options: Options, folders: Folders, outcome: Outcome) -> None:
    console.print()
    console.print(moments_text(outcome))
    console.print(error_table(outcome))
    console.print(
        f"\n{outcome.updates_committed} updates committed, {outcome.updates_refused} refused; "
        f"{outcome.bytes_up / 1e6:.1f} MB up, {outcome.bytes_down / 1e6:.1f} MB down; "
        f"{outcome.seconds:.0f} s."
    )
    if options.has_report:
        console.print(f"Report: {folders.root / 'report.html'}")
    console.print(f"Store and answers, to check it: {folders.store}, estimates.parquet beside it.")


def _holds(outcome: Outcome, plan: Plan, turbine: Turbine) -> bool:
    """Whether every claim held; a run cut short has too few labels to get better."""
    is_whole = plan.rows == len(turbine) - turbine.first_row
    return all(
        moment.holds for number, moment in enumerate(outcome.moments) if is_whole or number != 1
    )
