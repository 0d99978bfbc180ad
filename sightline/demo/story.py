"""What every demo tells: real images are registered, trained on within a budget, measured, and predicted.

The suite runs on this machine alone, and everything goes through the same code as the commands'.
"""

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
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
from sightline.cli.failures import report
from sightline.cli.formats import percent
from sightline.cli.quality import print_performance
from sightline.cli.up import print_death, start
from sightline.client.client import Client
from sightline.client.credentials import Credentials
from sightline.client.errors import SightlineError
from sightline.client.plurals import counted
from sightline.client.quantities import duration
from sightline.client.results.evaluation import Evaluation
from sightline.client.results.kinds import DatasetKind
from sightline.client.results.model import Model
from sightline.client.results.performance import Performance
from sightline.client.results.prediction import Prediction
from sightline.demo.digits import DigitsMissing, ImageSet
from sightline.local.claims import StackError
from sightline.local.stack import Stack

FOLDER = Path("demo")
Truth = TypeVar("Truth")
Answers = Sequence[tuple[Path, Prediction, Truth]]  # images, what the model sees, and what is true


class DemoFailed(Exception):
    """The suite works, but not as well as the demo promises."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What training must reach on images that it never saw."""

    metric: str  # in words
    score: Callable[[Performance], float]
    least: float


@dataclass(frozen=True, slots=True)
class Story(Generic[Truth]):
    """What a demo shows."""

    name: str  # of the model; the datasets are `<name>-train` and `<name>-test`
    claim: str  # what Sightline does in it
    images: str  # which these are
    write: Callable[[Path], tuple[ImageSet[Truth], ImageSet[Truth]]]  # training and test set into a folder
    budget_seconds: int
    limit_seconds: float  # then something is stuck
    promise: Promise
    shown: int  # images on the picture
    sheet: Callable[[Answers[Truth], Performance], Image.Image]
    picture: str  # the file in `demo` that it is written to


def tell(story: Story[Truth]) -> None:
    """Runs a demo; exits with 1 and the place of the logs if something fails."""
    console = output()
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    try:
        asyncio.run(_run(story, folder, console))
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
    notes().print(f"The logs lie in {folder / 'suite' / 'logs'}", soft_wrap=True)
    sys.exit(1)


async def _run(story: Story[Truth], folder: Path, console: Console) -> None:
    """Starts the suite on free ports, tells the story, and stops the suite."""
    began = time.monotonic()
    console.print(Panel.fit(f"[bold]Sightline[/] {story.claim}, on this machine alone"))
    _chapter(console, "The suite: nats-server, three services, two workers")
    stack = Stack(folder / "suite", base_port=0, on_death=lambda died: print_death(console, died))
    try:
        await start(stack, console)
        with Client(stack.addresses, Credentials(), progress=progress_bar) as client:
            async with asyncio.timeout(story.limit_seconds):
                await asyncio.to_thread(_chapters, story, client, folder, console)
    except TimeoutError as error:
        raise DemoFailed(f"it has not ended after {duration(story.limit_seconds)}") from error
    finally:
        await stack.stop()
    console.print(f"\n[bold green]✓[/] all of it in {duration(time.monotonic() - began)}")


def _chapters(story: Story[Truth], client: Client, folder: Path, console: Console) -> None:
    """Register, train, evaluate, predict; DemoFailed if a promise is broken."""
    _chapter(console, f"Register: {story.images}")
    train, test = story.write(folder / "images")
    for part, made in (("train", train), ("test", test)):
        _register(client, f"{story.name}-{part}", made, console)
    _chapter(console, f"Train: at most {duration(story.budget_seconds)} of compute")
    training = client.models.train(story.name, dataset=f"{story.name}-train", budget=story.budget_seconds)
    model = training.wait()
    _print_training(console, model)
    _chapter(console, "Evaluate: on the images that training never saw")
    evaluation = client.evaluations.create(model, "held-out", dataset=f"{story.name}-test")
    print_performance(evaluation.performance)
    _chapter(console, "Predict")
    sheet = _predict(story, client, test, evaluation)
    console.print(
        f"{counted(story.shown, 'prediction')} drawn in [bold]{escape(str(sheet.resolve()))}[/]", soft_wrap=True
    )
    judge(story.budget_seconds, story.promise, model, evaluation)


def _register(client: Client, name: str, made: ImageSet[Truth], console: Console) -> None:
    ready = client.datasets.register(name, coco=made.coco)
    found = f"{counted(ready.error_count, 'error')}, {counted(ready.warning_count, 'warning')}"
    categories = counted(ready.category_count or 0, "category", "categories")
    boxes = f"{counted(ready.annotation_count or 0, 'box', 'boxes')}, " if ready.kind == DatasetKind.DETECTION else ""
    console.print(f"{ready.name}: {counted(ready.image_count or 0, 'image')}, {boxes}{categories}, {found}")


def _print_training(console: Console, model: Model) -> None:
    """Where the budget went."""
    charged = [entry for entry in model.ledger if entry.charged]
    trials = counted(len({entry.trial for entry in charged}), "trial")
    entries = counted(len(charged), "entry", "entries")
    reason = (model.stop_reason or "").lower().replace("_", " ")
    rows = [
        ("budget", duration(model.budget)),
        ("charged", f"{duration(model.cost)} for {trials}, in {entries} of the ledger"),
        ("ended", reason),
        *(("note", f"[yellow]{escape(warning)}[/]") for warning in model.warnings),
    ]
    console.print(facts(rows))


def _predict(story: Story[Truth], client: Client, test: ImageSet[Truth], evaluation: Evaluation) -> Path:
    """Asks for images drawn at random from the test set; returns the picture with all answers."""
    files = random.Random(1).sample(sorted(test.truth), story.shown)  # noqa: S311 - a sample is no secret
    answers: list[tuple[Path, Prediction, Truth]] = []
    for file, prediction in zip(files, client.predict_many(story.name, files), strict=True):
        if prediction.error:
            raise prediction.error
        answers.append((file, prediction, test.truth[file]))
    sheet = FOLDER / story.picture
    story.sheet(answers, evaluation.performance).save(sheet)
    return sheet


def judge(budget_seconds: int, promise: Promise, model: Model, evaluation: Evaluation) -> None:
    """DemoFailed if the budget was exceeded, the ledger does not add up, or too little was learnt."""
    charged = model.cost.total_seconds()
    ledger = sum(entry.duration.total_seconds() for entry in model.ledger if entry.charged)
    reached = promise.score(evaluation.performance)
    if charged > budget_seconds:
        raise DemoFailed(f"{charged:.1f} s were charged, more than the budget of {budget_seconds} s")
    if abs(charged - ledger) > 0.01:  # seconds, for rounding
        raise DemoFailed(f"the ledger adds up to {ledger:.2f} s, but {charged:.2f} s were charged")
    if reached < promise.least:
        raise DemoFailed(f"{promise.metric} is {percent(reached)}, less than {percent(promise.least)}")


def _chapter(console: Console, title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="dim"), width=min(console.width, 80))


def _remove(folder: Path) -> None:
    """The demo's suite and images; the picture stays."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder)
