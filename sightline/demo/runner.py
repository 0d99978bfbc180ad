"""Runs a demo: registers real images, trains within a budget, evaluates and predicts, through the client.

The suite runs on free ports of this machine and stops with the demo.
"""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule

from sightline.cli.console import facts, notes, output, progress_bar
from sightline.cli.formats import percent
from sightline.cli.quality import print_performance
from sightline.cli.reporting import report, told_of_file
from sightline.cli.up import print_death, start
from sightline.client.client import Client
from sightline.client.errors import SightlineError
from sightline.client.quantities import duration
from sightline.client.results.evaluation import Evaluation
from sightline.client.results.kinds import DatasetKind
from sightline.client.results.model import Hyperparameters, Model
from sightline.client.results.performance import Performance
from sightline.client.results.prediction import Prediction
from sightline.client.results.trial import Trial
from sightline.client.transport.credentials import Credentials
from sightline.demo.digits import DigitsMissing, ImageSet
from sightline.local.claims import StackError
from sightline.local.stack import Stack
from sightline.plurals import counted
from sightline.v1 import trial_pb2

FOLDER = Path("demo")
Truth = TypeVar("Truth")
Results = Sequence[tuple[Path, Prediction, Truth]]  # images with their predictions and the truth


class DemoFailed(Exception):
    """The suite works, but the demo did not reach its goal."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The least performance on images that training never saw."""

    metric: str  # in words
    score: Callable[[Performance], float]
    least: float


@dataclass(frozen=True, slots=True)
class Demo(Generic[Truth]):
    """What a demo trains, and how it shows the result."""

    name: str  # of the model; the datasets are `<name>-train` and `<name>-test`
    task: str  # what the model learns, for the title
    images: str  # a description of the images
    write: Callable[[Path], tuple[ImageSet[Truth], ImageSet[Truth]]]  # writes training and test set into a folder
    budget_seconds: int
    limit_seconds: float  # after which something is stuck
    goal: Goal
    shown: int  # images on the sheet
    sheet: Callable[[Results[Truth], Performance], Image.Image]  # draws it
    sheet_file: str  # in `demo`
    resolution: int | None = None  # of training, in pixels; by default the networks' own


def run(demo: Demo[Truth]) -> None:
    """Runs a demo; if something fails, exits with 1 and prints where the logs are."""
    console = output()
    try:
        FOLDER.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    except OSError as error:
        sys.exit(report(told_of_file(error), notes()))
    try:
        asyncio.run(_run(demo, folder, console))
    except (DemoFailed, StackError, DigitsMissing) as error:
        notes().print(f"[bold red]the demo failed:[/] {escape(str(error))}", soft_wrap=True)
    except SightlineError as error:
        notes().print("[bold red]the demo failed[/]")
        report(error, notes())
    except KeyboardInterrupt:
        _remove(folder)
        sys.exit(130)
    else:
        _remove(folder)
        return
    notes().print(f"The logs are in {folder / 'suite' / 'logs'}", soft_wrap=True)
    sys.exit(1)


async def _run(demo: Demo[Truth], folder: Path, console: Console) -> None:
    """Starts the suite on free ports, runs the steps, and stops the suite."""
    began = time.monotonic()
    console.print(Panel.fit(f"[bold]Sightline[/] {demo.task}, all on this machine"))
    _title(console, "The suite: nats-server, three services, their workers, the gateway")
    stack = Stack(folder / "suite", base_port=0, on_death=lambda died: print_death(console, died))
    try:
        await start(stack, console)
        with Client(stack.addresses, Credentials(), progress=progress_bar) as client:
            async with asyncio.timeout(demo.limit_seconds):
                await asyncio.to_thread(_steps, demo, client, folder, console)
    except TimeoutError as error:
        raise DemoFailed(f"it did not end within {duration(demo.limit_seconds)}") from error
    finally:
        await stack.stop()
    console.print(f"\n[bold green]✓[/] done in {duration(time.monotonic() - began)}")


def _steps(demo: Demo[Truth], client: Client, folder: Path, console: Console) -> None:
    """Register, train, evaluate, predict; DemoFailed if the goal or the budget is missed."""
    _title(console, f"Register: {demo.images}")
    train, test = demo.write(folder / "images")
    for part, made in (("train", train), ("test", test)):
        _register(client, f"{demo.name}-{part}", made, console)
    _title(console, f"Train: at most {duration(demo.budget_seconds)} of compute")
    training = client.models.train(
        demo.name,
        dataset=f"{demo.name}-train",
        budget=demo.budget_seconds,
        hyperparameters=Hyperparameters(resolution=demo.resolution),
    )
    model = training.wait()
    _print_training(console, model, start_of(client.models.trials(model)))
    _title(console, "Evaluate: on images that training never saw")
    evaluation = client.evaluations.create(model, "held-out", dataset=f"{demo.name}-test")
    print_performance(evaluation.performance)
    _title(console, "Predict")
    sheet = _predict(demo, client, test, evaluation)
    console.print(
        f"{counted(demo.shown, 'prediction')} drawn in [bold]{escape(str(sheet.resolve()))}[/]", soft_wrap=True
    )
    judge(demo.budget_seconds, demo.goal, model, evaluation)


def _register(client: Client, name: str, made: ImageSet[Truth], console: Console) -> None:
    ready = client.datasets.register(name, coco=made.coco)
    found = f"{counted(ready.error_count, 'error')}, {counted(ready.warning_count, 'warning')}"
    categories = counted(ready.category_count or 0, "category", "categories")
    boxes = f"{counted(ready.annotation_count or 0, 'box', 'boxes')}, " if ready.kind == DatasetKind.DETECTION else ""
    console.print(f"{ready.name}: {counted(ready.image_count or 0, 'image')}, {boxes}{categories}, {found}")
    codes = Counter(finding.code for finding in client.datasets.findings(ready))
    for code, count in codes.most_common():
        console.print(f"  {count} × {code}", style="dim")


def start_of(trials: Sequence[Trial]) -> str:
    """The networks of the first trial that succeeded, and where their weights came from; empty if none did."""
    for trial in trials:
        if source := trial.message.weights_source:
            origin = trial_pb2.Trial.WeightsSource.Name(source).lower()
            return f"{', '.join(trial.recipe.backbones)}, weights from: {origin}"
    return ""


def _print_training(console: Console, model: Model, start: str) -> None:
    """Prints what the budget was spent on."""
    charged = [entry for entry in model.ledger if entry.charged]
    trials = counted(len({entry.trial for entry in charged}), "trial")
    entries = counted(len(charged), "entry", "entries")
    reason = (model.stop_reason or "").lower().replace("_", " ")
    rows = [
        ("budget", duration(model.budget)),
        ("charged", f"{duration(model.cost)} for {trials}, in {entries} of the ledger"),
        ("stop reason", reason),
        ("started from", start),
        *(("note", f"[yellow]{escape(warning)}[/]") for warning in model.warnings),
    ]
    console.print(facts(rows))


def _predict(demo: Demo[Truth], client: Client, test: ImageSet[Truth], evaluation: Evaluation) -> Path:
    """Predicts a random sample of the test set; returns the sheet with all predictions."""
    files = random.Random(1).sample(sorted(test.truth), demo.shown)  # noqa: S311 - a sample is no secret
    results: list[tuple[Path, Prediction, Truth]] = []
    for file, prediction in zip(files, client.predict_many(demo.name, files), strict=True):
        if prediction.error:
            raise prediction.error
        results.append((file, prediction, test.truth[file]))
    sheet = FOLDER / demo.sheet_file
    demo.sheet(results, evaluation.performance).save(sheet)
    return sheet


def judge(budget_seconds: int, goal: Goal, model: Model, evaluation: Evaluation) -> None:
    """DemoFailed if the budget was exceeded, the ledger does not add up, or the goal was missed."""
    charged = model.cost.total_seconds()
    ledger = sum(entry.duration.total_seconds() for entry in model.ledger if entry.charged)
    reached = goal.score(evaluation.performance)
    if charged > budget_seconds:
        raise DemoFailed(f"{charged:.1f} s were charged, more than the budget of {budget_seconds} s")
    if abs(charged - ledger) > 0.01:  # seconds, for rounding
        raise DemoFailed(f"the ledger adds up to {ledger:.2f} s, but {charged:.2f} s were charged")
    if reached < goal.least:
        raise DemoFailed(f"{goal.metric} is {percent(reached)}, less than {percent(goal.least)}")


def _title(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"), width=min(console.width, 80))


def _remove(folder: Path) -> None:
    """Removes the demo's suite and images; the sheet stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
